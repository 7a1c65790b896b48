//! What a rewound log has, and SQL has not and never had.

use std::collections::{HashMap, HashSet};

use natter_shared::{
    broker::Stored,
    event::{Audience, Event},
    id::{GroupId, UserId},
    position::Position,
};
use sea_orm::DbErr;

use super::{
    Projector,
    decode::{self, Entry},
    known::{Known, entry_id},
};
use crate::{
    checkpoint,
    database::{
        Store, answered,
        rows::{Kind, Rows},
    },
    error::Error,
};

/// What was deleted on purpose.
#[derive(Default)]
struct Deleted {
    /// Up to where of each group and inbox retention has deleted.
    groups: HashMap<GroupId, Position>,
    inboxes: HashMap<UserId, Position>,
    erased: HashSet<UserId>,
}

/// What an event is in SQL.
struct Row<'a> {
    /// Where retention would delete it.
    place: Option<Place<'a>>,
    /// Whose erasure it would undo: who said it, is told it, or comes into a group by it.
    users: [Option<&'a UserId>; 2],
}

enum Place<'a> {
    Group(GroupId),
    Inbox(&'a UserId),
}

/// The row that `event` is by itself, if it is one.
fn row(event: &Event) -> Option<Row<'_>> {
    let (place, users) = match event {
        Event::Message(message) => (Some(Place::Group(message.group)), [Some(&message.sender), None]),
        Event::Notification(notification) => match &notification.to {
            Audience::Group(group) => (Some(Place::Group(*group)), [notification.sender.as_ref(), None]),
            Audience::User(user) => (Some(Place::Inbox(user)), [notification.sender.as_ref(), Some(user)]),
        },
        Event::MemberAdded(added) => (None, [Some(&added.user), None]),
        Event::GroupCreated(_) | Event::MemberRemoved(_) | Event::GroupRenamed(_) => (None, [None, None]),
        Event::GroupJoined(_) | Event::GroupLeft(_) | Event::Read(_) | Event::Seen(_) | Event::Canary => return None,
    };
    Some(Row { place, users })
}

impl Projector {
    /// Those of `batch` that say something new to SQL, and how many others it could have and has not. These are what erased users said
    /// or were told, and, of what is not new by `is_new`, what it never was to have, up to its `floor`, and what it had and retention
    /// deleted. What is no row by itself (marks, and hints) nobody can tell of whether SQL had it: of that only what is new counts.
    pub(crate) async fn lost(
        &self,
        batch: &[Stored],
        floor: Position,
        is_new: impl Fn(&Stored) -> bool,
    ) -> Result<(Vec<Stored>, usize), Error> {
        let entries = decode::entries(batch);
        let mut known = Known::default();
        answered(known.load_existing(&self.store, &entries)).await?;
        let unknown: Vec<&Entry<'_>> = entries.iter().filter(|entry| !known.existing.contains_key(&entry_id(entry))).collect();
        let deleted = answered(Deleted::load(&self.store, &unknown)).await?;
        let (mut lost, mut left_out) = (Vec::new(), 0);
        for Entry { stored, event } in unknown {
            let row = event.as_ref().ok().and_then(row);
            let is_erased = row.as_ref().is_some_and(|row| deleted.is_erased(row));
            let is_lost = |row: &Row<'_>| stored.position > floor && !deleted.is_retired(stored.position, row);
            if !is_erased && (is_new(stored) || row.as_ref().is_some_and(is_lost)) {
                lost.push((*stored).clone());
            } else if row.is_some() {
                left_out += 1;
            }
        }
        Ok((lost, left_out))
    }
}

impl Deleted {
    async fn load(store: &Store, entries: &[&Entry<'_>]) -> Result<Self, DbErr> {
        let (mut groups, mut users) = (HashSet::new(), HashSet::new());
        for Row { place, users: of } in entries.iter().filter_map(|entry| row(entry.event.as_ref().ok()?)) {
            users.extend(of.into_iter().flatten());
            if let Some(Place::Group(group)) = place {
                groups.insert(group);
            }
        }
        let mut deleted = Self::default();
        let mut rows = Rows::new([("i", Kind::Uuid)]);
        for group in groups {
            rows.push([group.0.into()]);
        }
        let sql = "SELECT c.group_id, c.floor_epoch, c.floor_seq FROM v JOIN group_counters c ON c.group_id = v.i";
        for row in rows.query(store.database(), sql).await? {
            let floor = checkpoint::position(row.try_get("", "floor_epoch")?, row.try_get("", "floor_seq")?);
            deleted.groups.insert(GroupId(row.try_get("", "group_id")?), floor);
        }
        let mut rows = Rows::new([("i", Kind::Text)]);
        for user in users {
            rows.push([user.as_str().into()]);
        }
        let sql =
            "SELECT u.id, u.inbox_floor_epoch, u.inbox_floor_seq, u.erased_at IS NOT NULL AS erased FROM v JOIN users u ON u.id = v.i";
        for row in rows.query(store.database(), sql).await? {
            let Ok(user) = UserId::new(&row.try_get::<String>("", "id")?) else { continue };
            let floor = checkpoint::position(row.try_get("", "inbox_floor_epoch")?, row.try_get("", "inbox_floor_seq")?);
            if row.try_get("", "erased")? {
                deleted.erased.insert(user.clone());
            }
            deleted.inboxes.insert(user, floor);
        }
        Ok(deleted)
    }

    /// Whether retention has deleted the row of the event at `position`, or an erasure that of an inbox.
    fn is_retired(&self, position: Position, row: &Row<'_>) -> bool {
        let floor = match row.place {
            Some(Place::Group(group)) => self.groups.get(&group),
            Some(Place::Inbox(user)) => self.inboxes.get(user),
            // Retention leaves it alone.
            None => None,
        };
        floor.is_some_and(|floor| position <= *floor)
    }

    /// Whether it is of somebody erased, who has not signed in again since.
    fn is_erased(&self, row: &Row<'_>) -> bool {
        row.users.into_iter().flatten().any(|user| self.erased.contains(user))
    }
}
