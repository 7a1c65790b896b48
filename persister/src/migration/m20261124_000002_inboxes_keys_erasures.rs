//! Archived notifications, keys of the server API, erasures, what retention has deleted, and the
//! indexes by which users are searched.
//!
//! The release before does not name the new columns: each has a default that means "as before".

use sea_orm_migration::{
    MigrationName, MigrationTrait, SchemaManager, async_trait,
    sea_orm::{ConnectionTrait, DbBackend, DbErr},
};

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261124_000002_inboxes_keys_erasures"
    }
}

/// `{uuid}`, `{text}`, `{c}` (comparing by bytes) and `{end}` differ between the two databases.
const CHANGES: &[&str] = &[
    "ALTER TABLE inbox_state ADD COLUMN archived boolean NOT NULL DEFAULT FALSE",
    // Where messages and other events of a group were deleted: up to there it is not complete, and
    // the message with that ordinal was the last one deleted.
    "ALTER TABLE group_counters ADD COLUMN floor_epoch bigint NOT NULL DEFAULT 0",
    "ALTER TABLE group_counters ADD COLUMN floor_seq bigint NOT NULL DEFAULT 0",
    "ALTER TABLE group_counters ADD COLUMN floor_ordinal bigint NOT NULL DEFAULT 0",
    "ALTER TABLE users ADD COLUMN inbox_floor_epoch bigint NOT NULL DEFAULT 0",
    "ALTER TABLE users ADD COLUMN inbox_floor_seq bigint NOT NULL DEFAULT 0",
    "ALTER TABLE users ADD COLUMN erased_at bigint",
    // Set in a backup: whoever saw later positions of this epoch must not go on in it.
    "ALTER TABLE applied ADD COLUMN restored boolean NOT NULL DEFAULT FALSE",
    // Prefixes of handles come in the order of pages; those of names are sorted by it when found.
    "CREATE INDEX users_by_handle ON users (lower(handle), handle)",
    "CREATE INDEX users_by_name ON users (lower(display_name{c}), lower(handle), handle, id)",
    "CREATE INDEX group_renames ON group_events (group_id, epoch, seq) WHERE kind = 'group_renamed'",
    "CREATE INDEX group_notifications ON group_events (group_id, epoch, seq) WHERE kind = 'notification'",
    "CREATE TABLE api_keys (id {uuid} PRIMARY KEY, name text NOT NULL, sha256 {text} NOT NULL UNIQUE, created_at bigint NOT NULL, \
     revoked_at bigint){end}",
    "CREATE TABLE erasures (user_id {text} PRIMARY KEY, requested_at bigint NOT NULL, stage text NOT NULL, after_id text, \
     finished_at bigint, messages bigint NOT NULL DEFAULT 0, notifications bigint NOT NULL DEFAULT 0){end}",
    "CREATE INDEX erasures_open ON erasures (requested_at) WHERE finished_at IS NULL",
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let database = manager.get_connection();
        let [text, uuid, c, end] = match database.get_database_backend() {
            DbBackend::Sqlite => ["text", "blob", "", " WITHOUT ROWID"],
            _ => ["text COLLATE \"C\"", "uuid", " COLLATE \"C\"", ""],
        };
        for change in CHANGES {
            let sql = change.replace("{text}", text).replace("{uuid}", uuid).replace("{c}", c).replace("{end}", end);
            database.execute_unprepared(&sql).await?;
        }
        Ok(())
    }
}
