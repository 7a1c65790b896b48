//! Every limit at its edge, and frames cut at every byte.
#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use tokio_tungstenite::tungstenite::protocol::frame::{
    Frame, FrameHeader,
    coding::{Control, Data, OpCode},
};

use super::*;

fn limits(change: impl FnOnce(&mut Limits)) -> Arc<ReadLimits> {
    let mut limits = Limits { fragments: 4, frames_per_second: 10, frames_burst: 8, ..Limits::default() };
    change(&mut limits);
    Arc::new(ReadLimits::new(&limits))
}

fn frame(opcode: OpCode, fin: bool, len: usize) -> Vec<u8> {
    let header = FrameHeader { opcode, is_final: fin, mask: Some([1, 2, 3, 4]), ..FrameHeader::default() };
    let frame = Frame::from_payload(header, vec![b'x'; len].into());
    let mut out = Vec::new();
    frame.format(&mut out).unwrap();
    out
}

fn text(fin: bool, len: usize) -> Vec<u8> {
    frame(OpCode::Data(Data::Text), fin, len)
}

fn more(fin: bool, len: usize) -> Vec<u8> {
    frame(OpCode::Data(Data::Continue), fin, len)
}

fn ping() -> Vec<u8> {
    frame(OpCode::Control(Control::Ping), true, 3)
}

/// What a fresh meter says of all of it at once, and that it says the same byte by byte.
fn verdict(limits: &Arc<ReadLimits>, largest: usize, bytes: &[u8]) -> Option<Breach> {
    let now = Instant::now();
    let mut at_once = Meter::new(Arc::clone(limits), largest, now);
    let good = at_once.pass(bytes, now);
    let mut by_byte = Meter::new(Arc::clone(limits), largest, now);
    let passed = bytes.iter().take_while(|byte| by_byte.pass(&[**byte], now) == 1).count();
    assert_eq!((at_once.breach(), good), (by_byte.breach(), passed));
    assert_eq!(good == bytes.len(), at_once.breach().is_none());
    at_once.breach()
}

#[test]
fn frames_at_the_edge_control_frames_and_fragments_counted() {
    let limits = limits(|_| ());
    let round = [ping(), text(false, 3), more(false, 0), ping(), more(true, 1), text(true, 9)];
    let sent = |frames: usize| round.iter().cycle().take(frames).flatten().copied().collect::<Vec<u8>>();
    assert_eq!(verdict(&limits, 100, &sent(8)), None);
    assert_eq!(verdict(&limits, 100, &sent(9)), Some(Breach::FramesPerSecond));
    let start = Instant::now();
    let mut meter = Meter::new(limits, 100, start);
    assert_eq!(meter.pass(&sent(8), start), sent(8).len());
    let later = start + Duration::from_millis(100);
    assert_eq!(meter.pass(&ping(), later), ping().len(), "ten in a second");
    assert_eq!(meter.pass(&ping(), later), ping().len() - 3 - 1, "no whole header of the one too many");
    assert_eq!(meter.breach(), Some(Breach::FramesPerSecond));
    assert_eq!(meter.pass(&ping(), later + Duration::from_mins(1)), 0, "it is over");
}

#[test]
fn bytes_at_the_edge() {
    let limits = limits(|limits| (limits.bytes_per_second, limits.bytes_burst) = (1000, 5000));
    let start = Instant::now();
    let mut meter = Meter::new(limits, 10_000, start);
    let message = text(true, 4992);
    assert_eq!((message.len(), meter.pass(&message, start)), (5000, 5000));
    let later = start + Duration::from_millis(50);
    assert_eq!(meter.pass(&text(true, 44), later), 50);
    assert_eq!(meter.pass(&[0], later), 0);
    assert_eq!(meter.breach(), Some(Breach::BytesPerSecond));
}

#[test]
fn fragments_at_the_edge_empty_ones_counted() {
    let limits = limits(|_| ());
    let fragments = |count: usize| [text(false, 2), more(false, 0).repeat(count - 2), more(true, 2)].concat();
    assert_eq!(verdict(&limits, 100, &fragments(4)), None);
    assert_eq!(verdict(&limits, 100, &fragments(5)), Some(Breach::Fragments));
    assert_eq!(verdict(&limits, 100, &fragments(4).repeat(2)), None, "each message for itself");
    assert_eq!(verdict(&limits, 100, &[text(false, 2), ping().repeat(6), more(true, 2)].concat()), None, "control frames are no fragments");
}

#[test]
fn a_message_at_its_largest_by_what_its_headers_say() {
    let limits = limits(|_| ());
    assert_eq!(verdict(&limits, 100, &text(true, 100)), None);
    assert_eq!(verdict(&limits, 100, &text(true, 101)), Some(Breach::FrameBytes));
    assert_eq!(verdict(&limits, 100, &[text(false, 50), ping(), more(true, 50)].concat()), None);
    assert_eq!(verdict(&limits, 100, &[text(false, 50), ping(), more(true, 51)].concat()), Some(Breach::FrameBytes));
    // Nothing of it has to come.
    let endless = [0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4];
    assert_eq!(verdict(&limits, 100, &endless), Some(Breach::FrameBytes));
    let ping_of_126 = frame(OpCode::Control(Control::Ping), true, 126);
    assert_eq!(verdict(&limits, 100, &ping_of_126), Some(Breach::FrameBytes));
}

#[test]
fn a_message_that_drips_has_its_time_and_no_more() {
    let limits = limits(|limits| limits.assembly_timeout = Duration::from_secs(10));
    let (start, second) = (Instant::now(), Duration::from_secs(1));
    let drip = |until: Duration| {
        let mut meter = Meter::new(Arc::clone(&limits), 100, start);
        assert_eq!(meter.pass(&text(false, 5), start), 11);
        // Signs of life do not help.
        assert!(meter.pass(&ping(), start + 5 * second) > 0 || until < 5 * second);
        meter.pass(&more(true, 5), start + until);
        meter.breach()
    };
    assert_eq!(drip(10 * second), None);
    assert_eq!(drip(10 * second + Duration::from_millis(1)), Some(Breach::AssemblyTimeout));
    // A single frame, too; and whole messages however far apart.
    let mut meter = Meter::new(Arc::clone(&limits), 100, start);
    let frame = text(true, 50);
    assert_eq!(meter.pass(&frame[..20], start), 20);
    assert_eq!(meter.pass(&frame[20..], start + 10 * second), frame.len() - 20);
    assert_eq!(meter.pass(&frame, start + 60 * second), frame.len());
    assert_eq!(meter.pass(&frame[..20], start + 61 * second), 20);
    assert_eq!(meter.pass(&frame[20..21], start + 72 * second), 0);
    assert_eq!(meter.breach(), Some(Breach::AssemblyTimeout));
}

#[test]
fn idle_connections_hold_little_for_it() {
    assert!(size_of::<Meter>() <= 120, "{}", size_of::<Meter>());
}

proptest! {
    #[test]
    fn any_bytes_are_followed_alike_however_they_are_cut(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        verdict(&limits(|limits| limits.frames_burst = 50), 200, &bytes);
    }

    #[test]
    fn whole_frames_leave_nothing_open(lens in prop::collection::vec(0_usize..70_000, 1..5)) {
        let now = Instant::now();
        let mut meter = Meter::new(limits(|_| ()), 1 << 20, now);
        for len in lens {
            meter.pass(&text(true, len), now);
            prop_assert!(meter.message.is_none() && meter.payload_left == 0 && meter.header_len == 0);
        }
    }
}
