//! What is read for those who come back, and how often.

use std::sync::atomic::Ordering::Relaxed;

use futures::{FutureExt, future::join_all};
use natter_shared::{frame::CloseCode, position::Epoch};

use super::*;
use crate::{
    delivery::ring::{Entry, Ring},
    socket::OutletState,
};

fn say(stage: &Stage, bodies: std::ops::Range<usize>) -> Vec<Position> {
    bodies.map(|number| stage.say(&format!("say {number}."))).collect()
}

fn reads(stage: &Stage) -> (usize, usize) {
    (stage.script.sql_reads.load(Relaxed), stage.script.stream_reads.load(Relaxed))
}

/// So many come back at once, with what they have.
async fn come_back(stage: &Stage, count: usize, after: impl Fn(usize) -> Position) -> Vec<Member> {
    let known = stage.script.fence_now();
    let mut members = join_all((0..count).map(|number| {
        let name = format!("member-{number}");
        async move { Member::new(&name).await }
    }))
    .await;
    let joins = members.iter_mut().enumerate().map(|(number, member)| member.join(stage, Start::After(after(number)), known));
    assert!(join_all(joins).await.iter().all(|joined| joined.complete));
    members
}

#[tokio::test]
async fn what_a_whole_group_missed_is_read_once() {
    for (missed, most) in [(10, (0, 11)), (300, (1, 17))] {
        let stage = Stage::new().await;
        let said = say(&stage, 0..missed);
        // They are not all at the same place.
        let mut members = come_back(&stage, 100, |number| Position::new(said[0].epoch, said[0].seq + number as u64 % 3)).await;
        for (number, member) in members.iter_mut().enumerate() {
            let told = member.until(&format!("say {}.", missed - 1)).await;
            assert_eq!(told.matches("say ").count(), missed - 1 - number % 3, "member {number}");
        }
        let (sql, stream) = reads(&stage);
        assert!(sql <= most.0 && stream <= most.1, "{missed} missed: {sql} calls of SQL, {stream} events of the stream");
    }
}

