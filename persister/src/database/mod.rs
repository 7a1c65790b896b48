//! The database: connecting to it, and the three ways it is used: single statements, snapshots to
//! read from, transactions to write in.

mod address;
mod connections;
pub(crate) mod rows;

use std::{collections::HashSet, fs::File, io, path::Path, sync::Arc, time::Duration};

use natter_shared::rpc::{RpcError, ShardPosition};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, IsolationLevel,
    SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait, Value,
    sqlx::{self, Connection, PgConnection},
};
use sea_orm_migration::MigratorTrait;
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

pub use self::connections::Connections;
use crate::{
    checkpoint,
    error::{Error, unavailable},
    migration::Migrator,
    options::DatabaseOptions,
};

/// The key of the advisory lock under which migrations run: "natter" in ASCII.
const MIGRATION_LOCK: i64 = 0x6e_61_74_74_65_72;

/// How long what keeps a shard going waits for the database. Of a peer that is gone without a word TCP tells nothing to who
/// only waits for its answer.
pub(crate) const ANSWER: Duration = Duration::from_secs(30);

/// How long what is seldom, and may have much to do, waits for it.
pub(crate) const SELDOM: Duration = Duration::from_mins(5);
const NO_ANSWER: &str = "no answer in time";

/// How long a connection that is given back may take to answer.
const STILL_THERE: Duration = Duration::from_secs(5);

/// How long who only asks whether the database is there waits for it.
pub(crate) const REACHED: Duration = Duration::from_secs(3);

/// How long the database may be silent to the connections for one thing, and not to others, until that is left to other processes.
pub(crate) const SILENCE: Duration = Duration::from_secs(10);

/// Between two looks at that.
pub(crate) const LOOK: Duration = Duration::from_secs(1);

/// How long another process may take to make the SQLite file.
const MAKING: Duration = Duration::from_secs(5);

/// What a session of PostgreSQL's is set to.
const SESSION: [(&str, &str); 7] = [
    // Snapshots are what most transactions are for; those that write say READ COMMITTED.
    ("default_transaction_isolation", "repeatable read"),
    ("idle_in_transaction_session_timeout", "30s"),
    // Of a connection that we have given up: else what it was asked goes on, or waits for a lock, and takes the place of others.
    ("client_connection_check_interval", "1s"),
    // All that is asked for often is asked for by keys. A plan that was made while a table was small reads all of it, by itself
    // or by its index, and is kept until autovacuum has counted anew: a minute in which each new user costs a look at all before
    // them. Hash joins stay: of two things that are found by keys they are the right ones where these are many.
    ("enable_seqscan", "off"),
    ("enable_indexonlyscan", "off"),
    ("enable_mergejoin", "off"),
    // It would take what has no other way than reading all of a small table for very dear, and worth compiling.
    ("jit", "off"),
];

