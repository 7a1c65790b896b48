//! Order within a topic: what a live event is, seen from the last one (ARCHITECTURE.md, guarantee 3).

use natter_shared::position::Position;

/// The last position seen of a topic.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor(pub(super) Position);

/// What an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The next one.
    Next,
    /// Seen already, or of an epoch that is over.
    Old,
    /// Something before it was missed.
    Gap,
    /// The first of its topic that is still stored: whether it is the next one depends on what the
    /// log has evicted.
    First,
    /// The first seen of a new epoch.
    NewEpoch,
}

impl Cursor {
    /// Judges an event at `position` whose topic's event before it is at `previous` (0: none).
    pub(super) fn judge(self, position: Position, previous: u64) -> Verdict {
        match position.epoch.cmp(&self.0.epoch) {
            std::cmp::Ordering::Less => Verdict::Old,
            std::cmp::Ordering::Greater => Verdict::NewEpoch,
            std::cmp::Ordering::Equal if position.seq <= self.0.seq => Verdict::Old,
            std::cmp::Ordering::Equal if previous > self.0.seq => Verdict::Gap,
            // An older one that is stored shows that nothing after it was evicted; none shows nothing.
            std::cmp::Ordering::Equal if previous == 0 && self.0.seq > 0 => Verdict::First,
            std::cmp::Ordering::Equal => Verdict::Next,
        }
    }
}

#[cfg(test)]
mod tests {
    use natter_shared::position::Epoch;

    use super::*;

    #[test]
    fn a_gap_is_one_iff_the_event_before_was_not_seen() {
        let at = |epoch, seq| Position::new(Epoch(epoch), seq);
        let cursor = Cursor(at(2, 10));
        assert_eq!(cursor.judge(at(2, 15), 10), Verdict::Next);
        assert_eq!(cursor.judge(at(2, 15), 7), Verdict::Next, "the fence lies after the topic's last event");
        assert_eq!(cursor.judge(at(2, 15), 0), Verdict::First, "the one before was evicted, or what was missed");
        assert_eq!(Cursor(at(2, 0)).judge(at(2, 15), 0), Verdict::Next);
        assert_eq!(cursor.judge(at(2, 15), 11), Verdict::Gap);
        assert_eq!(cursor.judge(at(2, 10), 9), Verdict::Old);
        assert_eq!(cursor.judge(at(1, 99), 98), Verdict::Old);
        assert_eq!(cursor.judge(at(3, 1), 0), Verdict::NewEpoch);
    }
}