#[tokio::test]
async fn who_was_removed_meanwhile_is_told_what_came_before_and_the_end() {
    let stage = Stage::new().await;
    let said = say(&stage, 0..1);
    stage.script.store(Topic::Group(group()), &removal("ben"), false);
    say(&stage, 1..2);
    let meta = GroupMeta { kind: GroupKind::Group, display_name: "lobby".into(), at: Position::START };
    let (mut ann, mut ben) = (Member::new("ann").await, Member::new("ben").await);
    let before = Position::new(said[0].epoch, said[0].seq - 1);
    let join = |member: &Member, telling: Telling| {
        let (hub, session, meta) = (Arc::clone(&stage.hub), Arc::clone(&member.session), meta.clone());
        async move { hub.join_group(&session, group(), &meta, Start::After(before), before, telling).await }
    };
    let (anns, bens) = tokio::join!(join(&ann, Telling::Nothing), join(&ben, Telling::End));
    assert!(anns.unwrap().complete);
    assert!(matches!(bens, Err(JoinError::NotMember(at)) if at.seq == said[0].seq + 1), "{bens:?}");
    ann.until("say 1.").await;
    let told = ben.said().await;
    assert!(told.contains("say 0.") && !told.contains("say 1."), "{told}");
    assert!(told.find("say 0.") < told.find(r#""change":"left","user":"ben""#), "the end, and last: {told}");
    // Who is told by the answer alone hears nothing of a membership that is over; from the ring as well.
    for telling in [Telling::Nothing, Telling::End] {
        let mut bens = Member::new("ben").await;
        let end = join(&bens, telling.clone()).await;
        assert!(matches!(end, Err(JoinError::NotMember(_))), "{end:?}");
        let told = bens.said().await;
        assert_eq!((told.contains("say 0."), told.contains("left")), (!telling.is_nothing(), !telling.is_nothing()), "{told}");
    }
}

#[tokio::test]
async fn the_ring_answers_from_its_floor_on_and_not_before() {
    let stage = Stage::with(&Limits { ring_events_per_group: 3, ..Limits::default() }).await;
    let mut ann = stage.member("ann").await;
    let said = say(&stage, 0..5);
    ann.until("say 4.").await;
    // Of five it keeps three: its floor is the second.
    come_back(&stage, 5, |_| said[1]).await;
    assert_eq!(reads(&stage), (0, 0));
    let mut ben = come_back(&stage, 1, |_| said[0]).await.remove(0);
    let told = ben.until("say 4.").await;
    assert_eq!(told.matches("say ").count(), 4);
    assert!(reads(&stage).1 > 0);
}

#[tokio::test]
async fn what_the_stream_has_evicted_comes_from_sql_or_is_declared() {
    for is_sql_incomplete in [false, true] {
        let stage = Stage::new().await;
        let said = say(&stage, 0..3);
        stage.script.evict();
        stage.script.is_sql_incomplete.store(is_sql_incomplete, Relaxed);
        let known = stage.script.fence_now();
        let mut ann = Member::new("ann").await;
        let joined = ann.join(&stage, Start::After(said[0]), known).await;
        assert_eq!(joined.complete, !is_sql_incomplete);
        stage.say("then");
        let told = ann.until("then").await;
        assert_eq!(told.matches("say ").count(), if is_sql_incomplete { 0 } else { 2 });
        assert_eq!(told.contains("\"reset\""), is_sql_incomplete, "{told}");
        assert_eq!(reads(&stage).0, 1);
    }
}

#[tokio::test]
async fn more_than_a_session_may_be_told_is_declared_and_others_have_no_part_in_it() {
    let stage = Stage::with(&Limits { recovery_events: 10, ..Limits::default() }).await;
    let said = say(&stage, 0..30);
    let known = stage.script.fence_now();
    for (after, complete) in [(said[19], true), (said[18], false)] {
        let mut member = Member::new("ann").await;
        assert_eq!(member.join(&stage, Start::After(after), known).await.complete, complete);
    }
}

/// A client that is told so loads the group anew, from SQL.
#[tokio::test]
async fn what_is_too_much_is_declared_once_sql_has_it_and_all_that_follows_is_told() {
    let stage = Stage::new().await;
    let mut ann = stage.member("ann").await;
    let said = say(&stage, 0..100);
    ann.until("say 99.").await;
    *stage.script.sql_is_at.lock() = Some(said[98]);
    let mut bob = Member::who_may_miss(4000, "bob", Protocol::V1).await;
    bob.session.outlet.release(Bytes::new());
    let (hub, session, known) = (Arc::clone(&stage.hub), Arc::clone(&bob.session), said[99]);
    let joining = tokio::spawn(async move {
        let meta = GroupMeta { kind: GroupKind::Group, display_name: "lobby".into(), at: Position::START };
        hub.join_group(&session, group(), &meta, Start::After(said[0]), known, Telling::Nothing).await.unwrap()
    });
    stage.until("a question to SQL", || *stage.script.asked_behind.lock() == [known]).await;
    assert_eq!(bob.said().await, "");
    say(&stage, 100..105);
    *stage.script.sql_is_at.lock() = None;
    let joined = joining.await.unwrap();
    assert_eq!((joined.position, joined.complete), (known, false));
    let told = bob.until("say 104.").await;
    assert!(told.find("\"reset\"") < told.find("say 100."), "{told}");
    assert_eq!(told.matches("say ").count(), 5, "{told}");
}

/// The same of an inbox.
#[tokio::test]
async fn what_is_missing_of_an_inbox_is_declared_once_sql_has_it() {
    let stage = Stage::new().await;
    let mut bob = Member::new("bob").await;
    let before = stage.script.fence_now();
    let missed = stage.script.store(Topic::User(bob.session.key), &notification("bob", "missed"), false);
    stage.script.evict();
    stage.script.is_sql_incomplete.store(true, Relaxed);
    *stage.script.sql_is_at.lock() = Some(before);
    let (hub, session) = (Arc::clone(&stage.hub), Arc::clone(&bob.session));
    let joining = tokio::spawn(async move { hub.join_inbox(&session, Start::After(before)).await.unwrap() });
    stage.until("a question to SQL", || *stage.script.asked_behind.lock() == [missed]).await;
    assert_eq!(bob.said().await, "");
    stage.script.store(Topic::User(bob.session.key), &notification("bob", "then"), false);
    *stage.script.sql_is_at.lock() = None;
    assert!(!joining.await.unwrap().complete);
    let told = bob.until("then").await;
    assert!(told.contains("\"reset\"") && !told.contains("missed"), "{told}");
}

/// More is said each time that SQL is asked than its connection may be told at once.
#[tokio::test]
async fn who_cannot_be_brought_up_to_a_group_hears_what_comes_next() {
    let stage = Stage::new().await;
    let _ann = stage.member("ann").await;
    let said = say(&stage, 0..10);
    let mut bob = Member::who_may_miss(1, "bob", Protocol::V1).await;
    bob.session.outlet.release(Bytes::new());
    let known = stage.script.fence_now();
    let speaking = async {
        loop {
            stage.say("and on");
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    };
    let joined = tokio::select! {
        joined = bob.join(&stage, Start::After(said[0]), known) => joined,
        () = speaking => panic!("it speaks for ever"),
    };
    assert!(!joined.complete);
    assert_eq!(stage.script.asked_behind.lock().last(), Some(&joined.position), "it is declared where live delivery begins");
    stage.say("the last");
    bob.until("the last").await;
}

/// `ready` has the position: its client sees for itself whether what it loads has come so far.
#[tokio::test]
async fn who_signs_in_and_has_missed_too_much_does_not_wait_for_sql() {
    let stage = Stage::new().await;
    let mut ann = stage.member("ann").await;
    let said = say(&stage, 0..100);
    ann.until("say 99.").await;
    stage.script.is_sql_held.store(true, Relaxed);
    let mut bob = Member::who_may_miss(4000, "bob", Protocol::V1).await;
    let joined = tokio::time::timeout(PATIENCE, bob.join(&stage, Start::After(said[0]), said[99])).await.expect("without SQL");
    assert_eq!((joined.position, joined.complete), (said[99], false));
    bob.session.outlet.release(Bytes::new());
    stage.say("and on");
    let told = bob.until("and on").await;
    assert_eq!((told.matches("\"reset\"").count(), told.matches("say ").count()), (1, 0), "{told}");
}

#[tokio::test]
async fn who_comes_to_a_delivery_that_is_behind_is_told_nothing_from_before_the_membership() {
    let stage = Stage::new().await;
    let mut ann = stage.member("ann").await;
    stage.say("hello");
    ann.until("hello").await;
    let known = stage.script.store(Topic::Group(group()), &message("before ben"), true);
    let mut ben = Member::new("ben").await;
    assert_eq!(ben.join(&stage, Start::Now, known).await.position, known);
    stage.say("after");
    let (anns, bens) = (ann.until("after").await, ben.until("after").await);
    assert!(anns.contains("before ben") && !bens.contains("before ben"), "{bens}");
}

/// Where SQL is behind, more is read than is to be told: to look for the end of a membership.
#[tokio::test]
async fn what_lies_before_a_sessions_position_takes_no_room_of_what_it_missed_but_may_end_its_membership() {
    let stage = Stage::with(&Limits { recovery_events: 10, ..Limits::default() }).await;
    let before = say(&stage, 0..5);
    let end = stage.script.store(Topic::Group(group()), &removal("bob"), false);
    let said = say(&stage, 5..17);
    for (after, complete) in [(said[1], true), (said[0], false)] {
        let mut ann = Member::new("ann").await;
        assert_eq!(ann.join(&stage, Start::After(after), before[0]).await.complete, complete);
    }
    let bob = Member::new("bob").await;
    let meta = GroupMeta { kind: GroupKind::Group, display_name: "lobby".into(), at: Position::START };
    let joined = stage.hub.join_group(&bob.session, group(), &meta, Start::After(said[1]), before[0], Telling::Nothing).await;
    assert!(matches!(joined, Err(JoinError::NotMember(at)) if at == end), "{joined:?}");
}

/// It was written once; a join that gives up then must not be asked for again over the same connection.
#[tokio::test]
async fn who_was_told_what_was_missed_and_cannot_be_live_comes_back() {
    let stage = Stage::new().await;
    let said = say(&stage, 0..300);
    stage.script.is_sql_held.store(true, Relaxed);
    let mut bob = Member::new("bob").await;
    let (hub, session, known) = (Arc::clone(&stage.hub), Arc::clone(&bob.session), stage.script.fence_now());
    let joining = tokio::spawn(async move {
        let meta = GroupMeta { kind: GroupKind::Group, display_name: "lobby".into(), at: Position::START };
        hub.join_group(&session, group(), &meta, Start::After(said[0]), known, Telling::Nothing).await.map(drop)
    });
    stage.until("a read", || stage.script.sql_reads.load(Relaxed) > 0).await;
    stage.script.go_deaf();
    stage.until("the end of the group's task", || stage.hub.groups.is_empty()).await;
    stage.script.is_sql_held.store(false, Relaxed);
    bob.until("say 299.").await;
    assert_eq!(bob.session.outlet.state(), OutletState::Open);
    // From here on nothing but time passes.
    tokio::time::pause();
    assert!(matches!(joining.await.unwrap(), Err(JoinError::Unavailable(_))));
    assert_eq!(bob.session.outlet.state(), OutletState::Sealed(CloseCode::TryAgain));
}

/// The list at sign-in had the group, or a join's answer would have: neither is told, nor is the end.
#[tokio::test]
async fn who_was_told_what_was_missed_and_is_no_member_any_more_comes_back() {
    for is_open in [true, false] {
        let stage = Stage::with(&Limits { ring_events_per_group: 3, ..Limits::default() }).await;
        let mut ann = stage.member("ann").await;
        let said = say(&stage, 0..300);
        ann.until("say 299.").await;
        stage.script.is_sql_held.store(true, Relaxed);
        let bob = if is_open { Member::new("bob").await } else { Member::held("bob").await };
        let (hub, session, known) = (Arc::clone(&stage.hub), Arc::clone(&bob.session), said[299]);
        let joining = tokio::spawn(async move {
            let meta = GroupMeta { kind: GroupKind::Group, display_name: "lobby".into(), at: Position::START };
            hub.join_group(&session, group(), &meta, Start::After(said[0]), known, Telling::Nothing).await.map(drop)
        });
        stage.until("a read", || stage.script.sql_reads.load(Relaxed) > 0).await;
        stage.script.store(Topic::Group(group()), &removal("bob"), false);
        say(&stage, 300..310);
        ann.until("say 309.").await;
        stage.script.is_sql_held.store(false, Relaxed);
        let joined = joining.await.unwrap();
        assert_eq!(matches!(joined, Err(JoinError::NotMember(_))), is_open, "{joined:?}");
        assert_eq!(matches!(joined, Err(JoinError::Unavailable(_))), !is_open, "{joined:?}");
        let is = if is_open { OutletState::Sealed(CloseCode::TryAgain) } else { OutletState::Open };
        assert_eq!(bob.session.outlet.state(), is);
    }
}

/// Else its floor would be where it is, and has moved on whenever somebody comes who has read back what was below it.
#[tokio::test]
async fn a_busy_group_is_joined_though_others_have_used_up_the_room() {
    let stage = Stage::with(&Limits { ring_bytes: 131_072, ..Limits::default() }).await;
    let mut full = Ring::new(Position::START, Arc::clone(&stage.hub.ring_budget));
    let (start, entry) = (tokio::time::Instant::now(), |seq| Entry {
        position: Position::new(Epoch(1), seq),
        v1: Bytes::from_static(&[0; 1000]),
        chat: Bytes::new(),
        origin: None,
        removed: None,
    });
    (1..200).for_each(|seq| full.push(entry(seq), start + 2 * Duration::from_secs(seq)));
    let _ann = stage.member("ann").await;
    let said = say(&stage, 0..300);
    let known = stage.script.fence_now();
    let mut bob = Member::new("bob").await;
    let speaking = async {
        for number in 300.. {
            stage.say(&format!("say {number}."));
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    };
    let joined = tokio::select! {
        joined = bob.join(&stage, Start::After(said[0]), known) => joined,
        () = speaking => panic!("it speaks for ever"),
    };
    assert!(joined.complete);
    stage.say("the last");
    let told = bob.until("the last").await;
    let numbers: Vec<usize> = told.split("say ").skip(1).map(|rest| rest.split_once('.').unwrap().0.parse().unwrap()).collect();
    assert!(numbers.len() > 299 && numbers.iter().copied().eq(1..=numbers.len()), "{numbers:?}");
}

/// A group that is busy is behind what is known to be stored, but has it already.
#[tokio::test]
async fn what_has_arrived_is_not_read_back_to_reach_a_position() {
    let stage = Stage::new().await;
    let mut ann = stage.member("ann").await;
    for round in 0..3 {
        // Nothing else runs meanwhile: all of it lies in the subscription, and is more than is ever read back one by one.
        let said = say(&stage, round * 300..(round + 1) * 300);
        assert!(stage.hub.reach(group(), said[299]).now_or_never().is_some());
        ann.until(&format!("say {}.", (round + 1) * 300 - 1)).await;
    }
    assert!(ann.session.pop_notice().is_none(), "the delivery was not lost");
    assert_eq!((reads(&stage), stage.metrics.gaps.get()), ((0, 0), 0));
}

/// Where SQL lists a membership that is over, nothing is read for it; else each sign-in would be refused until SQL knows.
#[tokio::test]
async fn who_is_known_to_be_removed_is_left_out_though_much_was_missed() {
    let stage = Stage::with(&Limits { ring_events_per_group: 3, ..Limits::default() }).await;
    let mut ann = stage.member("ann").await;
    let said = say(&stage, 0..20);
    stage.script.store(Topic::Group(group()), &removal("bob"), false);
    stage.say("and on");
    ann.until("and on").await;
    let bob = Member::held("bob").await;
    let meta = GroupMeta { kind: GroupKind::Group, display_name: "lobby".into(), at: Position::START };
    let joined = stage.hub.join_group(&bob.session, group(), &meta, Start::After(said[0]), said[10], Telling::Nothing).await;
    assert!(matches!(joined, Err(JoinError::NotMember(at)) if at > said[19]), "{joined:?}");
    assert_eq!(reads(&stage), (0, 0));
}

/// Its page has drawn them; SQL does not know which connection sent them.
#[tokio::test]
async fn what_a_chat_room_said_is_not_read_back_to_it() {
    for said_before in [10, 100] {
        let stage = Stage::new().await;
        let mut ann = Member::of("ann", Protocol::ChatRoom).await;
        ann.session.outlet.release(Bytes::new());
        let said: Vec<_> = (0..said_before)
            .map(|number| {
                let own = number % 3 == 0;
                let Event::Message(message) = message(&format!("say {number}.")) else { panic!("a message") };
                let event = Event::Message(Message { origin: own.then_some(ann.session.id), ..message.clone() });
                assert!(!own || ann.session.admit(message.id.into(), &event.encode().unwrap()));
                stage.script.store(Topic::Group(group()), &event, false)
            })
            .collect();
        let known = stage.script.fence_now();
        assert!(ann.join(&stage, Start::After(said[0]), known).await.complete);
        stage.say("the last");
        let told = ann.until("the last").await;
        let others = (1..said_before).filter(|number| number % 3 != 0).map(|number| format!("say {number}."));
        assert_eq!(told.matches("say ").count(), others.clone().count(), "{told}");
        assert!(others.clone().all(|body| told.contains(&body)), "{told}");
        assert_eq!(reads(&stage).0 > 0, said_before == 100);
    }
}

/// Else the group's task would keep it, though nobody counts it as a member.
#[tokio::test]
async fn who_is_live_and_then_found_to_be_no_member_is_taken_out_again() {
    let stage = Stage::new().await;
    let said = say(&stage, 0..10);
    let bob = Member::who_may_miss(1, "bob", Protocol::V1).await;
    bob.session.outlet.release(Bytes::new());
    let meta = GroupMeta { kind: GroupKind::Group, display_name: "lobby".into(), at: Position::START };
    let joining = stage.hub.join_group(&bob.session, group(), &meta, Start::After(said[0]), said[0], Telling::Nothing);
    let speaking = async {
        // More than it may be told, each time; the last time it begins with what comes next, and SQL is asked once more.
        while stage.script.asked_behind.lock().len() < 5 {
            stage.say("too much");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        *stage.script.member_since.lock() = Position::new(Epoch(1), 999_999);
    };
    let (joined, ()) = tokio::join!(joining, speaking);
    assert!(matches!(joined, Err(JoinError::NotMember(_))), "{joined:?}");
    stage.until("it to be let go", || Arc::strong_count(&bob.session) == 1).await;
}
