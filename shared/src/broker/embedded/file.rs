//! The log's SQLite file: a table for each shard and epoch, and the list of them. How it is opened, and read.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, DbErr, QueryResult, Statement, Value};
use uuid::Uuid;

use super::{super::Stored, EmbeddedError, EmbeddedOptions, writing::Writing};
use crate::{
    id::{EventId, GroupId, InstanceId, UserKey},
    position::{Epoch, Position},
    subject::{Shard, Topic},
    timestamp::Timestamp,
};

/// What there is beside the events. A size is what the events from `first` to `last` take: noted now and then, so that a start
/// need not look at all of them; by its ends it shows whether it still holds.
pub(super) const TABLES: &str = "\
    CREATE TABLE IF NOT EXISTS logs (shard INTEGER NOT NULL, epoch INTEGER NOT NULL, PRIMARY KEY (shard, epoch)) WITHOUT ROWID; \
    CREATE TABLE IF NOT EXISTS sizes (shard INTEGER NOT NULL, epoch INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, \
    bytes INTEGER NOT NULL, PRIMARY KEY (shard, epoch)) WITHOUT ROWID; \
    CREATE TABLE IF NOT EXISTS installation (shards INTEGER NOT NULL);";
pub(super) const COLUMNS: &str = "seq, topic, id, made_at, stored_at, payload";

/// Connections that read.
#[derive(Clone)]
pub(super) struct File(DatabaseConnection);

/// What a remembered id needs of an event.
pub(super) struct StoredId {
    pub(super) id: EventId,
    pub(super) seq: u64,
    pub(super) stored_at: Timestamp,
}

/// A table in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    pub(super) shard: Shard,
    pub(super) epoch: Epoch,
}

pub(super) fn table(shard: Shard, epoch: Epoch) -> String {
    format!("events_{shard}_{epoch}")
}

pub(super) fn statement(sql: impl Into<String>, values: impl IntoIterator<Item = Value>) -> Statement {
    Statement::from_sql_and_values(DbBackend::Sqlite, sql, values)
}

/// SQL's integers are signed; none of ours comes near the end.
pub(super) fn signed(n: u64) -> Value {
    i64::try_from(n).unwrap_or(i64::MAX).into()
}

pub(super) fn unsigned(row: &QueryResult, index: usize) -> Result<u64, DbErr> {
    Ok(u64::try_from(row.try_get_by_index::<i64>(index)?).unwrap_or_default())
}

