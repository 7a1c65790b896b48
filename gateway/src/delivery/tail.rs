//! Finds losses that no later event would show: after every disturbance of the broker, and once a
//! minute, the last event of each followed topic is compared with the last one delivered.

use std::{collections::HashMap, sync::Arc, time::Duration};

use natter_shared::{
    broker::BrokerError,
    id::UserKey,
    position::Position,
    subject::{Shard, Topic},
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{group::Command, hub::Hub, users::UserCommand};

/// How often without a disturbance.
const EVERY: Duration = Duration::from_mins(1);

/// How long after a failed check the next one.
const RETRY: Duration = Duration::from_millis(500);

/// Topics asked about in one request.
const TOPICS: usize = 100;

/// How often idle rings are looked at when memory is tight.
const TRIM_EVERY: Duration = Duration::from_secs(5);

/// Checks until `stop`.
pub(super) async fn run(hub: Arc<Hub>, stop: CancellationToken) {
    let mut status = hub.broker.status();
    let mut generation = status.borrow_and_update().generation;
    // Where the last check ended: only what came after it is asked for.
    let mut checked: HashMap<Shard, Position> = HashMap::new();
    let mut trim = tokio::time::interval(TRIM_EVERY);
    // At once: an epoch that ends later is known by comparison with the one that was seen first.
    let mut due = tokio::time::Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = status.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = *status.borrow_and_update();
                if now.connected && now.generation != generation {
                    generation = now.generation;
                    due = tokio::time::Instant::now();
                }
            }
            () = tokio::time::sleep_until(due) => {
                // While nobody can be asked there is nothing to say; the reconnect makes it due.
                if !hub.broker.status().borrow().connected {
                    due = tokio::time::Instant::now() + RETRY;
                    continue;
                }
                let mut failed = false;
                for shard in hub.broker.shards().iter() {
                    match check(&hub, shard, &mut checked).await {
                        Ok(()) => {}
                        // Nothing can have been lost from a log that nobody has made yet.
                        Err(BrokerError::NoLog(_)) => failed = true,
                        Err(error) => {
                            tracing::warn!(%shard, %error, "tail_check_failed");
                            failed = true;
                        }
                    }
                }
                let jitter = Duration::from_millis(rand::random_range(0..5_000));
                due = tokio::time::Instant::now() + if failed { RETRY } else { EVERY + jitter };
            }
            _ = trim.tick() => trim_rings(&hub),
        }
    }
}

async fn check(hub: &Hub, shard: Shard, checked: &mut HashMap<Shard, Position>) -> Result<(), BrokerError> {
    let floor = hub.broker.fence(shard).await?;
    let before = checked.get(&shard).copied();
    let shards = hub.broker.shards();
    let mut topics: Vec<Topic> =
        hub.groups.iter().map(|entry| Topic::Group(*entry.key())).filter(|topic| shards.of(*topic) == shard).collect();
    topics.extend(users_of(hub, shard).await.into_iter().map(Topic::User));
    if before.is_some_and(|before| before.epoch != floor.epoch) {
        // What the old epoch lost shows in no topic: all of them start anew.
        for topic in &topics {
            tell(hub, shard, *topic, floor, 0).await;
        }
    }
    // A topic followed since the last check was fenced later than it, so nothing of it is older.
    let after = before.filter(|before| before.epoch == floor.epoch).unwrap_or(Position::new(floor.epoch, 0));
    for some in topics.chunks(TOPICS) {
        let tails = hub.broker.tails(shard, some, after, floor).await?;
        for (topic, last) in tails.changed {
            tell(hub, shard, topic, tails.upto, last).await;
        }
    }
    checked.insert(shard, floor);
    Ok(())
}

async fn users_of(hub: &Hub, shard: Shard) -> Vec<UserKey> {
    let (answer, answered) = oneshot::channel();
    let Some(mailbox) = hub.users.get(usize::from(shard.0)) else { return Vec::new() };
    match mailbox.send(UserCommand::List(answer)).await {
        // A task that is subscribing anew does not listen; its users join anew afterwards.
        Ok(()) => tokio::time::timeout(RETRY, answered).await.ok().and_then(Result::ok).unwrap_or_default(),
        Err(_) => Vec::new(),
    }
}

async fn tell(hub: &Hub, shard: Shard, topic: Topic, upto: Position, last: u64) {
    match topic {
        Topic::Group(group) => {
            let mailbox = hub.groups.get(&group).map(|mailbox| mailbox.clone());
            if let Some(mailbox) = mailbox {
                let _ = mailbox.send(Command::Tail { upto, last }).await;
            }
        }
        Topic::User(user) => {
            if let Some(mailbox) = hub.users.get(usize::from(shard.0)) {
                let _ = mailbox.send(UserCommand::Tail { user, upto, last }).await;
            }
        }
        Topic::Canary(_) => {}
    }
}

/// Where rings hold nearly all they may, idle groups give back theirs.
fn trim_rings(hub: &Hub) {
    if hub.ring_budget.is_tight() {
        for mailbox in &hub.groups {
            let _ = mailbox.try_send(Command::Trim);
        }
    }
}
