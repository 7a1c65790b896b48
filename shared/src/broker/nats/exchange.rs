//! Requests and their answers over one connection, by our own table: unlike the client's, an entry
//! goes when its caller gives up, and all of them fail at once when the connection is lost.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, HeaderMap, Message, StatusCode, Subject, connection::State};
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum ExchangeError {
    /// Not connected, or the connection broke before the answer.
    #[error("not connected")]
    Disconnected,
    /// More waits to be sent than may.
    #[error("more waits to be sent than may")]
    Full,
    /// Nobody listens on the subject.
    #[error("no responders")]
    NoResponders,
    /// No answer in time.
    #[error("timed out")]
    TimedOut,
    /// The request cannot be sent, for instance for its size.
    #[error("{0}")]
    Refused(String),
}

#[derive(Default)]
struct Waiting {
    next: AtomicU64,
    table: Mutex<HashMap<u64, oneshot::Sender<Message>>>,
}

/// Sends requests on one connection.
#[derive(Clone)]
pub(super) struct Exchange {
    client: Client,
    inbox: Arc<str>,
    waiting: Arc<Waiting>,
}

/// Forgets the request however its caller leaves.
struct Entry<'a> {
    waiting: &'a Waiting,
    token: u64,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.waiting.table.lock().remove(&self.token);
    }
}

impl Exchange {
    /// Starts to listen for answers, until `stop`: the subscription keeps its connection open.
    pub(super) async fn start(client: Client, stop: CancellationToken) -> Result<Self, async_nats::SubscribeError> {
        let inbox: Arc<str> = client.new_inbox().into();
        let mut answers = client.subscribe(format!("{inbox}.*")).await?;
        let waiting = Arc::new(Waiting::default());
        let table = Arc::clone(&waiting);
        tokio::spawn(async move {
            while let Some(Some(message)) = stop.run_until_cancelled(answers.next()).await {
                let token = message.subject.rsplit('.').next().and_then(|token| token.parse().ok());
                let Some(token) = token else { continue };
                let caller = table.table.lock().remove(&token);
                if let Some(caller) = caller {
                    // It may have given up meanwhile.
                    let _ = caller.send(message);
                }
            }
        });
        Ok(Self { client, inbox, waiting })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// How often it was connected: another number is another connection, perhaps to another server or store.
    pub(super) fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// What is in flight gets no answer any more.
    pub(super) fn fail_all(&self) {
        // Dropping the senders wakes the callers.
        self.waiting.table.lock().clear();
    }

    /// Sends and waits for one answer.
    pub(super) async fn call(
        &self,
        subject: Subject,
        headers: Option<HeaderMap>,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Message, ExchangeError> {
        if !self.is_connected() {
            return Err(ExchangeError::Disconnected);
        }
        let token = self.waiting.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.waiting.table.lock().insert(token, sender);
        let _entry = Entry { waiting: &self.waiting, token };
        let reply = format!("{}.{token}", self.inbox);
        let exchange = async {
            let sent = match headers {
                Some(headers) => self.client.publish_with_reply_and_headers(subject, reply, headers, payload).await,
                None => self.client.publish_with_reply(subject, reply, payload).await,
            };
            sent.map_err(|error| ExchangeError::Refused(error.to_string()))?;
            answer.await.map_err(|_| ExchangeError::Disconnected)
        };
        let message = tokio::time::timeout(timeout, exchange).await.map_err(|_| ExchangeError::TimedOut)??;
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(ExchangeError::NoResponders);
        }
        Ok(message)
    }
}
