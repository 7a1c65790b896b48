//! What a batch has to know of SQL before it is planned. Read outside the writing transaction: the
//! rows in question change only with the shard's checkpoint, and that is compared when writing.

use std::{
    collections::{HashMap, HashSet, hash_map},
    hash::{DefaultHasher, Hash, Hasher},
};

use natter_shared::{
    event::{Audience, Event, GroupKind, Message, Notification, Role},
    id::{GroupId, RoomName, UserId},
    position::Position,
};
use sea_orm::DbErr;
use uuid::Uuid;

use super::decode::Entry;
use crate::{
    checkpoint,
    database::{
        Store,
        rows::{Kind, Rows},
    },
};

/// A group as hints tell of it.
#[derive(Debug, Clone)]
pub(crate) struct GroupInfo {
    pub(crate) kind: GroupKind,
    pub(crate) name: Option<RoomName>,
    pub(crate) display_name: String,
}

/// How somebody's membership stands.
#[derive(Debug, Clone)]
pub(crate) struct MemberState {
    pub(crate) role: Role,
    pub(crate) since: Position,
    pub(crate) since_ordinal: i64,
    pub(crate) until: Option<Position>,
    /// How often it has changed.
    pub(crate) version: i64,
}

impl MemberState {
    pub(crate) fn is_active(&self) -> bool {
        self.until.is_none()
    }

    /// The last event that changed it.
    pub(crate) fn changed_at(&self) -> Position {
        self.until.unwrap_or(self.since)
    }
}

/// Where something was stored under an id, and a digest of what was said to whom by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    pub(crate) position: Position,
    pub(crate) content: u64,
}

/// The digest of a message's content.
pub(crate) fn message_content(group: Uuid, sender: &str, body: &str) -> u64 {
    digest(&(0_u8, group, sender, body))
}

/// The digest of a notification's content.
pub(crate) fn notification_content(to: &Audience, sender: Option<&str>, body: &str) -> u64 {
    match to {
        Audience::User(user) => digest(&(1_u8, user.as_str(), sender, body)),
        Audience::Group(group) => digest(&(2_u8, group, sender, body)),
    }
}

fn digest(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// What a batch knows of SQL.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) groups: HashMap<GroupId, GroupInfo>,
    pub(crate) members: HashMap<(GroupId, UserId), MemberState>,
    /// Messages of each group so far.
    pub(crate) counters: HashMap<GroupId, i64>,
    /// What is stored already under ids of this batch; looked up only after a clash.
    pub(crate) existing: HashMap<Uuid, Fingerprint>,
    /// Handles of the members of new one-to-one groups.
    pub(crate) handles: HashMap<UserId, String>,
}

