//! The one connection that writes to the log's file.

use sea_orm::{ConnectionTrait, DatabaseConnection, DbErr};

use super::{
    super::Stored,
    file::{COLUMNS, File, signed, statement, table, topic_bytes, unsigned},
};
use crate::{
    position::{Epoch, Position},
    subject::Shard,
    timestamp::Timestamp,
};

/// Rows of one statement, largest first: few different texts, so that SQLite's are prepared once.
const INSERT_ROWS: [usize; 5] = [256, 64, 16, 4, 1];
/// Events looked at in one round of forgetting.
const FORGOTTEN_AT_ONCE: u64 = 5000;
/// What a piece of an ended epoch takes at most, give or take one event.
const PIECE_BYTES: u64 = 8 << 20;

/// The one connection that writes.
pub(super) struct Writing(DatabaseConnection);

/// Events that go.
pub(super) struct Going {
    /// Up to here.
    pub(super) seq: u64,
    /// What they take.
    pub(super) bytes: u64,
    /// There may be more that can go.
    pub(super) more: bool,
}

impl Writing {
    pub(super) fn of(connection: DatabaseConnection) -> Self {
        Self(connection)
    }

    /// The same file, to read what a failed commit may have left.
    pub(super) fn as_file(&self) -> File {
        File::of(self.0.clone())
    }

    pub(super) async fn create(&self, shard: Shard, epoch: Epoch) -> Result<(), DbErr> {
        let table = table(shard, epoch);
        // One statement after another commits each; the entry comes last and makes it count.
        self.0
            .execute_unprepared(&format!(
                "CREATE TABLE IF NOT EXISTS {table} (seq INTEGER PRIMARY KEY, topic BLOB NOT NULL, id BLOB NOT NULL, \
                 made_at INTEGER NOT NULL, stored_at INTEGER NOT NULL, payload BLOB NOT NULL); \
                 CREATE INDEX IF NOT EXISTS {table}_topic ON {table} (topic, seq); \
                 INSERT OR IGNORE INTO logs (shard, epoch) VALUES ({shard}, {epoch});"
            ))
            .await?;
        Ok(())
    }

    /// Writes a group as one transaction: all of it is there after, or nothing.
    pub(super) async fn commit(&self, groups: &[(Shard, Epoch, Vec<Stored>)]) -> Result<(), DbErr> {
        self.transaction(async {
            for (shard, epoch, events) in groups {
                self.insert(&table(*shard, *epoch), events).await?;
            }
            Ok(())
        })
        .await
    }

    async fn transaction(&self, write: impl Future<Output = Result<(), DbErr>>) -> Result<(), DbErr> {
        let written = async {
            self.0.execute_unprepared("BEGIN IMMEDIATE").await?;
            write.await?;
            self.0.execute_unprepared("COMMIT").await.map(drop)
        }
        .await;
        if written.is_err() {
            // There may be no transaction any more.
            let _ = self.0.execute_unprepared("ROLLBACK").await;
        }
        written
    }

    async fn insert(&self, table: &str, events: &[Stored]) -> Result<(), DbErr> {
        let mut rest = events;
        for size in INSERT_ROWS {
            while let Some((rows, more)) = rest.split_at_checked(size) {
                rest = more;
                let marks = vec!["(?, ?, ?, ?, ?, ?)"; size].join(", ");
                let mut values = Vec::with_capacity(size * 6);
                for stored in rows {
                    values.push(signed(stored.position.seq));
                    values.push(topic_bytes(stored.topic).into());
                    values.push(stored.id.0.as_bytes().to_vec().into());
                    values.push(signed(stored.made_at.0));
                    values.push(signed(stored.stored_at.0));
                    values.push(stored.payload.to_vec().into());
                }
                let sql = format!("INSERT INTO {table} ({COLUMNS}) VALUES {marks}");
                self.0.execute_raw(statement(sql, values)).await?;
            }
        }
        Ok(())
    }

    /// How far events from `first` on may go: at most up to `upto`, those stored before `before`
    /// or among the first `bytes`. Looks at a bounded number.
    pub(super) async fn oldest(&self, shard: Shard, upto: Position, before: Timestamp, bytes: u64) -> Result<Option<Going>, DbErr> {
        let sql = format!(
            "SELECT seq, stored_at, LENGTH(payload) + 100 FROM {} WHERE seq <= ? ORDER BY seq LIMIT {FORGOTTEN_AT_ONCE}",
            table(shard, upto.epoch)
        );
        let rows = self.0.query_all_raw(statement(sql, [signed(upto.seq)])).await?;
        let mut going: Option<Going> = None;
        for (place, row) in (1..).zip(&rows) {
            let freed = going.as_ref().map_or(0, |going| going.bytes);
            if Timestamp(unsigned(row, 1)?) >= before && freed >= bytes {
                break;
            }
            going = Some(Going { seq: unsigned(row, 0)?, bytes: freed + unsigned(row, 2)?, more: place == FORGOTTEN_AT_ONCE });
        }
        Ok(going)
    }

    pub(super) async fn forget(&self, shard: Shard, upto: Position) -> Result<(), DbErr> {
        let sql = format!("DELETE FROM {} WHERE seq <= ?", table(shard, upto.epoch));
        self.0.execute_raw(statement(sql, [signed(upto.seq)])).await.map(drop)
    }

    /// Notes what the events of a log take.
    pub(super) async fn note_size(&self, shard: Shard, epoch: Epoch, (first, last): (u64, u64), bytes: u64) -> Result<(), DbErr> {
        let sql = "INSERT OR REPLACE INTO sizes (shard, epoch, first, last, bytes) VALUES (?, ?, ?, ?, ?)";
        let values = [signed(shard.0.into()), signed(epoch.0.into()), signed(first), signed(last), signed(bytes)];
        self.0.execute_raw(statement(sql, values)).await.map(drop)
    }

    /// Deletes a bounded piece of an ended epoch; true when nothing of it is left.
    pub(super) async fn drop_piece(&self, shard: Shard, epoch: Epoch) -> Result<bool, DbErr> {
        let all = Position::new(epoch, u64::MAX);
        if let Some(Going { seq, .. }) = self.oldest(shard, all, Timestamp(0), PIECE_BYTES).await? {
            self.forget(shard, Position::new(epoch, seq)).await?;
            return Ok(false);
        }
        let table = table(shard, epoch);
        self.transaction(async {
            let which = format!("WHERE shard = {shard} AND epoch = {epoch}");
            let sql = format!("DROP TABLE {table}; DELETE FROM sizes {which}; DELETE FROM logs {which};");
            self.0.execute_unprepared(&sql).await.map(drop)
        })
        .await?;
        Ok(true)
    }

    pub(super) async fn close(self) {
        if let Err(error) = self.0.close().await {
            tracing::warn!(%error, "log_not_closed");
        }
    }
}
