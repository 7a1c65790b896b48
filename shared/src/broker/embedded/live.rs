//! Live delivery: who is interested in what, each with a bounded queue that never holds up the
//! writer.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::Stream;
use parking_lot::RwLock;
use tokio::sync::{mpsc, watch};

use super::super::{BrokerStatus, Delivery, Interest, Stored, Subscription};
use crate::subject::{Shard, Topic};

type Queues = Vec<(u64, mpsc::Sender<Delivery>)>;

/// The subscriptions of this process.
pub(super) struct Hub {
    table: RwLock<HashMap<Interest, Queues>>,
    next: AtomicU64,
    status: Arc<watch::Sender<BrokerStatus>>,
    capacity: usize,
}

/// Yields deliveries; leaves the table when dropped.
struct Live {
    hub: Arc<Hub>,
    interest: Interest,
    id: u64,
    queue: mpsc::Receiver<Delivery>,
}

impl Stream for Live {
    type Item = Delivery;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Delivery>> {
        self.queue.poll_recv(context)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let mut table = self.hub.table.write();
        let Some(queues) = table.get_mut(&self.interest) else { return };
        queues.retain(|(id, _)| *id != self.id);
        if queues.is_empty() {
            table.remove(&self.interest);
        }
    }
}

impl Hub {
    pub(super) fn new(status: Arc<watch::Sender<BrokerStatus>>, capacity: usize) -> Self {
        Self { table: RwLock::default(), next: AtomicU64::new(0), status, capacity: capacity.max(1) }
    }

    /// Delivers from here on.
    pub(super) fn subscribe(hub: &Arc<Self>, interest: Interest) -> Subscription {
        let id = hub.next.fetch_add(1, Ordering::Relaxed);
        let (sender, queue) = mpsc::channel(hub.capacity);
        hub.table.write().entry(interest).or_default().push((id, sender));
        Subscription::new(Live { hub: Arc::clone(hub), interest, id, queue })
    }

    /// Delivers a committed group in its order.
    pub(super) fn deliver(&self, events: impl Iterator<Item = (Shard, Stored)>) {
        let mut lost = 0u64;
        for (shard, stored) in events {
            let topic = stored.topic;
            lost += self.pass(shard, topic, &Delivery::Stored(stored));
        }
        self.count_lost(lost);
    }

    pub(super) fn deliver_ephemeral(&self, shard: Shard, topic: Topic, payload: Bytes) {
        let lost = self.pass(shard, topic, &Delivery::Ephemeral { topic, payload });
        // Of a group it is of the moment (typing): nobody would look for it.
        if !matches!(topic, Topic::Group(_)) {
            self.count_lost(lost);
        }
    }

    fn pass(&self, shard: Shard, topic: Topic, delivery: &Delivery) -> u64 {
        let of_users = matches!(topic, Topic::User(_)).then_some(Interest::Users(shard));
        let table = self.table.read();
        let queues = [Some(Interest::Topic(topic)), of_users].into_iter().flatten();
        let mut lost = 0;
        for (_, queue) in queues.filter_map(|interest| table.get(&interest)).flatten() {
            match queue.try_send(delivery.clone()) {
                // Closed: about to leave the table.
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
                Err(mpsc::error::TrySendError::Full(_)) => lost += 1,
            }
        }
        lost
    }

    fn count_lost(&self, lost: u64) {
        if lost > 0 {
            tracing::warn!(dropped = lost, "live_deliveries_dropped");
            self.status.send_modify(|status| status.generation += 1);
        }
    }
}
