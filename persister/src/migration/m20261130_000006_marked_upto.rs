//! Up to where users have marked all of their inbox: what was marked once is not gone through again.
//!
//! The release before writes none of it, so that its marks are gone through once more.

use sea_orm_migration::{
    MigrationName, MigrationTrait, SchemaManager, async_trait,
    sea_orm::{ConnectionTrait, DbBackend, DbErr},
};

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261130_000006_marked_upto"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let database = manager.get_connection();
        let [text, end] = match database.get_database_backend() {
            DbBackend::Sqlite => ["text", " WITHOUT ROWID"],
            _ => ["text COLLATE \"C\"", ""],
        };
        let table = format!(
            "CREATE TABLE marked_upto (recipient {text} NOT NULL, mark {text} NOT NULL, epoch bigint NOT NULL, seq bigint NOT NULL, \
             PRIMARY KEY (recipient, mark)){end}"
        );
        database.execute_unprepared(&table).await?;
        Ok(())
    }
}
