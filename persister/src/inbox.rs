//! Counts of inboxes, told to their owners: gathered for a moment, counted for many at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use natter_shared::{
    broker::Broker,
    event::{Audience, Ephemeral, Event, InboxCounts, Notification},
    failpoint,
    id::{NotificationId, UserId},
    position::{Epoch, Position},
    rpc::ShardPosition,
    subject::Topic,
};
use sea_orm::{ConnectionTrait, DbErr};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    checkpoint,
    database::{
        Store, answered,
        rows::{Kind, Rows},
    },
    error::Error,
    options::Options,
};

/// Recipients counted, or notifications looked up, in one query.
const CHUNK: usize = 500;

/// Changes taken at once.
const BATCH: usize = 100_000;

/// Counts on their way to the broker at the same time.
const PUBLISHED_AT_ONCE: usize = 64;

/// Before counts that could not be told are counted again.
const RETRY: Duration = Duration::from_secs(1);

/// What changed somebody's inbox.
#[derive(Debug)]
pub(crate) enum Change {
    /// This user's.
    Of(UserId),
    /// Those of all to whom this went.
    Group(NotificationId),
}

impl Change {
    /// What `event` changes, unless it says nothing new.
    pub(crate) fn by(event: &Event) -> Option<Self> {
        match event {
            Event::Notification(Notification { to: Audience::User(user), .. }) => Some(Self::Of(user.clone())),
            Event::Notification(Notification { to: Audience::Group(_), id, .. }) => Some(Self::Group(*id)),
            Event::Seen(seen) => Some(Self::Of(seen.user.clone())),
            Event::Message(_)
            | Event::GroupCreated(_)
            | Event::MemberAdded(_)
            | Event::MemberRemoved(_)
            | Event::GroupRenamed(_)
            | Event::GroupJoined(_)
            | Event::GroupLeft(_)
            | Event::Read(_)
            | Event::Canary => None,
        }
    }
}

/// The version of counts made when SQL had come so far. What a group is told counts in inboxes of other
/// shards, so all shards are in it: added up, by epochs and then by sequences, they only ever rise, for
/// a shard that begins anew does so in a later epoch.
pub(crate) fn version(applied: &[ShardPosition]) -> Position {
    let epochs = applied.iter().map(|at| at.position.epoch.0).fold(0, u32::saturating_add);
    let sequences = applied.iter().map(|at| at.position.seq).fold(0, u64::saturating_add);
    Position::new(Epoch(epochs), sequences)
}

/// The query that counts the inboxes of the users `u` of `v`, the `newest` of each: `u`, `unseen`, `unread`. What is archived is seen and
/// read, and so in neither.
pub(crate) fn counting(newest: u32) -> String {
    format!(
        ", w AS MATERIALIZED (SELECT v.u AS u, coalesce((SELECT n.sent_at FROM notifications n WHERE n.recipient = v.u \
         ORDER BY n.sent_at DESC, n.id DESC LIMIT 1 OFFSET {}), 0) AS since FROM v) \
         SELECT n.recipient AS u, count(*) FILTER (WHERE s.seen IS NOT TRUE) AS unseen, \
         count(*) FILTER (WHERE s.is_read IS NOT TRUE) AS unread FROM w JOIN notifications n ON n.recipient = w.u AND n.sent_at >= w.since \
         LEFT JOIN inbox_state s ON s.recipient = n.recipient AND s.notification = n.id GROUP BY n.recipient",
        newest.saturating_sub(1)
    )
}

/// Counts the inboxes of `users`, the `newest` of each, in the snapshot that `database` is.
pub(crate) async fn count(database: &impl ConnectionTrait, users: &[UserId], newest: u32) -> Result<BTreeMap<UserId, InboxCounts>, DbErr> {
    let applied = checkpoint::positions(database).await?;
    let version = version(&applied);
    let mut rows = Rows::new([("u", Kind::Text)]);
    let mut counts = BTreeMap::new();
    for user in users {
        counts.insert(user.clone(), InboxCounts { unseen: 0, unread: 0, version });
        rows.push([user.as_str().into()]);
    }
    for row in rows.query(database, &counting(newest)).await? {
        let user: String = row.try_get("", "u")?;
        if let Some(count) = UserId::new(&user).ok().and_then(|user| counts.get_mut(&user)) {
            count.unseen = row.try_get::<i64>("", "unseen")? as u64 + u64::from(failpoint::hit("count"));
            count.unread = row.try_get::<i64>("", "unread")? as u64;
        }
    }
    Ok(counts)
}

