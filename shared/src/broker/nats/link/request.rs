//! Requests and their answers.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{super::exchange::ExchangeError, Followed, Full, Incoming, Link, Publication, Sink, wire};

/// What comes back for a token.
type Answer<T> = Result<T, ExchangeError>;

/// Requests over one connection. An entry goes when its caller gives up, and all fail at once when the connection is lost.
pub(in super::super) struct Requests<T> {
    link: Link,
    inbox: String,
    next: AtomicU64,
    waiting: Arc<Waiting<T>>,
    _answers: Followed,
}

/// Who waits, by token.
struct Waiting<T> {
    decode: fn(&Incoming<'_>) -> T,
    table: Mutex<HashMap<u64, oneshot::Sender<Answer<T>>>>,
}

/// Forgets the request however its caller leaves.
struct Slot<'a, T> {
    waiting: &'a Waiting<T>,
    token: u64,
}

impl<T> Drop for Slot<'_, T> {
    fn drop(&mut self) {
        self.waiting.table.lock().remove(&self.token);
    }
}

impl<T: Send> Sink for Waiting<T> {
    fn take(&self, message: &Incoming<'_>, _capacity: usize) -> Result<(), Full> {
        let token = message.subject.rsplit('.').next().and_then(|token| token.parse().ok());
        let caller = token.and_then(|token: u64| self.table.lock().remove(&token));
        if let Some(caller) = caller {
            let nobody = message.status == Some(wire::NO_RESPONDERS);
            // It may have given up meanwhile.
            let _ = caller.send(if nobody { Err(ExchangeError::NoResponders) } else { Ok((self.decode)(message)) });
        }
        Ok(())
    }

    fn lose(&self) {
        // Dropping the senders wakes the callers.
        self.table.lock().clear();
    }

    fn end(&self) {
        self.lose();
    }
}

impl<T: Send + 'static> Requests<T> {
    /// Answers come below `inbox`, where nobody else's may.
    pub(in super::super) fn new(link: &Link, inbox: String, decode: fn(&Incoming<'_>) -> T) -> Self {
        let waiting = Arc::new(Waiting { decode, table: Mutex::default() });
        let answers = link.follow(format!("{inbox}.*"), Arc::clone(&waiting) as _);
        Self { link: link.clone(), inbox, next: AtomicU64::new(0), waiting, _answers: answers }
    }

    pub(in super::super) fn is_connected(&self) -> bool {
        self.link.is_connected()
    }

    pub(in super::super) fn is_at_least(&self, version: (u32, u32, u32)) -> bool {
        self.link.is_at_least(version)
    }

    /// Sends `publication`, whose `reply` is set here, and waits for one answer.
    pub(in super::super) async fn call(&self, publication: Publication<'_>, timeout: Duration) -> Answer<T> {
        self.call_all(&[publication], timeout).await
    }

    /// Sends all of `publications` with nothing between them, or none, and waits for one answer: to the last, whose `reply` is
    /// set here.
    pub(in super::super) async fn call_all(&self, publications: &[Publication<'_>], timeout: Duration) -> Answer<T> {
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.waiting.table.lock().insert(token, sender);
        let _slot = Slot { waiting: &self.waiting, token };
        let reply = format!("{}.{token}", self.inbox);
        let last = publications.len().saturating_sub(1);
        let to_us = |number| (number == last).then_some(&*reply);
        self.link.publish(publications.iter().enumerate().map(|(number, one)| Publication { reply: to_us(number), ..*one }))?;
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(ExchangeError::Disconnected),
            Err(_) => Err(ExchangeError::TimedOut),
        }
    }
}
