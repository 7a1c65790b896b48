//! Reads back a few events that live delivery missed. All or none of them: they are delivered only
//! once it is sure that none is missing.

use std::time::Duration;

use natter_shared::{broker::Stored, position::Position, subject::Topic};
use tokio::time::Instant;

use super::hub::Hub;

/// Before a missing event is asked for again.
const PAUSE: Duration = Duration::from_millis(20);

/// More than so many are not read one by one: the sessions recover, with the others that do.
const EVENTS: usize = 256;

/// The events of `topic` after `after` up to the one at sequence `last`, which is known to be stored;
/// none where that cannot be shown to be all.
pub(super) async fn missed(hub: &Hub, topic: Topic, after: Position, last: u64) -> Option<Vec<Stored>> {
    let deadline = Instant::now() + hub.limits.gap_fill_timeout;
    let mut events: Vec<Stored> = Vec::new();
    let read = async {
        let mut at = after;
        while at.seq < last && events.len() < EVENTS {
            match hub.broker.next_of(topic, at).await {
                Ok(Some(stored)) if stored.position.epoch == after.epoch && stored.position.seq <= last => {
                    at = stored.position;
                    events.push(stored);
                }
                // A replica that lags behind, or nobody to ask just now.
                Ok(None) => tokio::time::sleep(PAUSE).await,
                Err(error) if error.is_retryable() => tokio::time::sleep(PAUSE).await,
                Ok(Some(_)) | Err(_) => return false,
            }
        }
        at.seq >= last
    };
    let read = tokio::time::timeout_at(deadline, read).await.unwrap_or(false);
    // What was evicted before it was read may have been ours.
    (read && is_whole(hub, topic, after, Instant::now()).await).then_some(events)
}

/// Whether the log had everything of `topic` after `after` at some time after `since`; not where that cannot be known in time.
pub(super) async fn is_whole(hub: &Hub, topic: Topic, after: Position, since: Instant) -> bool {
    let shard = hub.broker.shards().of(topic);
    let held = async {
        loop {
            match hub.log_states.held(&*hub.broker, shard, after, since).await {
                Ok(held) => return held,
                Err(error) if error.is_retryable() => tokio::time::sleep(PAUSE).await,
                Err(_) => return false,
            }
        }
    };
    // Also where others ask, or nobody answers.
    tokio::time::timeout_at(since + hub.limits.gap_fill_timeout, held).await.unwrap_or(false)
}
