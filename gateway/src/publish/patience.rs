//! Publishing with patience: an event is tried again, with the same id and in order, until it is
//! known to be stored or the deadline has passed. What cannot be taken now is refused at once:
//! nothing queues up here.

use std::time::Duration;

use natter_shared::{
    broker::{Ack, Broker, BrokerError, BrokerStatus, Outgoing},
    failpoint,
    frame::ErrorCode,
    id::EventId,
};
use tokio::{sync::watch, time::Instant};

use super::Intake;
use crate::metrics::Busy;

/// Why an event was not accepted, and what to tell its sender.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Not known whether it is stored.
    #[error("not known whether it was stored: {0}")]
    Pending(BrokerError),
    /// Not stored: too much is in flight.
    #[error("too much is in flight")]
    Busy,
    /// Not stored: SQL is so far behind that the shard takes no more.
    #[error("the database is too far behind; try again later")]
    Behind,
    /// Not stored: its shard has gone on in another epoch than the event may be stored in.
    #[error("the shard has gone on in another epoch")]
    OtherEpoch,
    /// Not stored, for good.
    #[error("{0}")]
    Refused(BrokerError),
}

impl PublishError {
    /// The code of the `error` frame that says so.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Pending(_) | Self::OtherEpoch => ErrorCode::Pending,
            Self::Busy | Self::Behind => ErrorCode::Busy,
            Self::Refused(_) => ErrorCode::TooLarge,
        }
    }

    /// When it may be worth another try; with jitter, so that not all come back at once.
    pub fn retry_after(&self) -> Option<Duration> {
        let between = |low: u64, high: u64| Some(Duration::from_millis(rand::random_range(low..high)));
        match self {
            Self::Pending(_) | Self::OtherEpoch | Self::Busy => between(300, 1000),
            // The database has to come back first, or to catch up.
            Self::Behind => between(2000, 6000),
            Self::Refused(_) => None,
        }
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Stores `event`, trying for as long as `patience`.
///
/// # Errors
/// `Busy` or `Behind` at once, where nothing was tried yet; the others after `patience`.
pub async fn publish(broker: &dyn Broker, intake: &Intake, event: &Outgoing, patience: Duration) -> Result<Ack, PublishError> {
    if !intake.admits(broker.shards().of(event.topic)) {
        intake.metrics().busy(Busy::Shard);
        return Err(PublishError::Behind);
    }
    let (deadline, only) = (Instant::now() + patience, event.epoch);
    let mut status = broker.status();
    let mut pause = FIRST_PAUSE;
    let mut in_doubt = false;
    loop {
        let before = *status.borrow();
        let (mut event, id) = (event.clone(), event.id);
        if failpoint::hit("no-dedup") {
            event.id = EventId::random();
        }
        let attempt = tokio::time::timeout_at(deadline, broker.publish(event)).await;
        let error = match attempt.unwrap_or_else(|_| Err(BrokerError::Unavailable("no answer in time".to_owned()))) {
            Ok(ack) => return Ok(ack),
            // What was tried before may be on its way, and stored.
            Err(error @ BrokerError::Refused(_)) if in_doubt => return Err(PublishError::Pending(error)),
            Err(error @ BrokerError::Refused(_)) => return Err(PublishError::Refused(error)),
            Err(BrokerError::Busy) if !in_doubt => {
                intake.metrics().busy(Busy::Gateway);
                return Err(PublishError::Busy);
            }
            Err(BrokerError::Epoch { .. }) if only.is_some() => return Err(PublishError::OtherEpoch),
            Err(error) => error,
        };
        tracing::debug!(event = %id, %error, "publish_tried");
        // A copy may be stored, or on its way: from here on "busy" would be half a truth.
        in_doubt = true;
        if Instant::now() + pause >= deadline {
            return Err(PublishError::Pending(error));
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            () = is_back(&mut status, before) => {
                tokio::time::sleep(FIRST_PAUSE).await;
                pause = FIRST_PAUSE;
            }
        }
    }
}

/// Waits until the broker may take what it did not since `before`: connected again, or a log has another leader.
async fn is_back(status: &mut watch::Receiver<BrokerStatus>, before: BrokerStatus) {
    let is_back = |now: &BrokerStatus| now.leaders != before.leaders || (now.connected && !before.connected);
    if status.wait_for(is_back).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::Ordering};

    use bytes::Bytes;
    use natter_shared::{id::UserId, subject::Topic, telemetry::metrics::Registry};

    use super::*;
    use crate::{metrics::Metrics, testing::FakeBroker};

    #[tokio::test(start_paused = true)]
    async fn a_refusal_after_a_try_in_doubt_is_no_refusal() {
        let broker = FakeBroker::default();
        let intake = Intake::new(broker.shards(), Arc::new(Metrics::new(&Registry::new("test"))));
        let topic = Topic::User(UserId::new("ann").unwrap().key());
        let event = Outgoing { topic, id: EventId::random(), made_at: broker.now(), epoch: None, payload: Bytes::new() };
        broker.refuses.store(true, Ordering::Relaxed);
        let refused = publish(&broker, &intake, &event, Duration::from_secs(5)).await;
        assert!(matches!(refused, Err(PublishError::Refused(_))), "{refused:?}");
        broker.stores_nothing.store(true, Ordering::Relaxed);
        let later = async {
            tokio::time::sleep(FIRST_PAUSE / 2).await;
            broker.stores_nothing.store(false, Ordering::Relaxed);
        };
        let (refused, ()) = tokio::join!(publish(&broker, &intake, &event, Duration::from_secs(5)), later);
        assert!(matches!(refused, Err(PublishError::Pending(_))), "the first copy may be stored: {refused:?}");
    }
}
