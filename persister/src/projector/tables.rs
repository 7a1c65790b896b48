//! The rows a batch writes, and the statements that write them.

use natter_shared::{
    broker::Stored,
    id::GroupId,
    subject::{Shard, Space, subject},
};
use sea_orm::Value;
use uuid::Uuid;

use crate::{
    checkpoint,
    database::rows::{
        Kind::{Bytes, Int, MaybeInt, MaybeText, MaybeUuid as MaybeId, Text, Uuid as Id},
        Rows,
    },
    rpc::memberships::IS_MEMBER,
};

/// Never with a target: that would cover one key only, and a clash on another would fail the batch.
macro_rules! insert {
    ($table:literal, $columns:literal) => {
        concat!("INSERT INTO ", $table, " (", $columns, ") SELECT ", $columns, " FROM v WHERE TRUE ON CONFLICT DO NOTHING")
    };
}

/// Likewise where nothing is expected to be taken: to look first costs PostgreSQL half as much again. What is taken after all fails the
/// statement, and the plan is made again, knowing of it.
macro_rules! insert_new {
    ($table:literal, $columns:literal) => {
        concat!("INSERT INTO ", $table, " (", $columns, ") SELECT ", $columns, " FROM v")
    };
}

pub(super) const INSERT_MESSAGES: &str =
    insert_new!("messages", "id, group_id, epoch, seq, ordinal, sender, nonce, body, reply_to, data, sent_at");

pub(super) const INSERT_GROUP_EVENTS: &str = insert_new!("group_events", "group_id, epoch, seq, event_id, kind, payload, stored_at");

pub(super) const INSERT_NOTIFICATIONS: &str = insert_new!("notifications", "recipient, id, epoch, seq, sender, nonce, body, data, sent_at");

pub(super) const INSERT_GROUPS: &str = insert!("groups", "id, kind, name, display_name, epoch, seq, created_at");

pub(super) const UPDATE_NAMES: &str = "UPDATE groups SET display_name = v.display_name FROM v WHERE groups.id = v.id";

pub(super) const INSERT_DEAD_LETTERS: &str =
    insert!("dead_letters", "shard, epoch, seq, event_id, topic, reason, payload, made_at, stored_at");

macro_rules! upsert_counters {
    ($from:literal) => {
        concat!(
            "INSERT INTO group_counters (group_id, messages) SELECT group_id, messages FROM ",
            $from,
            " ON CONFLICT (group_id) DO UPDATE SET messages = excluded.messages"
        )
    };
}

pub(super) const UPSERT_COUNTERS: &str = upsert_counters!("v WHERE TRUE");

/// The same of a table `c`, where the checkpoint was moved.
pub(super) const UPSERT_COUNTERS_IF_MOVED: &str = upsert_counters!("c WHERE EXISTS (SELECT FROM moved)");

pub(super) const UPSERT_MEMBERS: &str = "INSERT INTO members (group_id, user_id, role, since_epoch, since_seq, since_ordinal, until_epoch, \
     until_seq, version) SELECT group_id, user_id, role, since_epoch, since_seq, since_ordinal, until_epoch, until_seq, version \
     FROM v WHERE TRUE ON CONFLICT (group_id, user_id) DO UPDATE SET role = excluded.role, since_epoch = excluded.since_epoch, \
     since_seq = excluded.since_seq, since_ordinal = excluded.since_ordinal, until_epoch = excluded.until_epoch, \
     until_seq = excluded.until_seq, version = excluded.version";

/// One row for each member but the sender; the body stays in `group_events`.
pub(super) fn expand_notifications() -> String {
    format!(
        "INSERT INTO notifications (recipient, id, epoch, seq, group_id, sender, nonce, sent_at) \
         SELECT m.user_id, v.id, v.epoch, v.seq, v.group_id, v.sender, v.nonce, v.sent_at FROM v JOIN members m ON m.group_id = v.group_id \
         WHERE {IS_MEMBER} AND (v.sender IS NULL OR m.user_id <> v.sender) ON CONFLICT DO NOTHING"
    )
}

/// Users that events name before they ever signed in. A handle that is taken is left to its owner.
pub(super) const INSERT_PLACEHOLDERS: &str = "INSERT INTO users (id, key, handle, display_name, placeholder, created_at) \
     SELECT v.id, v.key, CASE WHEN EXISTS (SELECT 1 FROM users h WHERE h.handle = v.id) THEN v.fallback ELSE v.id END, v.id, TRUE, \
     v.created_at FROM v WHERE NOT EXISTS (SELECT 1 FROM users u WHERE u.id = v.id) ON CONFLICT DO NOTHING";

