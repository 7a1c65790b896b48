//! Who of a shard's events goes when, and whether with others.

use std::{collections::VecDeque, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use super::{Entry, Told};
use crate::broker::nats::pace::Pace;

/// So many go by themselves at once before others gather; half as many keep the server busy meanwhile.
const ALONE: usize = 32;

/// After a batch that was not stored: why may have passed. Twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// A batch that is out for so long keeps nobody else.
const STALLED: Duration = Duration::from_millis(500);

/// Before so many wait nobody looks for those who have given up.
const SWEEP: usize = 1024;

/// The events of one shard that are out, and those that wait.
#[derive(Default)]
pub(super) struct Queue {
    /// So many are out by themselves.
    pub(super) alone: usize,
    /// A batch is out, since then.
    pub(super) together: Option<Instant>,
    waiting: VecDeque<Waiting>,
    /// When so many wait, those who have given up are forgotten.
    sweep_at: usize,
    /// No batch before then, and how long that was after the last one.
    not_before: Option<(Instant, Duration)>,
}

/// What is known of a lane when one of its events comes or goes.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) now: Instant,
    /// It is slow, and its server takes batches.
    pub(super) gathers: bool,
    /// Events of one batch.
    pub(super) most: usize,
    pub(super) pace: &'a Pace,
}

pub(super) struct Waiting {
    pub(super) entry: Entry,
    pub(super) told: oneshot::Sender<Told>,
}

/// What a lane does next.
pub(super) enum Next {
    Nothing,
    Alone(Vec<Waiting>),
    Together(Vec<Waiting>),
}

impl Queue {
    pub(super) fn may_gather(&self, rules: &Rules<'_>) -> bool {
        let is_paused = self.not_before.is_some_and(|(until, _)| rules.now < until);
        let is_stalled = self.together.is_some_and(|since| rules.now.saturating_duration_since(since) >= STALLED);
        rules.gathers && !is_paused && !is_stalled
    }

    /// Whether one that comes now has to wait, if its lane gathers.
    pub(super) fn is_busy(&self, pace: &Pace) -> bool {
        let most_alone = if pace.is_eager() { 1 } else { ALONE };
        self.together.is_some() || self.alone >= most_alone || !self.waiting.is_empty()
    }

    pub(super) fn wait(&mut self, entry: Entry) -> oneshot::Receiver<Told> {
        if self.waiting.len() >= self.sweep_at.max(SWEEP) {
            self.waiting.retain(|waiting| !waiting.told.is_closed());
            self.sweep_at = 2 * self.waiting.len();
        }
        let (told, receiver) = oneshot::channel();
        self.waiting.push_back(Waiting { entry, told });
        receiver
    }

    /// Who goes now, of those that wait; counted as out.
    pub(super) fn next(&mut self, rules: &Rules<'_>) -> Next {
        let may_gather = self.may_gather(rules);
        if may_gather && (self.together.is_some() || self.alone > ALONE / 2) {
            return Next::Nothing;
        }
        self.waiting.retain(|waiting| !waiting.told.is_closed());
        let count = self.waiting.len().min(rules.most);
        if may_gather && rules.pace.favours(count) {
            self.together = Some(rules.now);
            return Next::Together(self.waiting.drain(..count).collect());
        }
        let room = if may_gather { ALONE.saturating_sub(self.alone) } else { usize::MAX };
        let count = room.min(self.waiting.len());
        self.alone += count;
        Next::Alone(self.waiting.drain(..count).collect())
    }

    /// No batch for so long.
    pub(super) fn pause_for(&mut self, pause: Duration, now: Instant) {
        self.not_before = Some((now + pause, pause));
    }

    /// The same, longer each time until a batch is stored.
    pub(super) fn pause(&mut self, now: Instant) {
        let last = self.not_before.map(|(_, last)| last);
        let pause = last.map_or(FIRST_PAUSE, |last| (2 * last).clamp(FIRST_PAUSE, LONGEST_PAUSE));
        self.pause_for(pause, now);
    }

    /// A batch was stored.
    pub(super) fn go_on(&mut self) {
        self.not_before = None;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::{
        broker::{
            Outgoing,
            nats::{envelope::Labels, epochs::Current},
        },
        id::{EventId, InstanceId},
        position::Epoch,
        subject::{Shard, Topic},
        timestamp::Timestamp,
    };

    fn slow() -> Pace {
        let pace = Pace::default();
        pace.learn(Duration::from_micros(100));
        pace
    }

    fn rules(pace: &Pace, now: Instant) -> Rules<'_> {
        Rules { now, gathers: pace.is_slow(), most: 100, pace }
    }

