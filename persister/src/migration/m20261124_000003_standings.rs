//! Who is blocked, and whose tokens were revoked.

use sea_orm_migration::{
    MigrationName, MigrationTrait, SchemaManager, async_trait,
    sea_orm::{ConnectionTrait, DbBackend, DbErr},
};

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261124_000003_standings"
    }
}

/// `{text}` and `{end}` differ between the two databases.
const CHANGES: &[&str] = &[
    "CREATE TABLE standings (user_id {text} PRIMARY KEY, blocked_at bigint, void_before bigint NOT NULL, version bigint NOT NULL){end}",
    "CREATE UNIQUE INDEX standings_by_version ON standings (version)",
    // One row: who changes a standing holds it until the commit, so versions are committed in order.
    "CREATE TABLE standings_version (one bigint PRIMARY KEY, version bigint NOT NULL)",
    "INSERT INTO standings_version (one, version) VALUES (1, 0)",
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let database = manager.get_connection();
        let [text, end] = match database.get_database_backend() {
            DbBackend::Sqlite => ["text", " WITHOUT ROWID"],
            _ => ["text COLLATE \"C\"", ""],
        };
        for change in CHANGES {
            database.execute_unprepared(&change.replace("{text}", text).replace("{end}", end)).await?;
        }
        Ok(())
    }
}
