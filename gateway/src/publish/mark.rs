//! A user's own marks (read, seen, archived): stored on the user's topic, and waited for where the
//! next page has to show them.

use std::time::Duration;

use natter_shared::{
    broker::{Broker, Outgoing},
    event::Event,
    frame::ErrorCode,
    id::{EventId, UserKey},
    rpc::{self, AwaitApplied, ShardPosition},
    subject::Topic,
};
use tokio::time::Instant;

use super::{Intake, NotAccepted, publish};

/// Between two looks whether SQL has come far enough: one call waits a second by itself.
const PAUSE: Duration = Duration::from_millis(100);

/// Stores a mark on the user's own topic.
///
/// # Errors
/// `busy` at once, `pending` after `patience`.
pub async fn mark(
    broker: &dyn Broker,
    intake: &Intake,
    user: UserKey,
    event: &Event,
    patience: Duration,
) -> Result<ShardPosition, NotAccepted> {
    let topic = Topic::User(user);
    let payload = event.encode().map_err(|error| NotAccepted::new(ErrorCode::BadRequest, error.to_string()))?;
    let outgoing = Outgoing { topic, id: EventId::random(), made_at: broker.now(), epoch: None, payload };
    let ack = publish(broker, intake, &outgoing, patience).await?;
    Ok(ShardPosition { shard: broker.shards().of(topic).0, position: ack.position })
}

/// Waits until SQL shows what stands at `at`.
///
/// # Errors
/// What the persister last said, when it has not come so far within `patience`.
pub async fn wait_until_applied(broker: &dyn Broker, at: ShardPosition, patience: Duration) -> Result<(), NotAccepted> {
    let deadline = Instant::now() + patience;
    loop {
        match rpc::call(broker, AwaitApplied {}, Some(at)).await {
            Ok(_) => return Ok(()),
            Err(error) if error.code.is_retryable() && Instant::now() + PAUSE < deadline => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(error.into()),
        }
    }
}