/// Opens the database; creates the file of an SQLite one.
pub async fn connect(options: &DatabaseOptions) -> Result<DatabaseConnection, DbErr> {
    address::check(&options.url)?;
    address::make_private(&options.url);
    let mut connect = ConnectOptions::new(&options.url);
    let patience = options.acquire_timeout;
    connect
        .max_connections(options.max_connections)
        .acquire_timeout(options.acquire_timeout)
        .connect_timeout(options.acquire_timeout)
        .sqlx_logging(false)
        .record_stmt_in_spans(false)
        // A ping before each use costs a round trip; after a pause it finds dead connections.
        .test_before_acquire_if_idle_for(Duration::from_secs(1))
        .map_sqlx_sqlite_opts(|sqlite| {
            // NORMAL survives any crash of a process; after a power loss the stream is replayed
            // from the older checkpoint. Blocks, keys and erasures, which are in no stream, are synced (`Store::sync`).
            sqlite
                .create_if_missing(true)
                .busy_timeout(Duration::from_secs(5))
                .pragma("journal_mode", "WAL")
                .pragma("synchronous", "NORMAL")
                // Each checkpoint syncs: fewer of them, of pages written several times in between.
                .pragma("wal_autocheckpoint", "8000")
                .pragma("temp_store", "MEMORY")
                .pragma("cache_size", "-65536")
                .pragma("mmap_size", "268435456")
        })
        // SQLite ends a transaction by itself when its disk is full, and the ROLLBACK after that fails: the
        // connection counts as within a transaction from then on, and would hold its next one, and the
        // lock with it, for ever.
        .map_sqlx_sqlite_pool_opts(|pool| {
            pool.after_release(|connection, _| {
                Box::pin(async move {
                    // Behind a rollback that was begun by dropping a transaction.
                    connection.ping().await?;
                    Ok(!connection.is_in_transaction())
                })
            })
        })
        // One that was left while it waited for an answer would keep its place for as long as TCP tries, a quarter of an hour.
        .map_sqlx_postgres_pool_opts(move |pool| {
            pool.after_connect(move |connection, _| Box::pin(takes_writes(connection, patience))).after_release(|connection, _| {
                Box::pin(async move {
                    match timeout(STILL_THERE, connection.ping()).await {
                        Ok(answered) => answered.map(|()| true),
                        Err(_) => Err(sqlx::Error::Io(io::ErrorKind::TimedOut.into())),
                    }
                })
            })
        })
        .map_sqlx_postgres_opts(|postgres| postgres.options(SESSION).application_name("natter-persister"));
    // Two that make the same SQLite file at once: its busy timeout does not cover the switch to WAL.
    let deadline = Instant::now() + MAKING;
    loop {
        match Database::connect(connect.clone()).await {
            Err(error) if Instant::now() < deadline && error.to_string().contains("database is locked") => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            connected => return connected.map_err(|error| address::without_secrets(error, &options.url)),
        }
    }
}

/// Refuses a standby, and a primary that others have taken over from: it answers, and nothing can be written there.
async fn takes_writes(connection: &mut PgConnection, patience: Duration) -> Result<(), sqlx::Error> {
    let read_only: String = sqlx::query_scalar("SHOW transaction_read_only").fetch_one(connection).await?;
    if read_only != "on" {
        return Ok(());
    }
    tracing::error!(
        "database_read_only: the server of database.url takes no writes. It is a standby, or somebody has set \
         default_transaction_read_only; name the primary, or make it one"
    );
    // Who waits for the connection tries again, and is not to do so at once.
    tokio::time::sleep(patience).await;
    Err(sqlx::Error::Configuration("the server takes no writes".into()))
}

/// Connects, however long it takes; `None` when shut down before.
pub async fn connect_with_retry(options: &DatabaseOptions, shutdown: &CancellationToken) -> Option<DatabaseConnection> {
    let mut pause = Duration::from_millis(100);
    loop {
        match connect(options).await {
            Ok(database) => return Some(database),
            Err(error) => tracing::warn!(%error, "database_connect_failed"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return None,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(5)),
        }
    }
}

/// What `work` comes to; an error where the database is silent for so long that it may never answer.
pub(crate) async fn answered<T>(work: impl Future<Output = Result<T, DbErr>>) -> Result<T, DbErr> {
    answered_within(ANSWER, work).await
}

/// The same with another patience.
pub(crate) async fn answered_within<T>(patience: Duration, work: impl Future<Output = Result<T, DbErr>>) -> Result<T, DbErr> {
    timeout(patience, work).await.unwrap_or_else(|_| Err(DbErr::Custom(NO_ANSWER.to_owned())))
}

/// The same for what is seldom: retention, erasures.
pub(crate) async fn seldom<T, E: From<DbErr>>(work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    timeout(SELDOM, work).await.unwrap_or_else(|_| Err(DbErr::Custom(NO_ANSWER.to_owned()).into()))
}

/// Whether it is [`answered`]'s: the database was silent, or had too much to do.
pub(crate) fn is_unanswered(error: &DbErr) -> bool {
    matches!(error, DbErr::Custom(reason) if reason == NO_ANSWER)
}

/// PostgreSQL's name of the database's encoding, where that cannot hold all that is said, or takes characters apart.
pub(crate) async fn unfit_encoding(database: &DatabaseConnection) -> Result<Option<String>, DbErr> {
    let backend = database.get_database_backend();
    if backend != DbBackend::Postgres {
        return Ok(None);
    }
    let shown = database.query_one_raw(Statement::from_string(backend, "SHOW server_encoding")).await?;
    let encoding: Option<String> = shown.map(|row| row.try_get("", "server_encoding")).transpose()?;
    Ok(encoding.filter(|encoding| encoding != "UTF8"))
}

