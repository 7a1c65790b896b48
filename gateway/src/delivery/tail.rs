//! Finds losses that no later event would show: after every disturbance of the broker, and once a
//! minute, the last event of each followed topic is compared with the last one delivered.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use natter_shared::{
    broker::{BrokerError, BrokerStatus},
    id::GroupId,
    position::Position,
    subject::{Shard, Topic},
};
use tokio::sync::{mpsc::error::TrySendError, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    group::{self, Command},
    hub::Hub,
    users::{self, UserCommand},
};
use crate::knowledge;

/// How often without a disturbance.
const EVERY: Duration = Duration::from_mins(1);

/// Pause between two checks at least, where nothing waits for the next: a subscription that nobody reads fast enough loses
/// something with each read.
const APART: Duration = Duration::from_secs(1);

/// How long after a failed check the next one.
const RETRY: Duration = Duration::from_millis(500);

/// Topics asked about in one request.
const TOPICS: usize = 100;

/// How often idle rings are looked at when memory is tight.
const TRIM_EVERY: Duration = Duration::from_secs(5);

/// How the checks of a shard stand.
#[derive(Debug, Clone, Copy, Default)]
struct Checks {
    /// Where the last one ended: only what came after is asked for.
    upto: Option<Position>,
    /// Something may have been lost that none has looked for yet.
    disturbed: bool,
}

/// How often live delivery may have lost something; a disturbance changes it.
fn disturbances(status: BrokerStatus) -> (u64, u64) {
    (status.generation, status.elections)
}

/// Checks until `stop`.
pub(super) async fn run(hub: Arc<Hub>, stop: CancellationToken) {
    let mut status = hub.broker.status();
    let mut known = disturbances(*status.borrow_and_update());
    let mut shards: Vec<Checks> = hub.broker.shards().iter().map(|_| Checks::default()).collect();
    let mut trim = tokio::time::interval(TRIM_EVERY);
    // At once: an epoch that ends later is known by comparison with the one that was seen first.
    let mut due = tokio::time::Instant::now();
    let mut ended = due;
    // Those before the last check.
    let mut interruptions = hub.broker.interruptions();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = status.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = *status.borrow_and_update();
                if now.connected && disturbances(now) != known {
                    known = disturbances(now);
                    for checks in &mut shards {
                        checks.disturbed = true;
                    }
                    // What is held waits for the check that an interruption makes due.
                    let is_waited_for = hub.broker.interruptions() != interruptions;
                    due = due.min(if is_waited_for { tokio::time::Instant::now() } else { ended + APART });
                }
            }
            () = tokio::time::sleep_until(due) => {
                // While nobody can be asked there is nothing to say; the reconnect makes it due.
                if !hub.broker.status().borrow().connected {
                    due = tokio::time::Instant::now() + RETRY;
                    continue;
                }
                interruptions = hub.broker.interruptions();
                let done = tokio::select! {
                    done = check_all(&hub, &mut shards) => done,
                    () = stop.cancelled() => return,
                };
                ended = tokio::time::Instant::now();
                let jitter = Duration::from_millis(rand::random_range(0..5_000));
                due = ended + if done { EVERY + jitter } else { RETRY };
            }
            _ = trim.tick() => trim_rings(&hub),
        }
    }
}

/// All shards at the same time: none waits for one without a leader. False where one is to be checked
/// again soon.
async fn check_all(hub: &Hub, shards: &mut [Checks]) -> bool {
    let checks = hub.broker.shards().iter().zip(shards).map(|(shard, checks)| async move {
        match check(hub, shard, *checks).await {
            Ok(upto) => {
                *checks = Checks { upto: Some(upto), disturbed: false };
                true
            }
            // Nothing can have been lost from a log that nobody has made yet.
            Err(BrokerError::NoLog(_)) => false,
            Err(error) => {
                tracing::warn!(%shard, %error, "tail_check_failed");
                false
            }
        }
    });
    futures::future::join_all(checks).await.into_iter().all(|done| done)
}

