//! Group commit: where a stream stores events slower than they come, those that wait are stored together, as one atomic batch
//! (NATS ADR-50).
//!
//! Under `sync_interval: always` NATS syncs each event for itself, and stores a shard's one after the other; of a batch it syncs
//! the whole, since 2.15. A batch costs it some milliseconds beside that, so the stream's [`Pace`] tells when one pays: with the
//! server's default sync, or while few wait, each event goes by itself and at once.
//!
//! A batch is stored whole or not at all. Where the server refuses one (an event of it was stored before, say), its events go
//! one by one, and what is to be said of each is said of that.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

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
use crate::{failpoint, id::InstanceId, position::Position, subject::Shard};

/// So many go by themselves at once before others gather; half as many keep the server busy meanwhile.
const ALONE: usize = 32;

/// The first that syncs a batch once: before, it costs more than it saves.
const SINCE: (u32, u32) = (2, 15);

/// After a batch that was not stored: why may have passed. Twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

type Answer = Result<Verdict, ExchangeError>;

/// An event on its way to its stream.
pub(super) struct Entry {
    pub(super) subject: String,
    pub(super) labels: Labels,
    pub(super) current: Arc<Current>,
    pub(super) payload: Bytes,
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
    /// See [`NatsOptions::eager_batches`].
    is_eager: bool,
    /// Events of batches that were stored.
    stored: AtomicU64,
    /// Batches of others have other names.
    name: String,
    next: AtomicU64,
}

/// The events of one shard.
struct Lane {
    sender: Arc<Sender>,
    pace: Arc<Pace>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// So many are out by themselves.
    alone: usize,
    /// A batch is out.
    together: bool,
    waiting: VecDeque<Waiting>,
    /// No batch before then, and how long that was after the last one.
    not_before: Option<(Instant, Duration)>,
}

struct Waiting {
    entry: Entry,
    told: oneshot::Sender<Told>,
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
        self.0.state.lock().alone -= 1;
        self.0.go_on();
    }
}

/// What a lane does next.
enum Next {
    Nothing,
    Alone(Vec<Waiting>),
    Together(Vec<Waiting>),
}

impl Gather {
    pub(super) fn new(requests: Requests<Verdict>, paces: &[Arc<Pace>], options: &NatsOptions) -> Self {
        let sender = Arc::new(Sender {
            requests,
            most: options.batch,
            timeout: options.publish_timeout,
            is_eager: options.eager_batches,
            stored: AtomicU64::new(0),
            name: InstanceId::random().0.simple().to_string(),
            next: AtomicU64::new(0),
        });
        let lane = |pace: &Arc<Pace>| Arc::new(Lane { sender: Arc::clone(&sender), pace: Arc::clone(pace), state: Mutex::default() });
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
        let headers = entry.labels.headers_for(&entry.current.stream);
        let publication = Publication { subject: &entry.subject, reply: None, headers: &headers, payload: &entry.payload };
        let answer = self.sender.requests.call(publication, deadline.saturating_duration_since(Instant::now())).await;
        drop(turn);
        answer
    }
}

impl Sender {
    fn is_eager(&self) -> bool {
        self.is_eager || failpoint::hit("gather")
    }

    /// Sends `waiting` as one batch.
    async fn store(&self, waiting: &[Waiting]) -> Answer {
        let batch = format!("{}-{}", self.name, self.next.fetch_add(1, Ordering::Relaxed));
        let places: Vec<Place<'_>> = (0..waiting.len()).map(|before| Place::new(&batch, before, waiting.len())).collect();
        let headers: Vec<Vec<_>> = waiting
            .iter()
            .zip(&places)
            .map(|(Waiting { entry, .. }, place)| {
                let of_event = entry.labels.headers_for(&entry.current.stream);
                of_event.into_iter().chain(place.headers()).collect()
            })
            .collect();
        let publications: Vec<Publication<'_>> = waiting
            .iter()
            .zip(&headers)
            .map(|(Waiting { entry, .. }, headers)| Publication { subject: &entry.subject, reply: None, headers, payload: &entry.payload })
            .collect();
        self.requests.call_all(&publications, self.timeout).await
    }
}