/// The ordinal is settled only where the group's shard is applied up to the position; else it stays
/// null and is looked up when asked for.
pub(super) const UPSERT_READS: &str = "INSERT INTO read_positions (user_id, group_id, epoch, seq, ordinal) \
     SELECT v.user_id, v.group_id, v.epoch, v.seq, CASE WHEN EXISTS (SELECT 1 FROM applied a WHERE a.shard = v.shard \
     AND (a.epoch, a.seq) >= (v.epoch, v.seq)) THEN coalesce((SELECT m.ordinal FROM messages m WHERE m.group_id = v.group_id \
     AND (m.epoch, m.seq) <= (v.epoch, v.seq) ORDER BY m.epoch DESC, m.seq DESC LIMIT 1), 0) END FROM v WHERE TRUE \
     ON CONFLICT (user_id, group_id) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq, ordinal = excluded.ordinal \
     WHERE (excluded.epoch, excluded.seq) > (read_positions.epoch, read_positions.seq)";

/// Rows that events become one by one.
pub(super) struct Tables {
    pub(super) messages: Rows<11>,
    pub(super) group_events: Rows<7>,
    pub(super) groups: Rows<7>,
    pub(super) notifications: Rows<9>,
}

impl Tables {
    pub(super) fn new() -> Self {
        Self {
            messages: Rows::new([
                ("id", Id),
                ("group_id", Id),
                ("epoch", Int),
                ("seq", Int),
                ("ordinal", Int),
                ("sender", MaybeText),
                ("nonce", Id),
                ("body", Text),
                ("reply_to", MaybeId),
                ("data", MaybeText),
                ("sent_at", Int),
            ]),
            group_events: Rows::new([
                ("group_id", Id),
                ("epoch", Int),
                ("seq", Int),
                ("event_id", Id),
                ("kind", Text),
                ("payload", Text),
                ("stored_at", Int),
            ]),
            groups: Rows::new([
                ("id", Id),
                ("kind", Text),
                ("name", MaybeText),
                ("display_name", Text),
                ("epoch", Int),
                ("seq", Int),
                ("created_at", Int),
            ]),
            notifications: Rows::new([
                ("recipient", Text),
                ("id", Id),
                ("epoch", Int),
                ("seq", Int),
                ("sender", MaybeText),
                ("nonce", Id),
                ("body", Text),
                ("data", MaybeText),
                ("sent_at", Int),
            ]),
        }
    }

    pub(super) fn group_event(&mut self, stored: &Stored, group: GroupId, kind: &'static str, id: Uuid) {
        let (epoch, seq) = checkpoint::sql(stored.position);
        self.group_events.push([
            group.0.into(),
            epoch.into(),
            seq.into(),
            id.into(),
            kind.into(),
            String::from_utf8_lossy(&stored.payload).into_owned().into(),
            (stored.stored_at.0 as i64).into(),
        ]);
    }
}

pub(super) fn counters() -> Rows<2> {
    Rows::new([("group_id", Id), ("messages", Int)])
}

pub(super) fn names() -> Rows<2> {
    Rows::new([("id", Id), ("display_name", Text)])
}

pub(super) fn members() -> Rows<9> {
    Rows::new([
        ("group_id", Id),
        ("user_id", Text),
        ("role", Text),
        ("since_epoch", Int),
        ("since_seq", Int),
        ("since_ordinal", Int),
        ("until_epoch", MaybeInt),
        ("until_seq", MaybeInt),
        ("version", Int),
    ])
}

pub(super) fn group_notifications() -> Rows<7> {
    Rows::new([("id", Id), ("epoch", Int), ("seq", Int), ("group_id", Id), ("sender", MaybeText), ("nonce", Id), ("sent_at", Int)])
}

pub(super) fn placeholders() -> Rows<4> {
    Rows::new([("id", Text), ("key", Id), ("fallback", Text), ("created_at", Int)])
}

pub(super) fn reads() -> Rows<5> {
    Rows::new([("user_id", Text), ("group_id", Id), ("epoch", Int), ("seq", Int), ("shard", Int)])
}

pub(super) type DeadLetters = Rows<9>;

pub(super) fn dead_letters() -> DeadLetters {
    Rows::new([
        ("shard", Int),
        ("epoch", Int),
        ("seq", Int),
        ("event_id", Id),
        ("topic", Text),
        ("reason", Text),
        ("payload", Bytes),
        ("made_at", Int),
        ("stored_at", Int),
    ])
}

pub(super) fn dead_letter(shard: Shard, stored: &Stored, reason: &str) -> [Value; 9] {
    let (epoch, seq) = checkpoint::sql(stored.position);
    [
        i64::from(shard.0).into(),
        epoch.into(),
        seq.into(),
        stored.id.0.into(),
        subject(Space::Event, shard, stored.topic).into(),
        // The reason may quote the event.
        reason.replace('\0', "\u{fffd}").into(),
        stored.payload.to_vec().into(),
        (stored.made_at.0 as i64).into(),
        (stored.stored_at.0 as i64).into(),
    ]
}
