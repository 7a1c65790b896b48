//! What recipients did with their notifications.

use std::collections::HashMap;

use natter_shared::{event::Seen, id::UserId, position::Position};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbErr};
use uuid::Uuid;

use crate::{
    checkpoint,
    database::rows::{
        Kind::{Bool, Int, Text, Uuid as Id},
        Rows,
    },
};

/// What became of a notification; each is all that stands before it, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Mark {
    Seen,
    Read,
    Archived,
}

impl Mark {
    const ALL: [Self; 3] = [Self::Seen, Self::Read, Self::Archived];

    pub(super) fn of(seen: &Seen) -> Self {
        match (seen.archived, seen.read) {
            (true, _) => Self::Archived,
            (false, true) => Self::Read,
            (false, false) => Self::Seen,
        }
    }

    /// As written in SQL.
    fn as_str(self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::Read => "read",
            Self::Archived => "archived",
        }
    }
}

const UPSERT_SEEN: &str = "INSERT INTO inbox_state (recipient, notification, seen, is_read, archived) \
     SELECT recipient, notification, TRUE, is_read, archived FROM v WHERE TRUE \
     ON CONFLICT (recipient, notification) DO UPDATE SET seen = TRUE, is_read = inbox_state.is_read OR excluded.is_read, \
     archived = inbox_state.archived OR excluded.archived";

const UPSERT_SEEN_UPTO: &str = "INSERT INTO inbox_state (recipient, notification, seen, is_read, archived) \
     SELECT n.recipient, n.id, TRUE, v.is_read, v.archived FROM v JOIN notifications n ON n.recipient = v.recipient AND n.group_id IS NULL \
     AND (n.epoch, n.seq) > (v.after_epoch, v.after_seq) AND (n.epoch, n.seq) <= (v.epoch, v.seq) \
     LEFT JOIN inbox_state s ON s.recipient = n.recipient AND s.notification = n.id \
     WHERE s.seen IS NOT TRUE OR (v.is_read AND s.is_read IS NOT TRUE) OR (v.archived AND s.archived IS NOT TRUE) \
     ON CONFLICT (recipient, notification) DO UPDATE SET seen = TRUE, is_read = inbox_state.is_read OR excluded.is_read, \
     archived = inbox_state.archived OR excluded.archived";

const CARRIED_OUT: &str = "SELECT d.recipient, d.mark, d.epoch, d.seq FROM v JOIN marked_upto d ON d.recipient = v.recipient";

const UPSERT_CARRIED_OUT: &str = "INSERT INTO marked_upto (recipient, mark, epoch, seq) SELECT recipient, mark, epoch, seq FROM v WHERE TRUE \
     ON CONFLICT (recipient, mark) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq";

/// Writes marks of notifications by their ids, and of all up to a position of the inbox, as SQL comes to `to`.
pub(super) async fn write(
    database: &DatabaseTransaction,
    seen: HashMap<(UserId, Uuid), Mark>,
    upto: HashMap<(UserId, Mark), Position>,
    to: Position,
) -> Result<(), DbErr> {
    let mut rows = Rows::new([("recipient", Text), ("notification", Id), ("is_read", Bool), ("archived", Bool)]);
    for ((user, id), mark) in seen {
        rows.push([user.as_str().into(), id.into(), (mark >= Mark::Read).into(), (mark >= Mark::Archived).into()]);
    }
    rows.execute(database, UPSERT_SEEN).await?;
    let before = carried_out(database, &upto).await?;
    let mut carried_out = Rows::new([("recipient", Text), ("mark", Text), ("epoch", Int), ("seq", Int)]);
    // Apart from each other: one statement must not touch a row twice.
    for of in Mark::ALL {
        let mut rows = Rows::new([
            ("recipient", Text),
            ("after_epoch", Int),
            ("after_seq", Int),
            ("epoch", Int),
            ("seq", Int),
            ("is_read", Bool),
            ("archived", Bool),
        ]);
        for ((user, _), position) in upto.iter().filter(|((_, mark), _)| *mark == of) {
            // What is marked as more is marked as this.
            let after = before.get(user.as_str()).into_iter().flatten().filter(|(mark, _)| *mark >= of).map(|(_, at)| *at).max();
            let after = after.unwrap_or_default();
            if *position <= after {
                continue;
            }
            let ((after_epoch, after_seq), (epoch, seq)) = (checkpoint::sql(after), checkpoint::sql(*position));
            let (read, archived) = ((of >= Mark::Read).into(), (of >= Mark::Archived).into());
            rows.push([user.as_str().into(), after_epoch.into(), after_seq.into(), epoch.into(), seq.into(), read, archived]);
            // What comes after `to` is not there to be marked yet.
            let (epoch, seq) = checkpoint::sql(to.min(*position));
            carried_out.push([user.as_str().into(), of.as_str().into(), epoch.into(), seq.into()]);
        }
        rows.execute(database, UPSERT_SEEN_UPTO).await?;
    }
    carried_out.execute(database, UPSERT_CARRIED_OUT).await?;
    Ok(())
}

/// Up to where the users of `upto` have marked all before: an inbox and its marks are one topic in one order, so nothing that is marked by
/// its position comes into it before that afterwards.
async fn carried_out(
    database: &impl ConnectionTrait,
    upto: &HashMap<(UserId, Mark), Position>,
) -> Result<HashMap<String, Vec<(Mark, Position)>>, DbErr> {
    let mut rows = Rows::new([("recipient", Text)]);
    for user in upto.keys().map(|(user, _)| user.as_str()).collect::<std::collections::BTreeSet<_>>() {
        rows.push([user.into()]);
    }
    let mut found: HashMap<String, Vec<(Mark, Position)>> = HashMap::new();
    for row in rows.query(database, CARRIED_OUT).await? {
        let mark: String = row.try_get("", "mark")?;
        let Some(mark) = Mark::ALL.into_iter().find(|known| known.as_str() == mark) else { continue };
        let at = checkpoint::position(row.try_get("", "epoch")?, row.try_get("", "seq")?);
        found.entry(row.try_get("", "recipient")?).or_default().push((mark, at));
    }
    Ok(found)
}
