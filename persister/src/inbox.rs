//! Counts of inboxes, told to their owners: gathered for a moment, counted for many at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
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
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    checkpoint,
    database::{
        Store,
        rows::{Kind, Rows},
    },
};

/// Recipients counted in one query.
const CHUNK: usize = 500;

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

/// Counts the inboxes of `users`, in the snapshot that `database` is.
pub(crate) async fn count(database: &impl ConnectionTrait, users: &[UserId]) -> Result<BTreeMap<UserId, InboxCounts>, DbErr> {
    let applied = checkpoint::positions(database).await?;
    let version = version(&applied);
    let mut rows = Rows::new([("u", Kind::Text)]);
    let mut counts = BTreeMap::new();
    for user in users {
        counts.insert(user.clone(), InboxCounts { unseen: 0, unread: 0, version });
        rows.push([user.as_str().into()]);
    }
    let sql = "SELECT n.recipient AS u, count(*) FILTER (WHERE s.seen IS NOT TRUE) AS unseen, \
               count(*) FILTER (WHERE s.is_read IS NOT TRUE) AS unread FROM v JOIN notifications n ON n.recipient = v.u \
               LEFT JOIN inbox_state s ON s.recipient = n.recipient AND s.notification = n.id GROUP BY n.recipient";
    for row in rows.query(database, sql).await? {
        let user: String = row.try_get("", "u")?;
        if let Some(count) = UserId::new(&user).ok().and_then(|user| counts.get_mut(&user)) {
            count.unseen = row.try_get::<i64>("", "unseen")? as u64 + u64::from(failpoint::hit("count"));
            count.unread = row.try_get::<i64>("", "unread")? as u64;
        }
    }
    Ok(counts)
}

/// Tells the owners of changed inboxes their counts, until `shutdown`.
pub(crate) async fn announce(
    store: Store,
    broker: Arc<dyn Broker>,
    debounce: Duration,
    mut changes: mpsc::Receiver<Change>,
    shutdown: CancellationToken,
) {
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            got = changes.recv_many(&mut batch, 100_000) => if got == 0 { return },
        }
        tokio::time::sleep(debounce).await;
        while let Ok(change) = changes.try_recv() {
            batch.push(change);
        }
        let (mut users, mut groups) = (BTreeSet::new(), BTreeSet::new());
        for change in batch.drain(..) {
            match change {
                Change::Of(user) => drop(users.insert(user)),
                Change::Group(notification) => drop(groups.insert(notification)),
            }
        }
        let users: Vec<UserId> = users.into_iter().collect();
        // Counts are absolute: told twice, they say the same.
        while let Err(error) = tell_all(&store, &*broker, &users, &groups).await {
            tracing::warn!(%error, "inbox_counts_not_told");
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }
}

async fn tell_all(store: &Store, broker: &dyn Broker, users: &[UserId], groups: &BTreeSet<NotificationId>) -> Result<(), DbErr> {
    for chunk in users.chunks(CHUNK) {
        tell(store, broker, chunk).await?;
    }
    for notification in groups {
        tell_recipients(store, broker, *notification).await?;
    }
    Ok(())
}

async fn tell_recipients(store: &Store, broker: &dyn Broker, notification: NotificationId) -> Result<(), DbErr> {
    let mut after = String::new();
    loop {
        let sql = "SELECT recipient FROM notifications WHERE id = ? AND group_id IS NOT NULL AND recipient > ? ORDER BY recipient LIMIT ?";
        let page = store.statement(sql, [notification.0.into(), after.clone().into(), (CHUNK as i64).into()]);
        let mut users = Vec::new();
        for row in store.database().query_all_raw(page).await? {
            after = row.try_get("", "recipient")?;
            users.extend(UserId::new(&after));
        }
        if users.is_empty() {
            return Ok(());
        }
        tell(store, broker, &users).await?;
    }
}

async fn tell(store: &Store, broker: &dyn Broker, users: &[UserId]) -> Result<(), DbErr> {
    // Counted later than its version says, a count would go back with the next one.
    let (snapshot, _) = store.snapshot().await.map_err(|error| DbErr::Custom(error.message))?;
    let counts = count(&snapshot, users).await?;
    snapshot.commit().await?;
    stream::iter(counts)
        .for_each_concurrent(64, |(user, counts)| async move {
            let Ok(payload) = serde_json::to_vec(&Ephemeral::Inbox(counts)) else { return };
            if let Err(error) = broker.publish_ephemeral(Topic::User(user.key()), Bytes::from(payload)).await {
                tracing::debug!(%error, "inbox_counts_not_told");
            }
        })
        .await;
    Ok(())
}
