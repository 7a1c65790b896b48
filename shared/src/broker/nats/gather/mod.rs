//! Group commit: where a stream stores events slower than they come, those that wait are stored together, as one atomic batch
//! (NATS ADR-50).
//!
//! Under `sync_interval: always` NATS syncs each event for itself, and stores a shard's one after the other; of a batch it syncs
//! the whole, since 2.15. A batch costs it some milliseconds beside that, so the stream's [`Pace`] tells when one pays: with the
//! server's default sync, or while few wait, each event goes by itself and at once.
//!
//! Where the server refuses a batch (an event of it was stored before, say), it refuses all of it; its events go one by one then, and
//! what is to be said of each is said of that.

mod queue;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::HeaderName;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::oneshot,
    time::{Instant, timeout_at},
};

use self::queue::{Next, Queue, Rules, Waiting};
use super::{
    super::Ack,
    envelope::{Labels, Place},
    epochs::Current,
    exchange::ExchangeError,
    link::{Publication, Requests},
    options::NatsOptions,
    pace::Pace,
    verdict::Verdict,
};
use crate::{id::InstanceId, position::Position, subject::Shard};

/// The first that syncs a batch once: before, it costs more than it saves.
const SINCE: (u32, u32, u32) = (2, 15, 0);

/// How long there are no more after a batch that was refused for a second copy of something, which most batches have none of.
const AFTER_COPY: Duration = Duration::from_millis(100);

/// The same where its stream takes none any more.
const WITHOUT_BATCHES: Duration = Duration::from_secs(5);

type Answer = Result<Verdict, ExchangeError>;

/// An event on its way to its stream.
pub(super) struct Entry {
    pub(super) subject: String,
    pub(super) labels: Labels,
    pub(super) current: Arc<Current>,
    pub(super) payload: Bytes,
}

impl Entry {
    fn headers(&self) -> [(HeaderName, &str); 3] {
        self.labels.headers_for(&self.current.stream)
    }

    fn publication<'a>(&'a self, headers: &'a [(HeaderName, &'a str)]) -> Publication<'a> {
        Publication { subject: &self.subject, reply: None, headers, payload: &self.payload }
    }
}

/// Where the events of all shards go through.
pub(super) struct Gather {
    lanes: Vec<Arc<Lane>>,
    sender: Arc<Sender>,
}

/// What all lanes send by.
struct Sender {
    requests: Requests<Verdict>,
    /// Events of one batch.
    most: usize,
    /// For a batch.
    timeout: Duration,
    /// Events of batches that were stored.
    stored: AtomicU64,
    /// Also for whoever gives up after it has ended.
    runtime: Handle,
    /// Batches of others have other names.
    name: String,
    next: AtomicU64,
}

/// The events of one shard.
struct Lane {
    sender: Arc<Sender>,
    pace: Arc<Pace>,
    queue: Mutex<Queue>,
}

/// What one that waited is told.
enum Told {
    /// To go by itself.
    Go(Turn, Entry),
    /// It went with others.
    Answer(Answer),
}

/// One that is out by itself, until this is dropped.
struct Turn(Arc<Lane>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.queue.lock().alone -= 1;
        self.0.go_on();
    }
}

/// A batch that is out, until this is dropped.
struct Together(Arc<Lane>);

impl Drop for Together {
    fn drop(&mut self) {
        self.0.queue.lock().together = None;
        self.0.go_on();
    }
}

impl Gather {
    pub(super) fn new(requests: Requests<Verdict>, paces: &[Arc<Pace>], options: &NatsOptions) -> Self {
        let sender = Arc::new(Sender {
            requests,
            most: options.batch,
            timeout: options.publish_timeout,
            stored: AtomicU64::new(0),
            runtime: Handle::current(),
            name: InstanceId::random().0.simple().to_string(),
            next: AtomicU64::new(0),
        });
        let lane = |pace: &Arc<Pace>| Arc::new(Lane { sender: Arc::clone(&sender), pace: Arc::clone(pace), queue: Mutex::default() });
        Self { lanes: paces.iter().map(lane).collect(), sender }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.sender.requests.is_connected()
    }

    pub(super) fn stored_together(&self) -> u64 {
        self.sender.stored.load(Ordering::Relaxed)
    }

    /// Sends an event, by itself or with others, and waits for what its stream says.
    pub(super) async fn store(&self, shard: Shard, entry: Entry, left: Duration) -> Answer {
        let deadline = Instant::now() + left;
        let Some(lane) = self.lanes.get(usize::from(shard.0)) else { return Err(ExchangeError::NoResponders) };
        let (turn, entry) = match lane.enter(entry) {
            Ok(now) => now,
            Err(told) => match timeout_at(deadline, told).await {
                Ok(Ok(Told::Go(turn, entry))) => (turn, entry),
                Ok(Ok(Told::Answer(answer))) => return answer,
                Ok(Err(_)) => return Err(ExchangeError::Disconnected),
                Err(_) => return Err(ExchangeError::TimedOut),
            },
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let answer = self.sender.requests.call(entry.publication(&entry.headers()), left).await;
        drop(turn);
        answer
    }
}

impl Sender {
    /// Sends `waiting` as one batch.
    async fn store(&self, waiting: &[Waiting]) -> Answer {
        let batch = format!("{}-{}", self.name, self.next.fetch_add(1, Ordering::Relaxed));
        let places: Vec<Place<'_>> = (0..waiting.len()).map(|before| Place::new(&batch, before, waiting.len())).collect();
        let entries = || waiting.iter().map(|waiting| &waiting.entry);
        let headers: Vec<Vec<_>> =
            entries().zip(&places).map(|(entry, place)| entry.headers().into_iter().chain(place.headers()).collect()).collect();
        let publications: Vec<Publication<'_>> = entries().zip(&headers).map(|(entry, headers)| entry.publication(headers)).collect();
        self.requests.call_all(&publications, self.timeout).await
    }
}

impl Lane {
    /// Its turn, or by what it is told.
    fn enter(self: &Arc<Self>, entry: Entry) -> Result<(Turn, Entry), oneshot::Receiver<Told>> {
        let mut queue = self.queue.lock();
        if entry.current.takes_batches() && queue.is_busy(&self.pace) && queue.may_gather(&self.rules()) {
            return Err(queue.wait(entry));
        }
        queue.alone += 1;
        drop(queue);
        Ok((Turn(Arc::clone(self)), entry))
    }

