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
    runtime::Handle,
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

/// The same where it was for a second copy of something, which most batches have none of.
const AFTER_COPY: Duration = Duration::from_millis(100);

/// The same where its stream takes none, until a persister has seen to it.
const WITHOUT_BATCHES: Duration = Duration::from_secs(5);

/// A batch that is out for so long keeps nobody else.
const STALLED: Duration = Duration::from_millis(500);

/// Before so many wait nobody looks for those who have given up.
const SWEEP: usize = 1024;

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
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// So many are out by themselves.
    alone: usize,
    /// A batch is out, since then.
    together: Option<Instant>,
    waiting: VecDeque<Waiting>,
    /// When so many wait, those who have given up are forgotten.
    sweep_at: usize,
    /// No batch before then, and how long that was after the last one.
    not_before: Option<(Instant, Duration)>,
}

/// What is known of a lane when one of its events comes or goes.
#[derive(Clone, Copy)]
struct Rules<'a> {
    now: Instant,
    /// It is slow, and its server takes batches.
    gathers: bool,
    is_eager: bool,
    /// Events of one batch.
    most: usize,
    pace: &'a Pace,
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

/// A batch that is out, until this is dropped.
struct Together(Arc<Lane>);

impl Drop for Together {
    fn drop(&mut self) {
        self.0.state.lock().together = None;
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
            // What comes to the leader of several copies is proposed together anyway.
            most: if options.replicas == 1 { options.batch } else { 1 },
            timeout: options.publish_timeout,
            is_eager: options.eager_batches,
            stored: AtomicU64::new(0),
            runtime: Handle::current(),
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
        if state.is_busy(self.sender.is_eager()) && state.may_gather(&self.rules()) {
            return Err(state.wait(entry));
        }
        state.alone += 1;
        drop(state);
        Ok((Turn(Arc::clone(self)), entry))
    }

