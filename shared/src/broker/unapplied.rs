//! How much of a shard's log is not in SQL yet, against what the log can hold: what admission goes by,
//! so that nothing is evicted that is not in SQL.
//!
//! A log says its bytes as a whole only. A [`Meter`] remembers how it grew, and so knows the bytes
//! after any position: exactly for what came while it looked, in proportion for what was there before.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};

use super::LogState;
use crate::{
    position::{Epoch, Position},
    timestamp::Timestamp,
};

/// From this part of its bytes or age on, a shard takes no more.
const TOO_MUCH: f64 = 0.8;

/// Below this part it takes events again: not the same, or it would flutter.
const ENOUGH_ROOM: f64 = 0.75;

/// Points that a meter keeps of how a log grew.
const POINTS: usize = 512;

/// What a shard's log holds, and may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSize {
    /// From where to where.
    pub state: LogState,
    /// When its first event was stored; 0 if that is not known.
    pub first_at: Timestamp,
    /// Bytes stored.
    pub bytes: u64,
    /// Bytes that it may hold.
    pub max_bytes: u64,
    /// The age at which it evicts; none where it waits for SQL.
    pub max_age: Option<Duration>,
}

/// The part of a shard's log that is not in SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unapplied {
    /// Its bytes.
    pub bytes: u64,
    /// Bytes that the log may hold.
    pub max_bytes: u64,
    /// Age of its oldest event at most, in milliseconds.
    pub age_ms: u64,
    /// The age at which the log evicts, in milliseconds; none where it waits for SQL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age_ms: Option<u64>,
}

impl Unapplied {
    /// Of what the log can hold, by bytes or by age, whichever is more: 1 and it evicts next.
    #[allow(clippy::cast_precision_loss, reason = "a part of a whole")]
    pub fn ratio(self) -> f64 {
        let part = |is: u64, of: u64| is as f64 / of.max(1) as f64;
        let aged = self.max_age_ms.map_or(0.0, |most| part(self.age_ms, most));
        part(self.bytes, self.max_bytes).max(aged)
    }

    /// Whether the shard takes events: not from 80 % on, and again below 75 %.
    pub fn admits(self, now: bool) -> bool {
        self.ratio() < if now { TOO_MUCH } else { ENOUGH_ROOM }
    }
}

/// Follows the log of one shard.
#[derive(Debug, Default)]
pub struct Meter {
    epoch: Epoch,
    /// Sequences, and the bytes up to and with each of them, counted from anywhere.
    points: VecDeque<(u64, u64)>,
}

impl Meter {
    /// What of the log, as large as `size`, is after `applied`, an event stored at `applied_at`.
    pub fn measure(&mut self, size: &LogSize, applied: Position, applied_at: Timestamp, now: Timestamp) -> Unapplied {
        let LogState { epoch, first, last } = size.state;
        let before = first.saturating_sub(1);
        if self.epoch != epoch || self.points.back().is_none_or(|(end, _)| *end < before || *end > last) {
            self.epoch = epoch;
            self.points = VecDeque::from([(before, 0)]);
        }
        self.thin_out(before);
        let floor = self.upto(before);
        self.grow(last, floor.saturating_add(size.bytes));
        let at = if applied.epoch < epoch { before } else { applied.seq.clamp(before, last.max(before)) };
        let is_behind = at < last;
        // What was evicted was perhaps larger or smaller than thought: the greater of both counts.
        let grown = self.upto(last).saturating_sub(self.upto(at));
        let left = size.bytes.saturating_sub(self.upto(at).saturating_sub(floor));
        let oldest = applied_at.max(size.first_at);
        Unapplied {
            bytes: if is_behind { grown.max(left).min(size.bytes) } else { 0 },
            max_bytes: size.max_bytes,
            age_ms: if is_behind { now.since(oldest).as_millis() as u64 } else { 0 },
            max_age_ms: size.max_age.map(|age| age.as_millis() as u64),
        }
    }

    /// Takes in that the log ends at `last`, and how many bytes that makes.
    fn grow(&mut self, last: u64, bytes: u64) {
        let (end, known) = self.points.back().copied().unwrap_or_default();
        if last > end {
            self.points.push_back((last, bytes.max(known)));
        }
    }

    /// Forgets what is before `before`, but one point to reckon from, and every second one when there
    /// are too many.
    fn thin_out(&mut self, before: u64) {
        while self.points.get(1).is_some_and(|(seq, _)| *seq <= before) {
            self.points.pop_front();
        }
        if self.points.len() > POINTS {
            let end = self.points.len();
            let mut index = 0;
            self.points.retain(|_| {
                index += 1;
                index == end || index % 2 == 1
            });
        }
    }