    fn entry() -> Entry {
        let outgoing = Outgoing {
            topic: Topic::Canary(InstanceId::random()),
            id: EventId::random(),
            made_at: Timestamp(0),
            epoch: None,
            payload: Bytes::new(),
        };
        let current = Current::new(Shard(0), Epoch(1), Instant::now());
        Entry { subject: String::new(), labels: Labels::of(&outgoing), current: Arc::new(current), payload: Bytes::new() }
    }

    fn wait(queue: &mut Queue, count: usize) -> Vec<oneshot::Receiver<Told>> {
        (0..count).map(|_| queue.wait(entry())).collect()
    }

    fn is_held(queue: &Queue, rules: &Rules<'_>) -> bool {
        queue.is_busy(rules.pace) && queue.may_gather(rules)
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
        let queue = Queue { alone: ALONE - 1, ..Queue::default() };
        assert!(!is_held(&queue, &rules(&slow, now)));
        let queue = Queue { alone: ALONE, ..Queue::default() };
        assert!(is_held(&queue, &rules(&slow, now)) && !is_held(&queue, &rules(&fast, now)));
        let queue = Queue { together: Some(now), ..Queue::default() };
        assert!(
            is_held(&queue, &rules(&slow, now)) && !is_held(&queue, &rules(&slow, now + STALLED)),
            "a batch that never ends keeps nobody"
        );
    }

    #[test]
    fn enough_go_together_when_few_are_out_and_fewer_by_themselves() {
        let (now, slow) = (Instant::now(), slow());
        let mut queue = Queue { alone: ALONE / 2 + 1, ..Queue::default() };
        let all = wait(&mut queue, 150);
        assert_eq!(counts(&queue.next(&rules(&slow, now))), (0, 0), "the server is busy");
        queue.alone -= 1;
        assert_eq!(counts(&queue.next(&rules(&slow, now))), (0, 100), "as many as a batch may have");
        assert_eq!(counts(&queue.next(&rules(&slow, now))), (0, 0), "one at a time");
        queue.together = None;
        assert_eq!(counts(&queue.next(&rules(&slow, now))), (0, 50));
        queue.together = None;
        let few = wait(&mut queue, 20);
        assert_eq!((counts(&queue.next(&rules(&slow, now))), queue.alone), ((16, 0), ALONE), "a batch does not pay; as many as may be out");
        drop((all, few));
    }

    #[test]
    fn all_go_by_themselves_where_nothing_gathers_any_more() {
        let (now, slow, fast) = (Instant::now(), slow(), Pace::default());
        let mut queue = Queue { alone: ALONE, ..Queue::default() };
        let all = wait(&mut queue, 500);
        assert_eq!((counts(&queue.next(&rules(&fast, now))), queue.alone), ((500, 0), ALONE + 500));
        drop(all);
        let mut queue = Queue { together: Some(now), ..Queue::default() };
        let all = wait(&mut queue, 500);
        assert_eq!(counts(&queue.next(&rules(&slow, now + STALLED))), (500, 0));
        drop(all);
    }

    #[test]
    fn who_has_given_up_is_not_sent_and_not_kept() {
        let (now, slow) = (Instant::now(), slow());
        let mut queue = Queue::default();
        let stays = wait(&mut queue, 40);
        drop(wait(&mut queue, 40));
        assert_eq!(counts(&queue.next(&rules(&slow, now))), (0, 40));
        drop(stays);
        for _ in 0..10 {
            drop(wait(&mut queue, SWEEP));
        }
        assert!(queue.waiting.len() <= 2 * SWEEP, "{}", queue.waiting.len());
    }

    #[test]
    fn pauses_get_longer_until_a_batch_is_stored() {
        let (now, slow) = (Instant::now(), slow());
        let mut queue = Queue { alone: ALONE, ..Queue::default() };
        queue.pause(now);
        assert!(!is_held(&queue, &rules(&slow, now + FIRST_PAUSE / 2)) && is_held(&queue, &rules(&slow, now + FIRST_PAUSE)));
        queue.pause(now);
        assert!(!is_held(&queue, &rules(&slow, now + FIRST_PAUSE)) && is_held(&queue, &rules(&slow, now + 2 * FIRST_PAUSE)));
        for _ in 0..20 {
            queue.pause(now);
        }
        assert!(is_held(&queue, &rules(&slow, now + LONGEST_PAUSE)));
        queue.go_on();
        assert!(is_held(&queue, &rules(&slow, now)));
    }
}
