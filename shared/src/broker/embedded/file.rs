//! The log's SQLite file: a table for each shard and epoch, and the list of them.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, DbErr, QueryResult, Statement, Value};
use uuid::Uuid;

use super::{super::Stored, EmbeddedError, EmbeddedOptions};
use crate::{
    id::{EventId, GroupId, InstanceId, UserKey},
    position::{Epoch, Position},
    subject::{Shard, Topic},
    timestamp::Timestamp,
};

/// Rows of one statement, largest first: few different texts, so that SQLite's are prepared once.
const INSERT_ROWS: [usize; 5] = [256, 64, 16, 4, 1];
/// Events looked at in one round of forgetting.
const FORGOTTEN_AT_ONCE: u64 = 5000;
const COLUMNS: &str = "seq, topic, id, made_at, stored_at, payload";

/// Connections that read.
#[derive(Clone)]
pub(super) struct File(DatabaseConnection);

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

/// A table in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    pub(super) shard: Shard,
    pub(super) epoch: Epoch,
}

fn table(shard: Shard, epoch: Epoch) -> String {
    format!("events_{shard}_{epoch}")
}

fn statement(sql: impl Into<String>, values: impl IntoIterator<Item = Value>) -> Statement {
    Statement::from_sql_and_values(DbBackend::Sqlite, sql, values)
}

/// SQL's integers are signed; none of ours comes near the end.
fn signed(n: u64) -> Value {
    i64::try_from(n).unwrap_or(i64::MAX).into()
}

fn unsigned(row: &QueryResult, index: usize) -> Result<u64, DbErr> {
    Ok(u64::try_from(row.try_get_by_index::<i64>(index)?).unwrap_or_default())
}

/// A topic as 17 bytes: its kind and its id.
fn topic_bytes(topic: Topic) -> Vec<u8> {
    let (kind, id) = match topic {
        Topic::Group(group) => (b'g', group.0.as_u128()),
        Topic::User(user) => (b'u', user.0),
        Topic::Canary(instance) => (b'c', instance.0.as_u128()),
    };
    std::iter::once(kind).chain(id.to_be_bytes()).collect()
}

fn parse_topic(bytes: &[u8]) -> Result<Topic, DbErr> {
    let parsed = bytes.split_first().and_then(|(kind, id)| {
        let id = u128::from_be_bytes(id.try_into().ok()?);
        match kind {
            b'g' => Some(Topic::Group(GroupId(Uuid::from_u128(id)))),
            b'u' => Some(Topic::User(UserKey(id))),
            b'c' => Some(Topic::Canary(InstanceId(Uuid::from_u128(id)))),
            _ => None,
        }
    });
    parsed.ok_or_else(|| DbErr::Custom("a topic that is none".to_owned()))
}

fn parse_row(row: &QueryResult, epoch: Epoch) -> Result<Stored, DbErr> {
    let id = row.try_get_by_index::<Vec<u8>>(2)?;
    let id = Uuid::from_slice(&id).map_err(|error| DbErr::Custom(error.to_string()))?;
    Ok(Stored {
        topic: parse_topic(&row.try_get_by_index::<Vec<u8>>(1)?)?,
        position: Position::new(epoch, unsigned(row, 0)?),
        previous: 0,
        id: EventId(id),
        made_at: Timestamp(unsigned(row, 3)?),
        stored_at: Timestamp(unsigned(row, 4)?),
        payload: Bytes::from(row.try_get_by_index::<Vec<u8>>(5)?),
    })
}

pub(super) async fn connect(path: &Path, sync: bool, connections: u32) -> Result<DatabaseConnection, DbErr> {
    let mut options = ConnectOptions::new("sqlite::memory:");
    let path = path.to_owned();
    options
        .max_connections(connections)
        .min_connections(connections)
        .idle_timeout(None::<Duration>)
        .max_lifetime(None::<Duration>)
        .test_before_acquire(false)
        .sqlx_logging(false)
        .map_sqlx_sqlite_opts(move |options| {
            options
                .in_memory(false)
                .shared_cache(false)
                .filename(&path)
                .create_if_missing(true)
                .busy_timeout(Duration::from_secs(10))
                .pragma("journal_mode", "WAL")
                .pragma("synchronous", if sync { "FULL" } else { "NORMAL" })
                .pragma("journal_size_limit", "67108864")
                .statement_cache_capacity(256)
        });
    Database::connect(options).await
}

impl File {
    pub(super) async fn open(path: &Path, options: &EmbeddedOptions) -> Result<(Self, Writing), EmbeddedError> {
        let writing = connect(path, options.sync, 1).await?;
        writing
            .execute_unprepared(
                "CREATE TABLE IF NOT EXISTS logs (shard INTEGER NOT NULL, epoch INTEGER NOT NULL, \
                 PRIMARY KEY (shard, epoch)) WITHOUT ROWID; \
                 CREATE TABLE IF NOT EXISTS installation (shards INTEGER NOT NULL);",
            )
            .await?;
        let row = writing.query_one_raw(statement("SELECT shards FROM installation", [])).await?;
        match row.map(|row| unsigned(&row, 0)).transpose()? {
            None => {
                let insert = statement("INSERT INTO installation (shards) VALUES (?)", [signed(options.shards.into())]);
                writing.execute_raw(insert).await?;
            }
            Some(found) if found == u64::from(options.shards) => {}
            Some(found) => {
                return Err(EmbeddedError::OtherShards { found: found as u16, asked: options.shards });
            }
        }
        let reading = connect(path, options.sync, 4).await?;
        Ok((Self(reading), Writing(writing)))
    }