    fn rules(&self) -> Rules<'_> {
        let is_eager = self.sender.is_eager();
        let gathers = self.sender.most > 1 && (is_eager || self.pace.is_slow()) && self.sender.requests.is_at_least(SINCE);
        Rules { now: Instant::now(), gathers, is_eager, most: self.sender.most, pace: &self.pace }
    }

    /// Lets go who may go now.
    fn go_on(self: &Arc<Self>) {
        let next = {
            let mut state = self.state.lock();
            if state.waiting.is_empty() { Next::Nothing } else { state.next(&self.rules()) }
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
        let count = waiting.len() as u64;
        match Outcome::of(answer, count) {
            Outcome::Stored { first } => {
                lane.state.lock().not_before = None;
                lane.sender.stored.fetch_add(count, Ordering::Relaxed);
                tracing::trace!(count, "stored_together");
                for (Waiting { told, .. }, seq) in waiting.into_iter().zip(first.seq..) {
                    let ack = Ack { position: Position::new(first.epoch, seq), duplicate: false };
                    // It may have given up meanwhile.
                    let _ = told.send(Told::Answer(Ok(Verdict::Stored(ack))));
                }
            }
            Outcome::InDoubt(error) => {
                lane.state.lock().pause(Instant::now());
                for Waiting { told, .. } in waiting {
                    let _ = told.send(Told::Answer(Err(error.clone())));
                }
            }
            Outcome::Refused(answer) => {
                tracing::debug!(count, ?answer, "batch_refused: its events are stored one by one");
                let mut state = lane.state.lock();
                state.alone += waiting.len();
                match answer {
                    Ok(Verdict::BatchWithCopy) => state.pause_for(AFTER_COPY),
                    Ok(Verdict::NoBatches) => state.pause_for(WITHOUT_BATCHES),
                    Ok(_) | Err(_) => state.pause(Instant::now()),
                }
                drop(state);
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

impl State {
    fn may_gather(&self, rules: &Rules<'_>) -> bool {
        let is_paused = self.not_before.is_some_and(|(until, _)| rules.now < until);
        let is_stalled = self.together.is_some_and(|since| rules.now.saturating_duration_since(since) >= STALLED);
        rules.gathers && !is_paused && !is_stalled
    }

    /// Whether one that comes now has to wait, if its lane gathers.
    fn is_busy(&self, is_eager: bool) -> bool {
        let most_alone = if is_eager { 1 } else { ALONE };
        self.together.is_some() || self.alone >= most_alone || !self.waiting.is_empty()
    }

    fn wait(&mut self, entry: Entry) -> oneshot::Receiver<Told> {
        if self.waiting.len() >= self.sweep_at.max(SWEEP) {
            self.waiting.retain(|waiting| !waiting.told.is_closed());
            self.sweep_at = 2 * self.waiting.len();
        }
        let (told, receiver) = oneshot::channel();
        self.waiting.push_back(Waiting { entry, told });
        receiver
    }

    /// Who goes now, of those that wait; counted as out.
    fn next(&mut self, rules: &Rules<'_>) -> Next {
        let may_gather = self.may_gather(rules);
        if may_gather && (self.together.is_some() || self.alone > ALONE / 2) {
            return Next::Nothing;
        }
        self.waiting.retain(|waiting| !waiting.told.is_closed());
        let count = self.waiting.len().min(rules.most);
        let pays = if rules.is_eager { count > 1 } else { rules.pace.favours(count) };
        if may_gather && pays {
            self.together = Some(rules.now);
            return Next::Together(self.waiting.drain(..count).collect());
        }
        let room = if may_gather { ALONE.saturating_sub(self.alone) } else { usize::MAX };
        let count = room.min(self.waiting.len());
        self.alone += count;
        Next::Alone(self.waiting.drain(..count).collect())
    }

    fn pause_for(&mut self, pause: Duration) {
        self.not_before = Some((Instant::now() + pause, pause));
    }

    fn pause(&mut self, now: Instant) {
        let last = self.not_before.map(|(_, last)| last);
        let pause = last.map_or(FIRST_PAUSE, |last| (2 * last).clamp(FIRST_PAUSE, LONGEST_PAUSE));
        self.not_before = Some((now + pause, pause));
    }
}

#[cfg(test)]
#[allow(clippy::panic, reason = "tests")]
mod tests {
    use super::*;
    use crate::{broker::Outgoing, id::EventId, position::Epoch, subject::Topic, timestamp::Timestamp};

    fn slow() -> Pace {
        let pace = Pace::default();
        pace.learn(Duration::from_micros(100));
        pace
    }

    fn rules(pace: &Pace, now: Instant) -> Rules<'_> {
        Rules { now, gathers: pace.is_slow(), is_eager: false, most: 100, pace }
    }

    fn entry() -> Entry {
        let outgoing = Outgoing {
            topic: Topic::Canary(InstanceId::random()),
            id: EventId::random(),
            made_at: Timestamp(0),
            epoch: None,
            payload: Bytes::new(),
        };
        let current = Current { epoch: Epoch(1), since: Instant::now(), stream: String::new() };
        Entry { subject: String::new(), labels: Labels::of(&outgoing), current: Arc::new(current), payload: Bytes::new() }
    }

    fn wait(state: &mut State, count: usize) -> Vec<oneshot::Receiver<Told>> {
        (0..count).map(|_| state.wait(entry())).collect()
    }

    fn is_held(state: &State, rules: &Rules<'_>) -> bool {
        state.is_busy(rules.is_eager) && state.may_gather(rules)
    }

    fn counts(next: &Next) -> (usize, usize) {
        match next {
            Next::Nothing => (0, 0),
            Next::Alone(released) => (released.len(), 0),
            Next::Together(batch) => (0, batch.len()),
        }
    }

    #[test]
    fn the_first_go_by_themselves_and_the_others_gather_where_it_is_slow() {
        let (now, fast, slow) = (Instant::now(), Pace::default(), slow());
        let state = State { alone: ALONE - 1, ..State::default() };
        assert!(!is_held(&state, &rules(&slow, now)));
        let state = State { alone: ALONE, ..State::default() };
        assert!(is_held(&state, &rules(&slow, now)) && !is_held(&state, &rules(&fast, now)));
        let state = State { together: Some(now), ..State::default() };
        assert!(
            is_held(&state, &rules(&slow, now)) && !is_held(&state, &rules(&slow, now + STALLED)),
            "a batch that never ends keeps nobody"
        );
    }

    #[test]
    fn enough_go_together_when_few_are_out_and_fewer_by_themselves() {
        let (now, slow) = (Instant::now(), slow());
        let mut state = State { alone: ALONE / 2 + 1, ..State::default() };
        let all = wait(&mut state, 150);
        assert_eq!(counts(&state.next(&rules(&slow, now))), (0, 0), "the server is busy");
        state.alone -= 1;
        assert_eq!(counts(&state.next(&rules(&slow, now))), (0, 100), "as many as a batch may have");
        assert_eq!(counts(&state.next(&rules(&slow, now))), (0, 0), "one at a time");
        state.together = None;
        assert_eq!(counts(&state.next(&rules(&slow, now))), (0, 50));
        state.together = None;
        let few = wait(&mut state, 20);
        assert_eq!((counts(&state.next(&rules(&slow, now))), state.alone), ((16, 0), ALONE), "a batch does not pay; as many as may be out");
        drop((all, few));
    }

    #[test]
    fn all_go_by_themselves_where_nothing_gathers_any_more() {
        let (now, slow, fast) = (Instant::now(), slow(), Pace::default());
        let mut state = State { alone: ALONE, ..State::default() };
        let all = wait(&mut state, 500);
        assert_eq!((counts(&state.next(&rules(&fast, now))), state.alone), ((500, 0), ALONE + 500));
        drop(all);
        let mut state = State { together: Some(now), ..State::default() };
        let all = wait(&mut state, 500);
        assert_eq!(counts(&state.next(&rules(&slow, now + STALLED))), (500, 0));
        drop(all);
    }

    #[test]
    fn who_has_given_up_is_not_sent_and_not_kept() {
        let (now, slow) = (Instant::now(), slow());
        let mut state = State::default();
        let stays = wait(&mut state, 40);
        drop(wait(&mut state, 40));
        assert_eq!(counts(&state.next(&rules(&slow, now))), (0, 40));
        drop(stays);
        for _ in 0..10 {
            drop(wait(&mut state, SWEEP));
        }
        assert!(state.waiting.len() <= 2 * SWEEP, "{}", state.waiting.len());
    }

    #[test]
    fn pauses_get_longer_until_a_batch_is_stored() {
        let (now, slow) = (Instant::now(), slow());
        let mut state = State { alone: ALONE, ..State::default() };
        state.pause(now);
        assert!(!is_held(&state, &rules(&slow, now + FIRST_PAUSE / 2)) && is_held(&state, &rules(&slow, now + FIRST_PAUSE)));
        state.pause(now);
        assert!(!is_held(&state, &rules(&slow, now + FIRST_PAUSE)) && is_held(&state, &rules(&slow, now + 2 * FIRST_PAUSE)));
        for _ in 0..20 {
            state.pause(now);
        }
        assert!(is_held(&state, &rules(&slow, now + LONGEST_PAUSE)));
        state.not_before = None;
        assert!(is_held(&state, &rules(&slow, now)));
    }

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