/// Brings the schema up to date. Several processes may do so at once: the others wait. What a newer release has made of it
/// stays: that one may run beside this.
///
/// # Errors
/// The database's, or that its encoding is not UTF-8.
pub async fn migrate(database: &DatabaseConnection) -> Result<(), DbErr> {
    if let Some(encoding) = unfit_encoding(database).await? {
        return Err(DbErr::Custom(Error::Encoding(encoding).to_string()));
    }
    let transaction = begin_write(database).await?;
    if database.get_database_backend() == DbBackend::Postgres {
        transaction.execute_unprepared(&format!("SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")).await?;
    }
    if !has_all(&transaction).await? {
        Migrator::up(&transaction, None).await?;
    }
    transaction.commit().await
}

/// Whether all that this release knows of has been done, whatever else has.
async fn has_all(transaction: &DatabaseTransaction) -> Result<bool, DbErr> {
    Migrator::install(transaction).await?;
    let done: HashSet<String> = Migrator::get_migration_models(transaction).await?.into_iter().map(|done| done.version).collect();
    Ok(Migrator::migrations().iter().all(|migration| done.contains(migration.name())))
}

async fn begin_write(database: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    let options = match database.get_database_backend() {
        DbBackend::Sqlite => TransactionOptions { sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate), ..Default::default() },
        _ => TransactionOptions { isolation_level: Some(IsolationLevel::ReadCommitted), ..Default::default() },
    };
    database.begin_with_options(options).await
}

/// The database as the rest of the persister uses it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    database: DatabaseConnection,
    backend: DbBackend,
    /// SQLite has one writer: waiting here is fair and cheap, its busy handler is neither. With the connection to write over, so that
    /// whose turn it is waits for none.
    writer: Option<Arc<Mutex<DatabaseConnection>>>,
}

/// A transaction to write in.
pub(crate) struct Write {
    pub(crate) transaction: DatabaseTransaction,
    // Released after the transaction is done with.
    _writer: Option<OwnedMutexGuard<DatabaseConnection>>,
}

impl Write {
    pub(crate) async fn commit(self) -> Result<(), DbErr> {
        self.transaction.commit().await
    }

    pub(crate) async fn rollback(self) -> Result<(), DbErr> {
        self.transaction.rollback().await
    }
}

impl Store {
    pub(crate) fn new(database: DatabaseConnection) -> Self {
        let backend = database.get_database_backend();
        let writer = (backend == DbBackend::Sqlite).then(|| Arc::new(Mutex::new(database.clone())));
        Self { database, backend, writer }
    }

    /// The same, with another connection to write over where the database has one writer.
    pub(crate) fn writing_over(self, database: &DatabaseConnection) -> Self {
        let writer = self.writer.is_some().then(|| Arc::new(Mutex::new(database.clone())));
        Self { writer, ..self }
    }

    /// The same database over other connections, but for what is written over one.
    pub(crate) fn over(&self, database: DatabaseConnection) -> Self {
        Self { database, ..self.clone() }
    }

    pub(crate) fn database(&self) -> &DatabaseConnection {
        &self.database
    }

    /// A statement with `?` for its parameters, whatever the backend.
    pub(crate) fn statement(&self, sql: &str, values: impl IntoIterator<Item = Value>) -> Statement {
        Statement::from_sql_and_values(self.backend, rows::placeholders(self.backend, sql), values)
    }

    /// A transaction to write in, taking its turn.
    pub(crate) async fn write(&self) -> Result<Write, DbErr> {
        let Some(writer) = &self.writer else {
            return Ok(Write { transaction: begin_write(&self.database).await?, _writer: None });
        };
        let writer = Arc::clone(writer).lock_owned().await;
        Ok(Write { transaction: begin_write(&writer).await?, _writer: Some(writer) })
    }

    /// Whether its connections answer.
    pub(crate) async fn answers(&self) -> bool {
        answered_within(REACHED, self.database.query_one_raw(self.statement("SELECT 1", []))).await.is_ok()
    }