    /// Bytes up to and with `seq`, between two points in proportion.
    fn upto(&self, seq: u64) -> u64 {
        let after = self.points.partition_point(|(end, _)| *end < seq);
        match (after.checked_sub(1).and_then(|before| self.points.get(before)), self.points.get(after)) {
            (_, Some((end, bytes))) if *end == seq => *bytes,
            (Some((from, low)), Some((to, high))) => {
                let part = u128::from(high.saturating_sub(*low)) * u128::from(seq - from) / u128::from((to - from).max(1));
                low.saturating_add(u64::try_from(part).unwrap_or(u64::MAX))
            }
            (Some((_, bytes)), None) | (None, Some((_, bytes))) => *bytes,
            (None, None) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EPOCH: Epoch = Epoch(3);

    fn size(first: u64, last: u64, bytes: u64) -> LogSize {
        LogSize {
            state: LogState { epoch: EPOCH, first, last },
            first_at: Timestamp(1_000),
            bytes,
            max_bytes: 1000,
            max_age: Some(Duration::from_secs(100)),
        }
    }

    fn measure(meter: &mut Meter, size: &LogSize, applied: u64) -> Unapplied {
        meter.measure(size, Position::new(EPOCH, applied), Timestamp(21_000), Timestamp(31_000))
    }

    #[test]
    fn what_grew_while_it_looked_is_known_exactly() {
        let mut meter = Meter::default();
        // Ninety small ones, all of them applied.
        assert_eq!(measure(&mut meter, &size(1, 90, 90), 90).bytes, 0);
        // Then ten large ones: by their number they are a tenth of it.
        let unapplied = measure(&mut meter, &size(1, 100, 890), 90);
        assert_eq!((unapplied.bytes, unapplied.admits(true)), (800, false));
        // One large one is applied, and so many small ones evicted.
        assert_eq!(measure(&mut meter, &size(41, 101, 930), 91).bytes, 800);
    }

    #[test]
    fn what_was_there_before_counts_in_proportion() {
        let mut meter = Meter::default();
        let unapplied = measure(&mut meter, &size(11, 110, 500), 60);
        assert_eq!(unapplied.bytes, 250);
        assert_eq!((unapplied.age_ms, unapplied.max_age_ms), (10_000, Some(100_000)));
        assert!((unapplied.ratio() - 0.25).abs() < 1e-9 && unapplied.admits(false));
        // Evicted up to what is applied, and beyond.
        assert_eq!(measure(&mut meter, &size(61, 110, 1000), 60).bytes, 1000);
        assert_eq!(measure(&mut meter, &size(71, 110, 900), 60).bytes, 900);
    }

    #[test]
    fn an_older_epoch_is_behind_with_all_and_nothing_is_old_where_all_is_applied() {
        let mut meter = Meter::default();
        let behind = meter.measure(&size(1, 9, 700), Position::new(Epoch(2), 4000), Timestamp(0), Timestamp(91_000));
        assert_eq!((behind.bytes, behind.age_ms), (700, 90_000));
        assert!(!behind.admits(true), "by its age");
        let settled = meter.measure(&size(1, 9, 700), Position::new(EPOCH, 9), Timestamp(0), Timestamp(91_000));
        assert_eq!((settled.bytes, settled.age_ms), (0, 0));
        // A log that was lost and grows anew under the same name.
        assert_eq!(measure(&mut meter, &size(1, 2, 20), 0).bytes, 20);
    }

    #[test]
    fn it_opens_lower_than_it_closes() {
        let at = |bytes| Unapplied { bytes, max_bytes: 1000, age_ms: 0, max_age_ms: None };
        assert!(at(799).admits(true) && !at(800).admits(true));
        assert!(at(749).admits(false) && !at(750).admits(false));
    }

    proptest! {
        #[test]
        fn what_is_unapplied_is_never_more_than_there_is_and_all_of_it_once_eviction_comes_near(
            steps in prop::collection::vec((0u64..50, 1u64..40, 0u64..60, 0u64..50), 1..700),
        ) {
            let mut meter = Meter::default();
            let mut sizes: VecDeque<u64> = VecDeque::new();
            let (mut first, mut last, mut applied) = (1, 0, 0);
            for (count, each, evict, apply) in steps {
                sizes.extend((0..count).map(|_| each));
                last += count;
                for _ in 0..evict.min(sizes.len() as u64) {
                    sizes.pop_front();
                    first += 1;
                }
                applied = (applied + apply).min(last);
                let bytes: u64 = sizes.iter().sum();
                let unapplied = measure(&mut meter, &size(first, last, bytes), applied);
                prop_assert!(unapplied.bytes <= bytes);
                if applied < first {
                    prop_assert_eq!(unapplied.bytes, bytes);
                }
                if applied == last {
                    prop_assert_eq!(unapplied.bytes, 0);
                }
            }
        }
    }
}
