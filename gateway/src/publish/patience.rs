//! Publishing with patience: an event is tried again, with the same id and in order, until it is
//! known to be stored or the deadline has passed.

use std::time::Duration;

use natter_shared::{
    broker::{Ack, Broker, BrokerError, Outgoing},
    failpoint,
    frame::ErrorCode,
    id::EventId,
};
use tokio::time::Instant;

/// Why an event was not accepted, and what to tell its sender.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Not known whether it is stored.
    #[error("not known whether it was stored: {0}")]
    Pending(BrokerError),
    /// Not stored: too much is in flight.
    #[error("{0}")]
    Busy(BrokerError),
    /// Not stored, for good.
    #[error("{0}")]
    Refused(BrokerError),
}

impl PublishError {
    /// The code of the `error` frame that says so.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Pending(_) => ErrorCode::Pending,
            Self::Busy(_) => ErrorCode::Busy,
            Self::Refused(_) => ErrorCode::TooLarge,
        }
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Stores `event`, trying for as long as `patience`.
pub async fn publish(broker: &dyn Broker, event: &Outgoing, patience: Duration) -> Result<Ack, PublishError> {
    let deadline = Instant::now() + patience;
    let mut pause = FIRST_PAUSE;
    loop {
        let mut event = event.clone();
        if failpoint::hit("no-dedup") {
            event.id = EventId::random();
        }
        let error = match broker.publish(event).await {
            Ok(ack) => return Ok(ack),
            Err(BrokerError::Refused(reason)) => return Err(PublishError::Refused(BrokerError::Refused(reason))),
            Err(error) => error,
        };
        if Instant::now() + pause >= deadline {
            return Err(match error {
                BrokerError::Busy => PublishError::Busy(error),
                BrokerError::Unavailable(_)
                | BrokerError::NoLog(_)
                | BrokerError::Epoch { .. }
                | BrokerError::Evicted { .. }
                | BrokerError::Refused(_)
                | BrokerError::NoResponder => PublishError::Pending(error),
            });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