impl Known {
    /// Reads what `entries` need; `counters` are those remembered from earlier batches.
    pub(crate) async fn load(store: &Store, entries: &[Entry<'_>], counters: &HashMap<GroupId, i64>) -> Result<Self, DbErr> {
        let mut known = Self::default();
        let (mut pairs, mut groups, mut unknown, mut named) = (HashSet::new(), HashSet::new(), HashSet::new(), HashSet::new());
        for event in entries.iter().filter_map(|entry| entry.event.as_ref().ok()) {
            let counted = match event {
                Event::Message(message) => message.group,
                Event::GroupCreated(created) => {
                    pairs.extend(created.members.iter().map(|(user, _)| (created.group, user.clone())));
                    groups.insert(created.group);
                    if created.kind == GroupKind::Single {
                        named.extend(created.members.iter().map(|(user, _)| user.clone()));
                    }
                    created.group
                }
                Event::MemberAdded(added) => {
                    pairs.insert((added.group, added.user.clone()));
                    groups.insert(added.group);
                    added.group
                }
                Event::MemberRemoved(removed) => {
                    pairs.insert((removed.group, removed.user.clone()));
                    continue;
                }
                Event::GroupRenamed(renamed) => {
                    groups.insert(renamed.group);
                    continue;
                }
                Event::Notification(_) | Event::GroupJoined(_) | Event::GroupLeft(_) | Event::Read(_) | Event::Seen(_) | Event::Canary => {
                    continue;
                }
            };
            if let hash_map::Entry::Vacant(vacant) = known.counters.entry(counted) {
                vacant.insert(counters.get(&counted).copied().unwrap_or_default());
                if !counters.contains_key(&counted) {
                    unknown.insert(counted);
                }
            }
        }
        known.load_counters(store, unknown).await?;
        known.load_groups(store, groups).await?;
        known.load_members(store, pairs).await?;
        known.load_handles(store, named).await?;
        Ok(known)
    }

    async fn load_handles(&mut self, store: &Store, users: HashSet<UserId>) -> Result<(), DbErr> {
        let mut rows = Rows::new([("i", Kind::Text)]);
        for user in users {
            rows.push([user.as_str().into()]);
        }
        for row in rows.query(store.database(), "SELECT u.id, u.handle FROM v JOIN users u ON u.id = v.i").await? {
            let id: String = row.try_get("", "id")?;
            if let Ok(user) = UserId::new(&id) {
                self.handles.insert(user, row.try_get("", "handle")?);
            }
        }
        Ok(())
    }

    async fn load_counters(&mut self, store: &Store, groups: HashSet<GroupId>) -> Result<(), DbErr> {
        let mut rows = Rows::new([("g", Kind::Uuid)]);
        for group in groups {
            rows.push([group.0.into()]);
        }
        let sql = "SELECT c.group_id, c.messages FROM v JOIN group_counters c ON c.group_id = v.g";
        for row in rows.query(store.database(), sql).await? {
            self.counters.insert(GroupId(row.try_get("", "group_id")?), row.try_get("", "messages")?);
        }
        Ok(())
    }

    async fn load_groups(&mut self, store: &Store, groups: HashSet<GroupId>) -> Result<(), DbErr> {
        let mut rows = Rows::new([("g", Kind::Uuid)]);
        for group in groups {
            rows.push([group.0.into()]);
        }
        let sql = "SELECT g.id, g.kind, g.name, g.display_name FROM v JOIN groups g ON g.id = v.g";
        for row in rows.query(store.database(), sql).await? {
            let (kind, name): (String, Option<String>) = (row.try_get("", "kind")?, row.try_get("", "name")?);
            let info = GroupInfo {
                kind: GroupKind::parse(&kind).unwrap_or(GroupKind::Group),
                name: name.and_then(|name| RoomName::room(&name).ok()),
                display_name: row.try_get("", "display_name")?,
            };
            self.groups.insert(GroupId(row.try_get("", "id")?), info);
        }
        Ok(())
    }

    async fn load_members(&mut self, store: &Store, pairs: HashSet<(GroupId, UserId)>) -> Result<(), DbErr> {
        let mut rows = Rows::new([("g", Kind::Uuid), ("u", Kind::Text)]);
        for (group, user) in pairs {
            rows.push([group.0.into(), user.as_str().into()]);
        }
        let sql = "SELECT m.group_id, m.user_id, m.role, m.since_epoch, m.since_seq, m.since_ordinal, m.until_epoch, m.until_seq, \
                   m.version FROM v JOIN members m ON m.group_id = v.g AND m.user_id = v.u";
        for row in rows.query(store.database(), sql).await? {
            let (user, role): (String, String) = (row.try_get("", "user_id")?, row.try_get("", "role")?);
            let Ok(user) = UserId::new(&user) else { continue };
            let until: (Option<i64>, Option<i64>) = (row.try_get("", "until_epoch")?, row.try_get("", "until_seq")?);
            let state = MemberState {
                role: Role::parse(&role).unwrap_or(Role::Member),
                since: checkpoint::position(row.try_get("", "since_epoch")?, row.try_get("", "since_seq")?),
                since_ordinal: row.try_get("", "since_ordinal")?,
                until: until.0.zip(until.1).map(|(epoch, seq)| checkpoint::position(epoch, seq)),
                version: row.try_get("", "version")?,
            };
            self.members.insert((GroupId(row.try_get("", "group_id")?), user), state);
        }
        Ok(())
    }

    /// Looks up what is stored under the ids of `entries`.
    pub(crate) async fn load_existing(&mut self, store: &Store, entries: &[Entry<'_>]) -> Result<(), DbErr> {
        let ids = || {
            let mut rows = Rows::new([("i", Kind::Uuid)]);
            let unique: HashSet<Uuid> = entries.iter().map(|entry| entry_id(entry)).collect();
            for id in unique {
                rows.push([id.into()]);
            }
            rows
        };
        let sql = "SELECT m.id, m.group_id, m.epoch, m.seq, m.sender, m.body FROM v JOIN messages m ON m.id = v.i";
        for row in ids().query(store.database(), sql).await? {
            let (sender, body): (String, String) = (row.try_get("", "sender")?, row.try_get("", "body")?);
            let content = message_content(row.try_get("", "group_id")?, &sender, &body);
            self.found(&row, "id", content)?;
        }
        let sql = "SELECT n.id, n.recipient, n.epoch, n.seq, n.sender, n.body FROM v JOIN notifications n ON n.id = v.i \
                   WHERE n.group_id IS NULL";
        for row in ids().query(store.database(), sql).await? {
            let (recipient, sender): (String, Option<String>) = (row.try_get("", "recipient")?, row.try_get("", "sender")?);
            let body: Option<String> = row.try_get("", "body")?;
            let Ok(recipient) = UserId::new(&recipient) else { continue };
            let content = notification_content(&Audience::User(recipient), sender.as_deref(), &body.unwrap_or_default());
            self.found(&row, "id", content)?;
        }
        let sql = "SELECT e.event_id, e.epoch, e.seq, e.payload FROM v JOIN group_events e ON e.event_id = v.i";
        for row in ids().query(store.database(), sql).await? {
            let payload: String = row.try_get("", "payload")?;
            let content = Event::decode(payload.as_bytes()).ok().as_ref().and_then(content).unwrap_or_default();
            self.found(&row, "event_id", content)?;
        }
        Ok(())
    }

    fn found(&mut self, row: &sea_orm::QueryResult, id: &str, content: u64) -> Result<(), DbErr> {
        let position = checkpoint::position(row.try_get("", "epoch")?, row.try_get("", "seq")?);
        self.existing.insert(row.try_get("", id)?, Fingerprint { position, content });
        Ok(())
    }
}

/// The id under which an event is stored: that of the message or notification where it is one.
pub(crate) fn entry_id(entry: &Entry<'_>) -> Uuid {
    match &entry.event {
        Ok(Event::Message(message)) => message.id.0,
        Ok(Event::Notification(notification)) => notification.id.0,
        Ok(_) | Err(_) => entry.stored.id.0,
    }
}

/// What was said to whom by whom; `None` for what says nothing.
pub(crate) fn content(event: &Event) -> Option<u64> {
    match event {
        Event::Message(Message { group, sender, body, .. }) => Some(message_content(group.0, sender.as_str(), body)),
        Event::Notification(Notification { to, sender, body, .. }) => {
            Some(notification_content(to, sender.as_ref().map(UserId::as_str), body))
        }
        Event::GroupCreated(_)
        | Event::MemberAdded(_)
        | Event::MemberRemoved(_)
        | Event::GroupRenamed(_)
        | Event::GroupJoined(_)
        | Event::GroupLeft(_)
        | Event::Read(_)
        | Event::Seen(_)
        | Event::Canary => None,
    }
}
