//! The messages of one subscription.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures::Stream;
use parking_lot::Mutex;

use super::{Followed, Full, Incoming, Sink};

/// What a queue that is empty keeps room for.
const KEPT: usize = 4;

/// What came and is not read yet.
pub(super) struct Queue<T> {
    decode: fn(&Incoming<'_>) -> Option<T>,
    state: Mutex<State<T>>,
}

struct State<T> {
    waiting: VecDeque<T>,
    waker: Option<Waker>,
    has_ended: bool,
}

/// A queue, from both its sides.
pub(super) fn queue<T: Send + 'static>(decode: fn(&Incoming<'_>) -> Option<T>) -> (Arc<dyn Sink>, Arc<Queue<T>>) {
    let state = Mutex::new(State { waiting: VecDeque::new(), waker: None, has_ended: false });
    let queue = Arc::new(Queue { decode, state });
    (Arc::clone(&queue) as _, queue)
}

impl<T: Send> Sink for Queue<T> {
    fn take(&self, message: &Incoming<'_>, capacity: usize) -> Result<(), Full> {
        let Some(item) = (self.decode)(message) else { return Ok(()) };
        let mut state = self.state.lock();
        if state.waiting.len() >= capacity {
            return Err(Full);
        }
        state.waiting.push_back(item);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    fn lose(&self) {}

    fn end(&self) {
        let mut state = self.state.lock();
        state.has_ended = true;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}

/// The messages of one subscription, until dropped. Those that come while the connection is lost are not
/// among them: see [`Link::connects`](super::Link::connects).
pub(in super::super) struct Follower<T> {
    queue: Arc<Queue<T>>,
    _followed: Followed,
}

impl<T> Follower<T> {
    pub(super) fn new(queue: Arc<Queue<T>>, followed: Followed) -> Self {
        Self { queue, _followed: followed }
    }
}

impl<T> Stream for Follower<T> {
    type Item = T;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.queue.state.lock();
        if let Some(item) = state.waiting.pop_front() {
            return Poll::Ready(Some(item));
        }
        if state.has_ended {
            return Poll::Ready(None);
        }
        if state.waiting.capacity() > KEPT {
            state.waiting = VecDeque::new();
        }
        if state.waker.as_ref().is_none_or(|waker| !waker.will_wake(context.waker())) {
            state.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}