/// Looks for what was missed in `shard` since the check before, and tells all who follow something of it.
async fn check(hub: &Hub, shard: Shard, checks: Checks) -> Result<Position, BrokerError> {
    let Checks { upto: before, mut disturbed } = checks;
    let status = || disturbances(*hub.broker.status().borrow());
    let known = status();
    // What an interruption after this lost is for the next check.
    let interruptions = hub.broker.interruptions();
    let (begun, losses) = (Instant::now(), knowledge::losses(&*hub.broker));
    let floor = hub.broker.fence(shard).await?;
    disturbed |= status() != known;
    let shards = hub.broker.shards();
    let groups = hub.groups.iter().map(|entry| *entry.key()).filter(|group| shards.of(Topic::Group(*group)) == shard);
    let groups: Vec<GroupId> = groups.collect();
    let listed = users_of(hub, shard, disturbed.then_some(floor)).await;
    let is_listed = listed.is_some();
    let users::Listed { users, unchecked } = listed.unwrap_or_default();
    // A group followed since the last check was fenced later than it. A user who came while that was under way may have
    // begun before it ended, and was not asked about.
    let after = before.map(|before| unchecked.map_or(before, |unchecked| unchecked.min(before)));
    let after = after.filter(|after| after.epoch == floor.epoch).unwrap_or(Position::new(floor.epoch, 0));
    let mut last: HashMap<Topic, u64> = HashMap::new();
    // In NATS a fence is an event itself; elsewhere a log may stand where it stood.
    if after < floor {
        let topics: Vec<Topic> = groups.iter().copied().map(Topic::Group).chain(users.into_iter().map(Topic::User)).collect();
        for some in topics.chunks(TOPICS) {
            last.extend(hub.broker.tails(shard, some, after, floor).await?.changed);
        }
    }
    // Afterwards: what was evicted before it was asked for may have been somebody's last event.
    let first = hub.log_states.first(&*hub.broker, shard, floor, tokio::time::Instant::now()).await?;
    let first = first.ok_or(BrokerError::NoLog(shard))?;
    for group in groups {
        let last = last.get(&Topic::Group(group)).copied();
        tell_group(hub, group, group::Checked { interruptions, upto: floor, first, last });
    }
    let busy = || BrokerError::Unavailable("the users' task does not listen".to_owned());
    if !is_listed {
        // It may read the question yet, and would take them for asked about.
        return Err(busy());
    }
    if let Some(mailbox) = hub.users.get(usize::from(shard.0)) {
        let of_user = |(topic, last)| match topic {
            Topic::User(user) => Some((user, last)),
            Topic::Group(_) | Topic::Canary(_) => None,
        };
        let last = last.into_iter().filter_map(of_user).collect();
        let disturbed = disturbed || status() != known;
        let checked = users::Checked { interruptions, losses, disturbed, upto: floor, first, last };
        // Not told, it is asked again from where this check began.
        let told = mailbox.send_timeout(UserCommand::Checked(checked), RETRY).await;
        told.map_err(|_| busy())?;
    }
    if !disturbed && status() != known {
        // Who came meanwhile was not told where it begins: the next check asks for the same once more.
        return Err(BrokerError::Unavailable("disturbed meanwhile".to_owned()));
    }
    hub.knowledge.checked(shard, begun, losses);
    Ok(floor)
}

/// One that is busy does not hold up the others.
fn tell_group(hub: &Hub, group: GroupId, checked: group::Checked) {
    let Some(mailbox) = hub.groups.get(&group).map(|mailbox| mailbox.clone()) else { return };
    if let Err(TrySendError::Full(command)) = mailbox.try_send(Command::Checked(Box::new(checked))) {
        // As many at most as there are groups, until the next check.
        hub.tasks.spawn(async move { mailbox.send(command).await });
    }
}

/// The users of `shard`, who are checked after a disturbance up to `disturbed`; none where their task is busy, or subscribing
/// anew.
async fn users_of(hub: &Hub, shard: Shard, disturbed: Option<Position>) -> Option<users::Listed> {
    let (answer, answered) = oneshot::channel();
    let Some(mailbox) = hub.users.get(usize::from(shard.0)) else { return Some(users::Listed::default()) };
    mailbox.send_timeout(UserCommand::List(disturbed, answer), RETRY).await.ok()?;
    tokio::time::timeout(RETRY, answered).await.ok()?.ok()
}

/// Where rings hold nearly all they may, idle groups give back theirs.
fn trim_rings(hub: &Hub) {
    if hub.ring_budget.is_tight() {
        for mailbox in &hub.groups {
            let _ = mailbox.try_send(Command::Trim);
        }
    }
}
