//! What the projection holds, read beside the product.

use anyhow::Result;
use natter_shared::{
    id::{GroupId, MessageId},
    position::{Epoch, Position},
};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, QueryResult, Statement, TransactionTrait};
use uuid::Uuid;

use crate::checker::Fact;

/// A connection to the projection.
pub struct Sql(DatabaseConnection);

impl Sql {
    /// Connects to `postgres://…` or `sqlite://…`.
    pub async fn connect(url: &str) -> Result<Self> {
        Ok(Self(Database::connect(url).await?))
    }

    /// The rows of a statement.
    pub async fn rows(&self, sql: &str) -> Result<Vec<QueryResult>> {
        let statement = Statement::from_string(self.0.get_database_backend(), sql);
        Ok(self.0.query_all_raw(statement).await?)
    }

    /// The first column of the first row, an integer.
    pub async fn count(&self, sql: &str) -> Result<i64> {
        let rows = self.rows(sql).await?;
        Ok(rows.first().map(|row| row.try_get_by_index(0)).transpose()?.unwrap_or_default())
    }

    /// Runs a statement and keeps what it locks, until the value is dropped.
    pub async fn hold(&self, sql: &str) -> Result<DatabaseTransaction> {
        let transaction = self.0.begin().await?;
        transaction.execute_unprepared(sql).await?;
        Ok(transaction)
    }

    /// Whether it is migrated.
    pub async fn has_messages(&self) -> bool {
        self.rows("SELECT id FROM messages LIMIT 1").await.is_ok()
    }

    /// All messages.
    pub async fn messages(&self) -> Result<Vec<Fact>> {
        let rows = self.rows("SELECT id, group_id, epoch, seq FROM messages").await?;
        rows.iter().map(fact).collect()
    }

    /// How many messages there are.
    pub async fn message_count(&self) -> Result<i64> {
        self.count("SELECT COUNT(*) FROM messages").await
    }
}

fn fact(row: &QueryResult) -> Result<Fact> {
    let message = MessageId(row.try_get::<Uuid>("", "id")?);
    let group = GroupId(row.try_get::<Uuid>("", "group_id")?);
    let epoch: i64 = row.try_get("", "epoch")?;
    let seq: i64 = row.try_get("", "seq")?;
    let position = Position::new(Epoch(u32::try_from(epoch)?), u64::try_from(seq)?);
    Ok(Fact { message, group, position })
}