    /// Runs one statement in a transaction of its own; returns the number of rows it affected.
    pub(crate) async fn execute(&self, sql: &str, values: impl IntoIterator<Item = Value>) -> Result<u64, DbErr> {
        let executed = async {
            let write = self.write().await?;
            let affected = write.transaction.execute_raw(self.statement(sql, values)).await?.rows_affected();
            write.commit().await?;
            Ok(affected)
        };
        answered(executed).await
    }

    /// A snapshot to read from, and how far SQL had come in it.
    pub(crate) async fn snapshot(&self) -> Result<(DatabaseTransaction, Vec<ShardPosition>), RpcError> {
        // REPEATABLE READ on PostgreSQL is the connection's default; a deferred transaction that
        // only reads is a snapshot on SQLite.
        let read = self.database.begin().await.map_err(|error| unavailable(&error))?;
        let applied = checkpoint::positions(&read).await.map_err(|error| unavailable(&error))?;
        Ok((read, applied))
    }

    /// The database's clock in milliseconds, as an expression.
    pub(crate) fn clock(&self) -> &'static str {
        match self.backend {
            DbBackend::Sqlite => "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
            _ => "(extract(epoch from clock_timestamp()) * 1000)::bigint",
        }
    }

    /// What was committed before survives a loss of power from here on: what no stream has, and what a log is to forget. Nobody waits
    /// for it, writers or readers.
    pub(crate) async fn sync(&self) -> Result<(), DbErr> {
        if self.backend != DbBackend::Sqlite || self.is_copied().await? {
            return Ok(());
        }
        // Somebody reads what was before: what was committed is in the write-ahead log only.
        let Some(main) = self.database.query_one_raw(self.statement("PRAGMA database_list", [])).await? else { return Ok(()) };
        let file: String = main.try_get("", "file")?;
        if file.is_empty() {
            return Ok(());
        }
        let synced = tokio::task::spawn_blocking(move || sync_log(Path::new(&file))).await;
        let failed = |error: &dyn std::fmt::Display| DbErr::Custom(format!("the write-ahead log is not synced: {error}"));
        synced.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
    }

    /// Whether all that was committed is in the database's file and synced, after what can be done for that without keeping anybody waiting.
    async fn is_copied(&self) -> Result<bool, DbErr> {
        let done = self.database.query_one_raw(self.statement("PRAGMA wal_checkpoint(PASSIVE)", [])).await?;
        let Some(done) = done else { return Ok(false) };
        let (busy, written, copied): (i32, i32, i32) = (done.try_get_by_index(0)?, done.try_get_by_index(1)?, done.try_get_by_index(2)?);
        Ok(busy == 0 && copied == written)
    }

    pub(crate) fn backend(&self) -> DbBackend {
        self.backend
    }
}

/// Syncs the write-ahead log of an SQLite database, and that it is there.
fn sync_log(database: &Path) -> io::Result<()> {
    let mut log = database.as_os_str().to_owned();
    log.push("-wal");
    File::open(log)?.sync_all()?;
    database.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_reader_keeps_out_of_the_database_file_is_synced_in_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", directory.path().join("natter.db").display());
        let store = Store::new(connect(&DatabaseOptions { url, ..DatabaseOptions::default() }).await.unwrap());
        store.execute("CREATE TABLE t (a integer)", []).await.unwrap();
        assert!(store.is_copied().await.unwrap());
        let reader = store.database().begin().await.unwrap();
        reader.query_one_raw(store.statement("SELECT count(*) FROM t", [])).await.unwrap();
        store.execute("INSERT INTO t VALUES (1)", []).await.unwrap();
        assert!(!store.is_copied().await.unwrap(), "somebody reads what was before");
        let write = store.write().await.unwrap();
        timeout(Duration::from_secs(1), store.sync()).await.expect("waits for nobody").unwrap();
        write.rollback().await.unwrap();
        assert!(sync_log(&directory.path().join("natter.db")).is_ok());
        assert!(sync_log(&directory.path().join("other.db")).is_err());
        reader.rollback().await.unwrap();
        store.sync().await.unwrap();
        assert!(store.is_copied().await.unwrap());
    }
}