/// Whose counts are to be told.
#[derive(Default)]
struct Changed {
    users: BTreeSet<UserId>,
    notifications: BTreeSet<NotificationId>,
}

impl Changed {
    fn add(&mut self, change: Change) {
        match change {
            Change::Of(user) => drop(self.users.insert(user)),
            Change::Group(notification) => drop(self.notifications.insert(notification)),
        }
    }

    fn is_empty(&self) -> bool {
        self.users.is_empty() && self.notifications.is_empty()
    }

    /// Tells all; what is left could not be told. Counts are absolute: told twice, they say the same.
    async fn tell(self, store: &Store, broker: &dyn Broker, newest: u32) -> Self {
        let mut left = Self::default();
        for some in self.users.into_iter().collect::<Vec<_>>().chunks(CHUNK) {
            if let Err(error) = tell(store, broker, some, newest).await {
                tracing::warn!(%error, users = some.len(), "inbox_counts_not_told");
                left.users.extend(some.iter().cloned());
            }
        }
        for some in self.notifications.into_iter().collect::<Vec<_>>().chunks(CHUNK) {
            if let Err(error) = tell_recipients(store, broker, some, newest).await {
                tracing::warn!(%error, notifications = some.len(), "inbox_counts_not_told");
                left.notifications.extend(some);
            }
        }
        left
    }
}

/// Tells the owners of changed inboxes their counts, until `shutdown`. What cannot be told is tried again, after what came
/// meanwhile.
pub(crate) async fn announce(
    store: Store,
    broker: Arc<dyn Broker>,
    options: Options,
    mut changes: mpsc::Receiver<Change>,
    shutdown: CancellationToken,
) {
    let (mut batch, mut left, mut again_at) = (Vec::new(), Changed::default(), Instant::now());
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            got = changes.recv_many(&mut batch, BATCH) => if got == 0 { return },
            () = sleep_until(again_at), if !left.is_empty() => {}
        }
        if !batch.is_empty() {
            tokio::time::sleep(options.inbox_debounce).await;
            while let Ok(change) = changes.try_recv() {
                batch.push(change);
            }
        }
        let is_due = again_at <= Instant::now();
        let mut now = if is_due { std::mem::take(&mut left) } else { Changed::default() };
        batch.drain(..).for_each(|change| now.add(change));
        let failed = now.tell(&store, &*broker, options.inbox_counted).await;
        if !failed.is_empty() {
            again_at = Instant::now() + RETRY;
        }
        left.users.extend(failed.users);
        left.notifications.extend(failed.notifications);
    }
}

/// Tells all to whom these went, each once.
async fn tell_recipients(store: &Store, broker: &dyn Broker, notifications: &[NotificationId], newest: u32) -> Result<(), Error> {
    let mut rows = Rows::new([("i", Kind::Uuid)]);
    for notification in notifications {
        rows.push([notification.0.into()]);
    }
    let sql = "SELECT DISTINCT n.recipient AS recipient FROM v JOIN notifications n ON n.id = v.i WHERE n.group_id IS NOT NULL";
    let mut recipients = BTreeSet::new();
    for row in answered(rows.query(store.database(), sql)).await? {
        recipients.extend(UserId::new(&row.try_get::<String>("", "recipient")?));
    }
    for some in recipients.into_iter().collect::<Vec<_>>().chunks(CHUNK) {
        tell(store, broker, some, newest).await?;
    }
    Ok(())
}

async fn tell(store: &Store, broker: &dyn Broker, users: &[UserId], newest: u32) -> Result<(), Error> {
    // Counted later than its version says, a count would go back with the next one.
    let counted = async {
        let (snapshot, _) = store.snapshot().await.map_err(|error| DbErr::Custom(error.message))?;
        let counts = count(&snapshot, users, newest).await?;
        snapshot.commit().await?;
        Ok(counts)
    };
    let counts = answered(counted).await?;
    let told = counts.into_iter().map(|(user, counts)| async move {
        // What cannot be written is a defect of ours, and no reason to keep the others waiting.
        let Ok(payload) = serde_json::to_vec(&Ephemeral::Inbox(counts)) else { return Ok(()) };
        broker.publish_ephemeral(Topic::User(user.key()), Bytes::from(payload)).await
    });
    stream::iter(told).buffer_unordered(PUBLISHED_AT_ONCE).try_collect::<()>().await?;
    Ok(())
}