    fn rules(&self) -> Rules<'_> {
        let gathers = self.sender.most > 1 && self.pace.is_slow() && self.sender.requests.is_at_least(SINCE);
        Rules { now: Instant::now(), gathers, most: self.sender.most, pace: &self.pace }
    }

    /// Lets go who may go now.
    fn go_on(self: &Arc<Self>) {
        let next = {
            let mut queue = self.queue.lock();
            if queue.is_empty() { Next::Nothing } else { queue.next(&self.rules()) }
        };
        match next {
            Next::Nothing => {}
            Next::Alone(released) => self.release(released),
            Next::Together(waiting) => {
                let together = Together(Arc::clone(self));
                self.sender.runtime.spawn(together.store(waiting));
            }
        }
    }

    /// Lets each go by itself: it counts as out already.
    fn release(self: &Arc<Self>, released: Vec<Waiting>) {
        for Waiting { entry, told } in released {
            // Who has given up meanwhile gives its turn back.
            let _ = told.send(Told::Go(Turn(Arc::clone(self)), entry));
        }
    }
}

impl Together {
    async fn store(self, waiting: Vec<Waiting>) {
        let lane = &self.0;
        let answer = lane.sender.store(&waiting).await;
        let (count, now) = (waiting.len() as u64, Instant::now());
        match Outcome::of(answer, count) {
            Outcome::Stored { first } => {
                lane.queue.lock().go_on();
                lane.sender.stored.fetch_add(count, Ordering::Relaxed);
                tracing::trace!(count, "stored_together");
                for (Waiting { told, .. }, seq) in waiting.into_iter().zip(first.seq..) {
                    let ack = Ack { position: Position::new(first.epoch, seq), duplicate: false };
                    // It may have given up meanwhile.
                    let _ = told.send(Told::Answer(Ok(Verdict::Stored(ack))));
                }
            }
            Outcome::InDoubt(error) => {
                lane.queue.lock().pause(now);
                for Waiting { told, .. } in waiting {
                    let _ = told.send(Told::Answer(Err(error.clone())));
                }
            }
            Outcome::Refused(answer) => {
                tracing::debug!(count, ?answer, "batch_refused: its events are stored one by one");
                let mut queue = lane.queue.lock();
                queue.alone += waiting.len();
                match answer {
                    Ok(Verdict::BatchWithCopy) => queue.pause_for(AFTER_COPY, now),
                    Ok(Verdict::NoBatches) => {
                        for Waiting { entry, .. } in &waiting {
                            entry.current.tell(Some(false));
                        }
                        queue.pause_for(WITHOUT_BATCHES, now);
                    }
                    Ok(_) | Err(_) => queue.pause(now),
                }
                drop(queue);
                lane.release(waiting);
            }
        }
    }
}

/// What became of a batch.
enum Outcome {
    /// The first of its events stands there, the others right behind it.
    Stored { first: Position },
    /// Not known, and perhaps stored in a moment.
    InDoubt(ExchangeError),
    /// It is not stored, or not as it should be; what is to be said of its events their streams say one by one.
    Refused(Answer),
}

impl Outcome {
    fn of(answer: Answer, events: u64) -> Self {
        match answer {
            Ok(Verdict::StoredTogether { last, count }) if count == events && last.seq >= count => {
                Self::Stored { first: Position::new(last.epoch, last.seq + 1 - count) }
            }
            Err(error @ (ExchangeError::Disconnected | ExchangeError::TimedOut | ExchangeError::NoResponders)) => Self::InDoubt(error),
            answer => Self::Refused(answer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Epoch;

    #[test]
    fn a_batch_s_ack_is_that_of_all_its_events_or_of_none() {
        let last = |seq| Position::new(Epoch(3), seq);
        let of = |seq, count| Outcome::of(Ok(Verdict::StoredTogether { last: last(seq), count }), 10);
        assert!(matches!(of(12, 10), Outcome::Stored { first } if first == last(3)));
        for (seq, count) in [(12, 9), (12, 11), (9, 10)] {
            assert!(matches!(of(seq, count), Outcome::Refused(_)), "{seq}, {count}");
        }
        assert!(matches!(Outcome::of(Ok(Verdict::Stored(Ack { position: last(12), duplicate: false })), 10), Outcome::Refused(_)));
        for error in [ExchangeError::Disconnected, ExchangeError::TimedOut, ExchangeError::NoResponders] {
            assert!(matches!(Outcome::of(Err(error), 10), Outcome::InDoubt(_)));
        }
        assert!(matches!(Outcome::of(Err(ExchangeError::Full), 10), Outcome::Refused(_)));
    }
}
