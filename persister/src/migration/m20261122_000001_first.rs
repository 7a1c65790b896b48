//! The first schema.
//!
//! Written as SQL, since what matters here is what a schema builder hides: text compares by bytes
//! (keyset pages are cut by it), and on SQLite a table lies in its primary key (`WITHOUT ROWID`),
//! which halves what an insert writes. No foreign keys: events name users and groups that SQL may
//! learn of later, or never.

use sea_orm_migration::{
    MigrationName, MigrationTrait, SchemaManager, async_trait,
    sea_orm::{ConnectionTrait, DbBackend, DbErr},
};

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261122_000001_first"
    }
}

/// `{uuid}`, `{text}`, `{bytes}` and `{end}` differ between the two databases.
const TABLES: &[&str] = &[
    "CREATE TABLE users (id {text} PRIMARY KEY, key {uuid} NOT NULL UNIQUE, handle {text} NOT NULL UNIQUE, display_name text NOT NULL, \
     claimed_handle text, claimed_name text, placeholder boolean NOT NULL, created_at bigint NOT NULL){end}",
    "CREATE TABLE groups (id {uuid} PRIMARY KEY, kind text NOT NULL, name text, display_name text NOT NULL, epoch bigint NOT NULL, \
     seq bigint NOT NULL, created_at bigint NOT NULL){end}",
    "CREATE TABLE group_counters (group_id {uuid} PRIMARY KEY, messages bigint NOT NULL){end}",
    "CREATE TABLE members (group_id {uuid} NOT NULL, user_id {text} NOT NULL, role text NOT NULL, since_epoch bigint NOT NULL, \
     since_seq bigint NOT NULL, since_ordinal bigint NOT NULL, until_epoch bigint, until_seq bigint, version bigint NOT NULL, \
     PRIMARY KEY (group_id, user_id)){end}",
    "CREATE INDEX members_of_user ON members (user_id, group_id) WHERE until_epoch IS NULL",
    "CREATE TABLE messages (id {uuid} PRIMARY KEY, group_id {uuid} NOT NULL, epoch bigint NOT NULL, seq bigint NOT NULL, \
     ordinal bigint NOT NULL, sender text NOT NULL, nonce {uuid} NOT NULL, body text NOT NULL, reply_to {uuid}, data text, \
     sent_at bigint NOT NULL){end}",
    "CREATE UNIQUE INDEX messages_of_group ON messages (group_id, epoch, seq)",
    "CREATE TABLE group_events (group_id {uuid} NOT NULL, epoch bigint NOT NULL, seq bigint NOT NULL, event_id {uuid} NOT NULL, \
     kind text NOT NULL, payload text NOT NULL, stored_at bigint NOT NULL, PRIMARY KEY (group_id, epoch, seq)){end}",
    "CREATE UNIQUE INDEX group_events_by_id ON group_events (event_id)",
    "CREATE TABLE notifications (recipient {text} NOT NULL, id {uuid} NOT NULL, epoch bigint NOT NULL, seq bigint NOT NULL, \
     group_id {uuid}, sender text, nonce {uuid} NOT NULL, body text, data text, sent_at bigint NOT NULL, PRIMARY KEY (recipient, id)){end}",
    "CREATE INDEX notifications_newest ON notifications (recipient, sent_at, id)",
    "CREATE INDEX notifications_by_position ON notifications (recipient, epoch, seq) WHERE group_id IS NULL",
    "CREATE UNIQUE INDEX notifications_by_id ON notifications (id) WHERE group_id IS NULL",
    "CREATE INDEX notifications_of_group ON notifications (id, recipient) WHERE group_id IS NOT NULL",
    "CREATE TABLE inbox_state (recipient {text} NOT NULL, notification {uuid} NOT NULL, seen boolean NOT NULL, is_read boolean NOT NULL, \
     PRIMARY KEY (recipient, notification)){end}",
    "CREATE TABLE read_positions (user_id {text} NOT NULL, group_id {uuid} NOT NULL, epoch bigint NOT NULL, seq bigint NOT NULL, \
     ordinal bigint, PRIMARY KEY (user_id, group_id)){end}",
    "CREATE TABLE applied (shard bigint PRIMARY KEY, epoch bigint NOT NULL, seq bigint NOT NULL, event_id {uuid}, stored_at bigint NOT NULL, \
     floor_epoch bigint NOT NULL, floor_seq bigint NOT NULL)",
    "CREATE TABLE epochs (epoch bigint PRIMARY KEY, shard bigint NOT NULL, opened_at bigint NOT NULL, last_seq bigint)",
    "CREATE INDEX epochs_of_shard ON epochs (shard, epoch)",
    "CREATE TABLE leases (shard bigint PRIMARY KEY, holder {uuid} NOT NULL, until bigint NOT NULL)",
    "CREATE TABLE dead_letters (shard bigint NOT NULL, epoch bigint NOT NULL, seq bigint NOT NULL, event_id {uuid} NOT NULL, \
     topic text NOT NULL, reason text NOT NULL, payload {bytes} NOT NULL, made_at bigint NOT NULL, stored_at bigint NOT NULL, \
     PRIMARY KEY (shard, epoch, seq))",
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let database = manager.get_connection();
        let [text, uuid, bytes, end] = match database.get_database_backend() {
            DbBackend::Sqlite => ["text", "blob", "blob", " WITHOUT ROWID"],
            _ => ["text COLLATE \"C\"", "uuid", "bytea", ""],
        };
        for table in TABLES {
            let sql = table.replace("{text}", text).replace("{uuid}", uuid).replace("{bytes}", bytes).replace("{end}", end);
            database.execute_unprepared(&sql).await?;
        }
        Ok(())
    }
}
