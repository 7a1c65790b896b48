//! Live delivery: subscriptions on the subscribing connection.

use std::sync::atomic::{AtomicU64, Ordering};

use tracing::warn;

use super::{
    super::{Interest, Subscription},
    NatsBroker, envelope,
};
use crate::{
    subject::{self, Space},
    timestamp::Timestamp,
};

/// Between two warnings of foreign messages on our subjects.
const WARN_EVERY_MS: u64 = 10_000;

impl NatsBroker {
    pub(super) fn subscribe_now(&self, interest: Interest) -> Subscription {
        let subject = match interest {
            Interest::Topic(topic) => subject::subject(Space::Live, self.shards.of(topic), topic),
            Interest::Users(shard) => subject::all_users(Space::Live, shard),
        };
        Subscription::new(self.connections.live.subscribe(subject, |message| {
            let delivery = envelope::delivery(message);
            if delivery.is_none() {
                warn_of_foreign();
            }
            delivery
        }))
    }
}

/// Somebody else publishes on our subjects: worth a line, not one for each message.
pub(super) fn warn_of_foreign() {
    static WARNED_AT: AtomicU64 = AtomicU64::new(0);
    static SKIPPED: AtomicU64 = AtomicU64::new(0);
    let skipped = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    let (now, before) = (Timestamp::now().0, WARNED_AT.load(Ordering::Relaxed));
    if now.saturating_sub(before) > WARN_EVERY_MS && WARNED_AT.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        warn!(skipped, "foreign_message_skipped");
    }
}
