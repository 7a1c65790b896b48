//! Ids that a leader takes for in flight for ever.
//!
//! A leader of a clustered stream remembers the ids of what it has proposed, and answers 10158 to a second copy until the
//! first is stored. When it loses its leadership, proposals are lost, and it forgets those ids; but NATS 2.12 to 2.15.1 stop
//! forgetting at the first that was stored while the server already followed (`processStreamLeaderChange` in its
//! `jetstream_cluster.go`, and how `processJetStreamMsg` adds to `ddarr` in `stream.go`). If the same server is elected again, it
//! refuses the ids before that one for the whole `duplicate_window`. Another server takes them: so such a leader is asked to
//! step down.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    api::{Api, ApiError},
    connect::Health,
};
use crate::subject::{Shard, Shards};

/// Between two requests to the leaders of one shard: the next one takes a moment, and may be well.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// Before it is asked again where it could not be: it takes a leader of JetStream itself, which a cluster may lack for some
/// seconds when the shards have theirs.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Up to so long a request waits for that of another process, which may have the same to complain of.
const AFTER_OTHERS: Duration = Duration::from_millis(300);

/// When the leader of each shard was last asked to hand over.
pub(super) struct Stuck {
    asked: Vec<Mutex<Option<Instant>>>,
}

/// Why a leader was not asked, or did not do it.
#[derive(Debug, thiserror::Error)]
enum NotAsked {
    #[error("the shard has another leader by now")]
    Another,
    #[error("no other server has all of the stream")]
    NoSuccessor,
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("nobody could be asked in time")]
    TimedOut,
}

impl Stuck {
    pub(super) fn new(shards: Shards) -> Self {
        Self { asked: shards.iter().map(|_| Mutex::default()).collect() }
    }

    /// Whether the leader may be asked now; if so it counts as asked.
    fn may_ask(&self, shard: Shard, now: Instant) -> bool {
        let Some(asked) = self.asked.get(usize::from(shard.0)) else { return false };
        let mut asked = asked.lock();
        let may = asked.is_none_or(|asked| now.duration_since(asked) >= ASK_EVERY);
        if may {
            *asked = Some(now);
        }
        may
    }

    /// Asks the leader of `stream` to hand over, unless that was done a moment ago. Does not wait for it. `leaders` is
    /// how often there was another leader when it was found to hold what is lost.
    pub(super) fn ask_to_step_down(&self, shard: Shard, stream: &str, leaders: u64, api: &Api, health: &Arc<Health>) {
        if !self.may_ask(shard, Instant::now()) {
            return;
        }
        let (api, health, stream) = (api.clone(), Arc::clone(health), stream.to_owned());
        tokio::spawn(async move {
            let asking = async {
                loop {
                    match hand_over(&api, &health, &stream, leaders).await {
                        Err(NotAsked::NoSuccessor | NotAsked::Api(_)) => tokio::time::sleep(ASK_AGAIN).await,
                        asked => break asked,
                    }
                }
            };
            let asked = tokio::time::timeout(ASK_EVERY, asking).await.unwrap_or(Err(NotAsked::TimedOut));
            let error = asked.err().map(|error| error.to_string());
            tracing::warn!(%shard, stream, error, "leader_with_lost_ids_asked_to_step_down");
        });
    }
}

async fn hand_over(api: &Api, health: &Health, stream: &str, leaders: u64) -> Result<(), NotAsked> {
    tokio::time::sleep(AFTER_OTHERS.mul_f64(rand::random())).await;
    let info = api.stream_info(stream).await?;
    // Without a name, NATS takes any that it has heard of lately, and an election follows if that one is behind.
    let successor = info.successor().ok_or(NotAsked::NoSuccessor)?;
    if health.watch().borrow().leaders != leaders {
        return Err(NotAsked::Another);
    }
    let preferred = json!({"placement": {"preferred": successor}});
    api.call::<Value>(&format!("STREAM.LEADER.STEPDOWN.{stream}"), &preferred).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_is_not_asked_again_at_once() {
        let stuck = Stuck::new(Shards::new(2).unwrap());
        let start = Instant::now();
        assert!(stuck.may_ask(Shard(0), start));
        assert!(!stuck.may_ask(Shard(0), start + ASK_EVERY / 2));
        assert!(stuck.may_ask(Shard(1), start + ASK_EVERY / 2));
        assert!(stuck.may_ask(Shard(0), start + ASK_EVERY));
        assert!(!stuck.may_ask(Shard(7), start));
    }
}
