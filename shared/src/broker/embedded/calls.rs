//! Calls and announcements over channels.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::stream;
use parking_lot::Mutex;
use tokio::sync::{broadcast, mpsc, oneshot};
use tracing::debug;

use super::super::{BrokerError, Call, Calls, Control, Controls};

/// Who answers calls; they take turns.
pub(super) struct Servers {
    queues: Arc<Mutex<Vec<mpsc::Sender<Call>>>>,
    turn: AtomicUsize,
    capacity: usize,
}

impl Servers {
    pub(super) fn new(capacity: usize) -> Self {
        Self { queues: Arc::default(), turn: AtomicUsize::new(0), capacity: capacity.max(1) }
    }

    pub(super) fn serve(&self) -> Calls {
        let (sender, receiver) = mpsc::channel(self.capacity);
        self.queues.lock().push(sender);
        Box::pin(stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver))))
    }

    fn next(&self) -> Option<mpsc::Sender<Call>> {
        let mut queues = self.queues.lock();
        queues.retain(|queue| !queue.is_closed());
        let turn = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(queues.len())?;
        queues.get(turn).cloned()
    }

    pub(super) async fn request(&self, name: &str, payload: Bytes, timeout: Duration) -> Result<Bytes, BrokerError> {
        let exchange = async {
            let server = self.next().ok_or(BrokerError::NoResponder)?;
            let (respond, answer) = oneshot::channel();
            let call = Call { name: name.to_owned(), payload, respond };
            server.send(call).await.map_err(|_| BrokerError::NoResponder)?;
            answer.await.map_err(|_| BrokerError::Unavailable("the call was dropped".to_owned()))
        };
        tokio::time::timeout(timeout, exchange).await.map_err(|_| BrokerError::Unavailable("the call timed out".to_owned()))?
    }
}

/// Announcements; one who lags loses some, as over a network.
pub(super) fn controls(receiver: broadcast::Receiver<Control>) -> Controls {
    Box::pin(stream::unfold(receiver, async |mut receiver| {
        loop {
            match receiver.recv().await {
                Ok(control) => return Some((control, receiver)),
                Err(broadcast::error::RecvError::Lagged(missed)) => debug!(missed, "controls_missed"),
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }))
}