    /// The file behind a connection.
    pub(super) fn of(connection: DatabaseConnection) -> Self {
        Self(connection)
    }

    pub(super) async fn close(&self) {
        if let Err(error) = self.0.clone().close().await {
            tracing::warn!(%error, "log_not_closed");
        }
    }

    async fn rows(&self, sql: String, values: impl IntoIterator<Item = Value>, epoch: Epoch) -> Result<Vec<Stored>, DbErr> {
        let rows = self.0.query_all_raw(statement(sql, values)).await?;
        rows.iter().map(|row| parse_row(row, epoch)).collect()
    }

    pub(super) async fn kept(&self) -> Result<Vec<Kept>, DbErr> {
        let rows = self.0.query_all_raw(statement("SELECT shard, epoch FROM logs ORDER BY shard, epoch", [])).await?;
        rows.iter().map(|row| Ok(Kept { shard: Shard(unsigned(row, 0)? as u16), epoch: Epoch(unsigned(row, 1)? as u32) })).collect()
    }

    /// First and last sequence, and bytes; the last event is never forgotten.
    pub(super) async fn bounds(&self, shard: Shard, epoch: Epoch) -> Result<(u64, u64, u64), DbErr> {
        let sql = format!(
            "SELECT COALESCE(MIN(seq), 1), COALESCE(MAX(seq), 0), COALESCE(SUM(LENGTH(payload)) + 100 * COUNT(*), 0) FROM {}",
            table(shard, epoch)
        );
        let row = self.0.query_one_raw(statement(sql, [])).await?;
        let row = row.ok_or_else(|| DbErr::RecordNotFound(table(shard, epoch)))?;
        Ok((unsigned(&row, 0)?, unsigned(&row, 1)?, unsigned(&row, 2)?))
    }

    /// The last sequence of each topic.
    pub(super) async fn last_of(&self, shard: Shard, epoch: Epoch) -> Result<Vec<(Topic, u64)>, DbErr> {
        let sql = format!("SELECT topic, MAX(seq) FROM {} GROUP BY topic", table(shard, epoch));
        let rows = self.0.query_all_raw(statement(sql, [])).await?;
        rows.iter().map(|row| Ok((parse_topic(&row.try_get_by_index::<Vec<u8>>(0)?)?, unsigned(row, 1)?))).collect()
    }

    /// In order, from `from` on; nothing where the epoch is not kept.
    pub(super) async fn from(&self, shard: Shard, from: Position, max: usize) -> Result<Vec<Stored>, DbErr> {
        let sql = format!("SELECT {COLUMNS} FROM {} WHERE seq >= ? ORDER BY seq LIMIT ?", table(shard, from.epoch));
        self.rows(sql, [signed(from.seq), signed(max as u64)], from.epoch).await
    }

    pub(super) async fn get(&self, shard: Shard, position: Position) -> Result<Option<Stored>, DbErr> {
        let found = self.from(shard, position, 1).await?;
        Ok(found.into_iter().find(|stored| stored.position == position))
    }

    pub(super) async fn next_of(&self, shard: Shard, topic: Topic, after: Position) -> Result<Option<Stored>, DbErr> {
        let sql = format!("SELECT {COLUMNS} FROM {} WHERE topic = ? AND seq > ? ORDER BY seq LIMIT 1", table(shard, after.epoch));
        let found = self.rows(sql, [topic_bytes(topic).into(), signed(after.seq)], after.epoch).await?;
        Ok(found.into_iter().next())
    }
}

impl Writing {
    /// The same file, to read what a failed commit may have left.
    pub(super) fn as_file(&self) -> File {
        File(self.0.clone())
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
        let written = async {
            self.0.execute_unprepared("BEGIN IMMEDIATE").await?;
            for (shard, epoch, events) in groups {
                self.insert(&table(*shard, *epoch), events).await?;
            }
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

    /// Drops an ended epoch.
    pub(super) async fn drop_epoch(&self, shard: Shard, epoch: Epoch) -> Result<(), DbErr> {
        let table = table(shard, epoch);
        self.0
            .execute_unprepared(&format!("DELETE FROM logs WHERE shard = {shard} AND epoch = {epoch}; DROP TABLE IF EXISTS {table};"))
            .await
            .map(drop)
    }

    pub(super) async fn close(self) {
        if let Err(error) = self.0.close().await {
            tracing::warn!(%error, "log_not_closed");
        }
    }
}