/// A topic as 17 bytes: its kind and its id.
pub(super) fn topic_bytes(topic: Topic) -> Vec<u8> {
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

fn parse_id(row: &QueryResult, index: usize) -> Result<EventId, DbErr> {
    let id = row.try_get_by_index::<Vec<u8>>(index)?;
    Uuid::from_slice(&id).map(EventId).map_err(|error| DbErr::Custom(error.to_string()))
}

fn parse_row(row: &QueryResult, epoch: Epoch) -> Result<Stored, DbErr> {
    Ok(Stored {
        topic: parse_topic(&row.try_get_by_index::<Vec<u8>>(1)?)?,
        position: Position::new(epoch, unsigned(row, 0)?),
        previous: 0,
        id: parse_id(row, 2)?,
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

/// Enters tables of ended epochs that the list lacks, so that they are dropped: earlier releases took them off it first, and may
/// have been killed then. One of a later epoch is not made yet.
async fn enter_orphans(writing: &DatabaseConnection) -> Result<(), DbErr> {
    let kept = File(writing.clone()).kept().await?;
    let tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB 'events_*_*'";
    for row in writing.query_all_raw(statement(tables, [])).await? {
        let name = row.try_get_by_index::<String>(0)?;
        let of = name.strip_prefix("events_").and_then(|of| of.split_once('_'));
        let Some((shard, epoch)) = of.and_then(|(shard, epoch)| Some((Shard(shard.parse().ok()?), Epoch(epoch.parse().ok()?)))) else {
            continue;
        };
        let current = kept.iter().filter(|kept| kept.shard == shard).map(|kept| kept.epoch).max();
        if current.is_some_and(|current| epoch < current) {
            let insert = "INSERT OR IGNORE INTO logs (shard, epoch) VALUES (?, ?)";
            writing.execute_raw(statement(insert, [signed(shard.0.into()), signed(epoch.0.into())])).await?;
        }
    }
    Ok(())
}

impl File {
    pub(super) async fn open(path: &Path, options: &EmbeddedOptions) -> Result<(Self, Writing), EmbeddedError> {
        let writing = connect(path, options.sync, 1).await?;
        writing.execute_unprepared(TABLES).await?;
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
        enter_orphans(&writing).await?;
        let reading = connect(path, options.sync, 4).await?;
        Ok((Self(reading), Writing::of(writing)))
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

    /// The first column of the only row.
    async fn number(&self, sql: String, values: impl IntoIterator<Item = Value>) -> Result<u64, DbErr> {
        let row = self.0.query_one_raw(statement(sql, values)).await?;
        row.map_or(Ok(0), |row| unsigned(&row, 0))
    }

    /// First and last sequence; the last event is never forgotten.
    pub(super) async fn bounds(&self, shard: Shard, epoch: Epoch) -> Result<(u64, u64), DbErr> {
        // By itself it is found by the key; with another one beside it all rows are looked at.
        let first = self.number(format!("SELECT COALESCE(MIN(seq), 1) FROM {}", table(shard, epoch)), []).await?;
        Ok((first, self.last(shard, epoch).await?))
    }

    /// The last sequence, 0 without any.
    pub(super) async fn last(&self, shard: Shard, epoch: Epoch) -> Result<u64, DbErr> {
        self.number(format!("SELECT COALESCE(MAX(seq), 0) FROM {}", table(shard, epoch)), []).await
    }

    /// What the events from `first` to `last`, which are all, take; and for which of them that was noted.
    pub(super) async fn size(&self, shard: Shard, epoch: Epoch, first: u64, last: u64) -> Result<(u64, (u64, u64)), DbErr> {
        // What an earlier release did since shows in the ends: it forgets without noting it.
        let sql = "SELECT last, bytes FROM sizes WHERE shard = ? AND epoch = ? AND first = ? AND last <= ?";
        let values = [signed(shard.0.into()), signed(epoch.0.into()), signed(first), signed(last)];
        let noted = match self.0.query_one_raw(statement(sql, values)).await? {
            Some(row) => Some((unsigned(&row, 0)?, unsigned(&row, 1)?)),
            None => None,
        };
        let (upto, bytes) = noted.unwrap_or_default();
        let sql = format!("SELECT COALESCE(SUM(LENGTH(payload)) + 100 * COUNT(*), 0) FROM {} WHERE seq > ?", table(shard, epoch));
        let since = self.number(sql, [signed(upto)]).await?;
        Ok((bytes + since, noted.map_or((0, 0), |_| (first, upto))))
    }

    /// How many events of users come after `seq`.
    pub(super) async fn count_after(&self, shard: Shard, epoch: Epoch, seq: u64) -> Result<u64, DbErr> {
        // Canaries are nothing to lose.
        let sql = format!("SELECT COUNT(*) FROM {} WHERE seq > ? AND substr(topic, 1, 1) <> x'63'", table(shard, epoch));
        self.number(sql, [signed(seq)]).await
    }

    /// The ids up to `upto`, the newest first.
    pub(super) async fn ids(&self, shard: Shard, upto: Position, max: usize) -> Result<Vec<StoredId>, DbErr> {
        let sql = format!("SELECT seq, id, stored_at FROM {} WHERE seq <= ? ORDER BY seq DESC LIMIT ?", table(shard, upto.epoch));
        let rows = self.0.query_all_raw(statement(sql, [signed(upto.seq), signed(max as u64)])).await?;
        let id =
            |row: &QueryResult| Ok(StoredId { seq: unsigned(row, 0)?, id: parse_id(row, 1)?, stored_at: Timestamp(unsigned(row, 2)?) });
        rows.iter().map(id).collect()
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::config::{Config, Role};

    async fn open(directory: &tempfile::TempDir) -> (File, Writing) {
        let config = Config::load_from(None, &HashMap::new(), Role::Standalone).unwrap();
        File::open(&directory.path().join("log.db"), &config.embedded_options()).await.unwrap()
    }

    #[tokio::test]
    async fn each_commit_is_synced_by_default() {
        let (_, writing) = open(&tempfile::tempdir().unwrap()).await;
        // 2 is FULL.
        assert_eq!(writing.as_file().number("PRAGMA synchronous".to_owned(), []).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn a_noted_size_is_believed_while_its_ends_hold() {
        let directory = tempfile::tempdir().unwrap();
        let (file, writing) = open(&directory).await;
        let (shard, epoch) = (Shard(0), Epoch(1));
        writing.create(shard, epoch).await.unwrap();
        let stored = |seq| Stored {
            topic: Topic::Canary(InstanceId(Uuid::nil())),
            position: Position::new(epoch, seq),
            previous: 0,
            id: EventId(Uuid::from_u128(seq.into())),
            made_at: Timestamp(0),
            stored_at: Timestamp(0),
            payload: Bytes::from_static(b"x"),
        };
        writing.commit(&[(shard, epoch, (1..=10).map(stored).collect())]).await.unwrap();
        assert_eq!(file.size(shard, epoch, 1, 10).await.unwrap(), (1010, (0, 0)), "counted");
        writing.note_size(shard, epoch, (1, 8), 5000).await.unwrap();
        assert_eq!(file.size(shard, epoch, 1, 10).await.unwrap(), (5202, (1, 8)), "and what came since");
        writing.forget(shard, Position::new(epoch, 4)).await.unwrap();
        assert_eq!(file.size(shard, epoch, 5, 10).await.unwrap(), (606, (0, 0)), "something else has forgotten");
        assert_eq!(file.count_after(shard, epoch, 0).await.unwrap(), 0, "canaries do not count");
    }

    #[tokio::test]
    async fn a_table_that_an_earlier_release_left_behind_is_entered_again() {
        let directory = tempfile::tempdir().unwrap();
        let (file, writing) = open(&directory).await;
        for epoch in 1..=3 {
            writing.create(Shard(0), Epoch(epoch)).await.unwrap();
        }
        file.0.execute_unprepared("DELETE FROM logs WHERE epoch <> 2").await.unwrap();
        file.close().await;
        writing.close().await;
        let (file, _) = open(&directory).await;
        let kept: Vec<_> = file.kept().await.unwrap().into_iter().map(|kept| (kept.shard, kept.epoch)).collect();
        assert_eq!(kept, [(Shard(0), Epoch(1)), (Shard(0), Epoch(2))], "and none that is not made yet");
    }
}
