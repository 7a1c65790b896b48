//! How much of a batch goes into one transaction, and how long that may take.

use std::time::Duration;

use natter_shared::broker::Stored;

use crate::database::ANSWER;

/// Bytes of the events of one transaction. An event may have a thousand rows to write, of forty bytes each: it is by them that
/// batches of events are alike.
const BYTES: usize = 2 << 20;

/// How long writing one event may take at most.
const LONGEST: Duration = Duration::from_mins(10);

/// What one transaction may have, as the database has managed so far.
#[derive(Debug)]
pub(crate) struct Portion {
    events: usize,
    patience: Duration,
}

impl Default for Portion {
    fn default() -> Self {
        Self { events: usize::MAX, patience: ANSWER }
    }
}

impl Portion {
    /// How long writing it may take.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// The events at the beginning of `batch` that go together, one at least, and the rest.
    pub(super) fn split<'a>(&self, batch: &'a [Stored]) -> (&'a [Stored], &'a [Stored]) {
        let mut bytes = 0_usize;
        let fit = batch.iter().take(self.events).take_while(|stored| {
            bytes = bytes.saturating_add(stored.payload.len());
            bytes <= BYTES
        });
        let fit = fit.count().max(1).min(batch.len());
        batch.split_at(fit)
    }

    /// The database was well, and yet not done with `events` in time.
    pub(super) fn was_too_much(&mut self, events: usize) {
        self.events = (events / 2).max(1);
        if events <= 1 {
            self.patience = (self.patience * 2).min(LONGEST);
        }
    }

    /// It was done with `events`.
    pub(super) fn was_written(&mut self, events: usize) {
        self.patience = ANSWER;
        if events >= self.events {
            self.events = self.events.saturating_mul(2);
        }
    }
}

#[cfg(test)]
mod tests {
    use natter_shared::{
        id::{EventId, InstanceId},
        position::{Epoch, Position},
        subject::Topic,
        timestamp::Timestamp,
    };
    use uuid::Uuid;

    use super::*;

    fn events(sizes: &[usize]) -> Vec<Stored> {
        let stored = |(n, size): (usize, &usize)| Stored {
            topic: Topic::Canary(InstanceId(Uuid::nil())),
            position: Position::new(Epoch(1), n as u64),
            previous: 0,
            id: EventId(Uuid::nil()),
            made_at: Timestamp(0),
            stored_at: Timestamp(0),
            payload: vec![0; *size].into(),
        };
        sizes.iter().enumerate().map(stored).collect()
    }

    #[test]
    fn a_transaction_has_so_many_bytes_and_one_event_at_least() {
        let portion = Portion::default();
        let first = |sizes: &[usize]| portion.split(&events(sizes)).0.len();
        assert_eq!(first(&[]), 0);
        assert_eq!(first(&[BYTES + 1, 1]), 1);
        assert_eq!(first(&[BYTES - 1, 1, 1]), 2);
        assert_eq!(first(&[1; 2000]), 2000);
    }

    #[test]
    fn what_was_too_much_is_halved_and_grows_again() {
        let (mut portion, batch) = (Portion::default(), events(&[1; 2000]));
        let first = |portion: &Portion| portion.split(&batch).0.len();
        portion.was_too_much(2000);
        assert_eq!((first(&portion), portion.patience()), (1000, ANSWER));
        portion.was_written(10);
        assert_eq!(first(&portion), 1000, "a smaller one says nothing");
        portion.was_written(1000);
        assert_eq!(first(&portion), 2000);
        for tries in 1..20 {
            portion.was_too_much(1);
            assert_eq!((first(&portion), portion.patience()), (1, (ANSWER * 2_u32.pow(tries)).min(LONGEST)));
        }
        portion.was_written(1);
        assert_eq!((first(&portion), portion.patience()), (2, ANSWER));
    }
}
