//! What must hold for any bytes from outside. Each function panics if it does not; the fuzz targets
//! (`fuzz/`) and property tests both call them.

use crate::{
    frame::ClientFrame,
    id::{RoomName, UserId, open_group},
    subject::{Shards, Space, Topic, parse, parse_stream_name, stream_name, subject},
};

/// Frames of clients: what is read is written as what reads the same; what is not has a short reason.
pub fn client_frame(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match ClientFrame::parse(text) {
        Ok(frame) => {
            let written = serde_json::to_string(&frame).unwrap_or_default();
            let again = ClientFrame::parse(&written).map(|again| (again.id(), serde_json::to_string(&again).unwrap_or_default()));
            assert!(matches!(&again, Ok(same) if *same == (frame.id(), written)), "{again:?}");
        }
        Err(unreadable) => {
            let _ = unreadable.error.code();
            assert!(unreadable.error.to_string().len() <= 2 * text.len() + 512, "longer than what it is about: {}", unreadable.error);
        }
    }
}

/// Subjects: nothing of an id gets into one, and what is built or read is read back the same.
pub fn subjects(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let user = UserId::new(text).ok().map(|user| Topic::User(user.key()));
    let room = RoomName::room(text).ok().map(|room| Topic::Group(open_group(&room)));
    let built = user.into_iter().chain(room).zip(Shards::new(64)).map(|(topic, shards)| (Space::Event, shards.of(topic), topic));
    for (space, shard, topic) in built.chain(parse(text)) {
        let built = subject(space, shard, topic);
        assert!(built.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.') && !built.contains(".."), "{built}");
        assert_eq!(parse(&built), Some((space, shard, topic)));
    }
    if let Some((shard, epoch)) = parse_stream_name(text) {
        assert_eq!(parse_stream_name(&stream_name(shard, epoch)), Some((shard, epoch)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::Index};

    /// Any bytes; or something that is read, with a few bytes changed.
    fn bytes(good: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
        let spoilt =
            (prop::sample::select(good), prop::collection::vec((any::<Index>(), any::<u8>()), 0..4)).prop_map(|(good, changes)| {
                let mut data = good.as_bytes().to_vec();
                for (at, byte) in changes {
                    let at = at.index(data.len());
                    // ASCII mostly, or hardly anything is text.
                    data[at] = if byte < 250 { byte & 0x7f } else { byte };
                }
                data
            });
        prop_oneof![prop::collection::vec(any::<u8>(), 0..300), spoilt]
    }

    const FRAMES: &[&str] = &[
        r#"{"type":"connect","id":1,"token":"a.b.c","resume":{"groups":{"lobby":"1.2"},"inbox":"1.2"}}"#,
        r#"{"type":"send","id":7,"group":"lobby","nonce":"01890a5d-ac96-774b-bcce-b302099a8057","body":"\u00e4","data":{"a":[1e9,null]}}"#,
        r#"{"type":"notify","id":7,"to":{"user":"ann"},"nonce":"01890a5d-ac96-774b-bcce-b302099a8057","body":""}"#,
        r#"{"type":"history","id":7,"group":"01890a5d-ac96-774b-bcce-b302099a8057","before":"1.2","limit":5}"#,
        r#"{"type":"pong"}"#,
    ];
    const SUBJECTS: &[&str] =
        &["ann", "live.7.g.01890a5dac96774bbcceb302099a8057", "ev.0.u.01890a5dac96774bbcceb302099a8057", "EVENTS_5_e17"];

    proptest! {
        #[test]
        fn any_bytes_for_a_client_frame(data in bytes(FRAMES)) {
            super::client_frame(&data);
        }

        #[test]
        fn any_bytes_for_subjects(data in bytes(SUBJECTS)) {
            super::subjects(&data);
        }
    }

    #[test]
    fn what_is_changed_is_readable_as_it_is() {
        for good in FRAMES {
            assert!(crate::frame::ClientFrame::parse(good).is_ok(), "{good}");
        }
        assert!(SUBJECTS.iter().filter(|good| crate::subject::parse(good).is_some()).count() >= 2);
    }
}