impl Lane {
    /// Its turn, or by what it is told.
    fn enter(self: &Arc<Self>, entry: Entry) -> Result<(Turn, Entry), oneshot::Receiver<Told>> {
        let mut state = self.state.lock();
        let most_alone = if self.sender.is_eager() { 1 } else { ALONE };
        let is_held = state.together || state.alone >= most_alone || !state.waiting.is_empty();
        if is_held && self.may_gather(&state) {
            let (told, receiver) = oneshot::channel();
            state.waiting.push_back(Waiting { entry, told });
            return Err(receiver);
        }
        state.alone += 1;
        drop(state);
        Ok((Turn(Arc::clone(self)), entry))
    }

    fn may_gather(&self, state: &State) -> bool {
        let is_paused = state.not_before.is_some_and(|(until, _)| Instant::now() < until);
        let is_slow = self.sender.is_eager() || self.pace.is_slow();
        self.sender.most > 1 && !is_paused && is_slow && self.sender.requests.is_at_least(SINCE)
    }

    /// Lets go who may go now.
    fn go_on(self: &Arc<Self>) {
        match self.next() {
            Next::Nothing => {}
            Next::Alone(released) => self.release(released),
            Next::Together(waiting) => {
                tokio::spawn(Arc::clone(self).store_together(waiting));
            }
        }
    }

    fn next(&self) -> Next {
        let mut state = self.state.lock();
        if state.waiting.is_empty() || state.together {
            return Next::Nothing;
        }
        let may_gather = self.may_gather(&state);
        if may_gather && state.alone > ALONE / 2 {
            return Next::Nothing;
        }
        state.waiting.retain(|waiting| !waiting.told.is_closed());
        let count = state.waiting.len().min(self.sender.most);
        let pays = if self.sender.is_eager() { count > 1 } else { self.pace.favours(count) };
        if may_gather && pays {
            state.together = true;
            return Next::Together(state.waiting.drain(..count).collect());
        }
        let room = if may_gather { ALONE.saturating_sub(state.alone) } else { usize::MAX };
        let count = room.min(state.waiting.len());
        state.alone += count;
        Next::Alone(state.waiting.drain(..count).collect())
    }

    /// Lets each go by itself: it counts as out already.
    fn release(self: &Arc<Self>, released: Vec<Waiting>) {
        for Waiting { entry, told } in released {
            // Who has given up meanwhile gives its turn back.
            let _ = told.send(Told::Go(Turn(Arc::clone(self)), entry));
        }
    }

    async fn store_together(self: Arc<Self>, waiting: Vec<Waiting>) {
        let answer = self.sender.store(&waiting).await;
        let count = waiting.len() as u64;
        let outcome = Outcome::of(answer, count);
        {
            let mut state = self.state.lock();
            state.together = false;
            state.not_before = match outcome {
                Outcome::Stored { .. } => None,
                Outcome::Refused(_) | Outcome::InDoubt(_) => Some(state.next_pause()),
            };
            if matches!(outcome, Outcome::Refused(_)) {
                state.alone += waiting.len();
            }
        }
        match outcome {
            Outcome::Stored { first } => {
                self.sender.stored.fetch_add(count, Ordering::Relaxed);
                tracing::trace!(count, "stored_together");
                for (Waiting { told, .. }, seq) in waiting.into_iter().zip(first.seq..) {
                    let ack = Ack { position: Position::new(first.epoch, seq), duplicate: false };
                    // It may have given up meanwhile.
                    let _ = told.send(Told::Answer(Ok(Verdict::Stored(ack))));
                }
            }
            Outcome::InDoubt(error) => {
                for Waiting { told, .. } in waiting {
                    let _ = told.send(Told::Answer(Err(error.clone())));
                }
            }
            Outcome::Refused(answer) => {
                tracing::debug!(count, ?answer, "batch_refused: its events are stored one by one");
                self.release(waiting);
            }
        }
        self.go_on();
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

impl State {
    /// Until when, and how long that is.
    fn next_pause(&self) -> (Instant, Duration) {
        let pause = self.not_before.map_or(FIRST_PAUSE, |(_, last)| (2 * last).min(LONGEST_PAUSE));
        (Instant::now() + pause, pause)
    }
}
