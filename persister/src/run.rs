//! Wires the persister together and keeps it going.

use std::{sync::Arc, time::Duration};

use natter_shared::{broker::Broker, id::InstanceId};
use sea_orm::{ConnectionTrait, DbBackend, DbErr};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    checkpoint,
    database::{Connections, SELDOM, Store, migrate, unfit_encoding},
    erasure::Eraser,
    error::Error,
    inbox,
    lease::{Leases, OTHERS_WATCHED},
    metrics::Metrics,
    options::Options,
    progress::Progress,
    projector::{Portion, Projector},
    readiness::Readiness,
    retention::Retention,
    rpc::Server,
    shard::ShardTask,
    standings::Standings,
    work,
};

/// Changes of inboxes waiting to be counted.
const CHANGES: usize = 65_536;

/// How long answers and commits under way may take at the end; and what is not applied yet, where it has to be.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs a persister until `shutdown`. `ready` follows whether all shards have a log, a checkpoint and somebody
/// who works on them, broker and database answer, and calls are served; neither needs to be there at the
/// start.
///
/// # Errors
/// Where waiting cannot help: the database belongs to an installation with another number of
/// shards, knows nothing of a log that was used, or has another encoding than UTF-8; or a task died.
pub async fn run(
    broker: Arc<dyn Broker>,
    connections: Connections,
    options: Options,
    instance: InstanceId,
    shutdown: CancellationToken,
    ready: watch::Sender<bool>,
    metrics: Metrics,
) -> Result<(), Error> {
    let Connections { work, calls, apart } = connections;
    let store = Store::new(work).writing_over(&apart);
    // Nothing is read over what SQLite is written over.
    let apart = if store.backend() == DbBackend::Sqlite { store.clone() } else { store.over(apart) };
    let shards = broker.shards();
    if !prepared(&store, shards.count(), &shutdown).await? {
        return Ok(());
    }

    // Calls end first: those under way still need the projectors.
    let projecting = CancellationToken::new();
    let _stop = projecting.clone().drop_guard();
    let progress = Progress::new(shards.count(), metrics.clone());
    let leases =
        Leases::new(apart.clone(), instance, options.lease_ttl, shards.count(), options.apply_all.as_ref().map(|_| OTHERS_WATCHED));
    let (changes, to_count) = mpsc::channel(CHANGES);
    let (refuse, mut refused) = mpsc::channel(1);
    let mut tasks = JoinSet::new();
    for shard in shards.iter() {
        let Some(lease) = leases.watch(shard) else { continue };
        let projector = Projector {
            shard,
            store: store.clone(),
            broker: Arc::clone(&broker),
            metrics: metrics.clone(),
            progress: Arc::clone(&progress),
            changes: changes.clone(),
            shutdown: projecting.clone(),
            counters: std::collections::HashMap::new(),
            published: std::collections::HashSet::new(),
            portion: Portion::default(),
            without_history: options.without_history,
        };
        let task =
            ShardTask { projector, lease, refuse: refuse.clone(), batch: options.batch.max(1), check_interval: options.check_interval };
        tasks.spawn(task.run());
        tasks.spawn(Arc::clone(&progress).announce(Arc::clone(&broker), Arc::clone(&leases), shard, projecting.clone()));
    }
    let eraser = Eraser {
        store: store.clone(),
        broker: Arc::clone(&broker),
        progress: Arc::clone(&progress),
        leases: Arc::clone(&leases),
        every: options.erasure_interval,
        last_words: options.last_words,
    };
    tasks.spawn(eraser.run(projecting.clone()));
    if options.keep_messages.is_some() || options.keep_notifications.is_some() {
        let retention = Retention {
            store: store.clone(),
            broker: Arc::clone(&broker),
            leases: Arc::clone(&leases),
            metrics: metrics.clone(),
            changes: changes.clone(),
            messages: options.keep_messages,
            notifications: options.keep_notifications,
            every: options.retention_interval,
        };
        tasks.spawn(retention.run(projecting.clone()));
    }
    tasks.spawn(Arc::clone(&leases).keep(projecting.clone()));
    tasks.spawn(Arc::clone(&progress).listen(Arc::clone(&broker), projecting.clone()));
    tasks.spawn(Arc::clone(&progress).settle(store.clone(), Arc::clone(&broker), projecting.clone()));
    tasks.spawn(inbox::announce(store.clone(), Arc::clone(&broker), options.clone(), to_count, projecting.clone()));
    // The database may answer before the first call can.
    let (serving, is_serving) = watch::channel(false);
    let watched = Arc::clone(&progress);
    let readiness =
        Readiness { store: apart, broker: Arc::clone(&broker), progress: watched, leases: Arc::clone(&leases), serving: is_serving };
    tasks.spawn(readiness.watch(ready.clone(), projecting.clone()));
    if store.backend() == DbBackend::Postgres {
        tasks.spawn(work::watch(store.clone(), Arc::clone(&leases), Arc::clone(&progress), projecting.clone()));
    }
    let standings = Standings::new(store.clone(), Arc::clone(&broker));
    tasks.spawn(Arc::clone(&standings).run(projecting.clone()));
    let to_apply = options.apply_all.clone().map(|hurry| (Arc::clone(&progress), Arc::clone(&broker), hurry));
    let server = Server::new(store.over(calls), broker, progress, standings, changes, metrics, options);
    let mut serving = tokio::spawn(server.run(leases, serving, shutdown.clone()));

    // Nothing ends by itself; what does has died.
    let died = tokio::select! {
        ended = &mut serving => ended.err().map(|error| Error::Task(error.to_string())),
        ended = tasks.join_next() => ended.and_then(Result::err).map(|error| Error::Task(error.to_string())),
        refused = refused.recv() => refused,
    };
    if died.is_some() {
        serving.abort();
    }
    ready.send_replace(false);
    if let (None, Some((progress, broker, hurry))) = (&died, to_apply) {
        apply_rest(&progress, &*broker, &hurry).await;
    }
    projecting.cancel();
    let drained = timeout(DRAIN, async { while tasks.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!("persister_drain_incomplete");
    }
    match died {
        Some(error) if !shutdown.is_cancelled() => Err(error),
        Some(_) | None => Ok(()),
    }
}

/// Waits for a while until all that the logs have is applied, or until `hurry`.
async fn apply_rest(progress: &Progress, broker: &dyn Broker, hurry: &CancellationToken) {
    let is_all = tokio::select! {
        // What there is not to wait for is not to be given up.
        biased;
        () = progress.caught_up(broker) => true,
        () = sleep(DRAIN) => false,
        () = hurry.cancelled() => false,
    };
    if !is_all {
        tracing::warn!("events_left_to_the_next_start");
    }
}

/// Brings the schema up to date and checks that the database is this installation's, however long it takes; false when shut
/// down before.
async fn prepared(store: &Store, configured: u16, shutdown: &CancellationToken) -> Result<bool, Error> {
    let (mut pause, mut patience) = (Duration::from_millis(100), SELDOM);
    loop {
        match timeout(patience, prepare(store, configured)).await {
            Ok(Err(Error::Database(error))) => tracing::warn!(%error, "database_not_prepared"),
            Ok(prepared) => return prepared.map(|()| true),
            Err(_) => {
                tracing::warn!("database_not_prepared: no answer in {} s", patience.as_secs());
                // Of a large one a change of the schema may take longer.
                patience = patience.saturating_mul(2);
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(false),
            () = sleep(pause) => pause = (pause * 2).min(Duration::from_secs(5)),
        }
    }
}

async fn prepare(store: &Store, configured: u16) -> Result<(), Error> {
    if let Some(encoding) = unfit_encoding(store.database()).await? {
        return Err(Error::Encoding(encoding));
    }
    migrate(store.database()).await?;
    // The number of shards is fixed when an installation is made: every subject depends on it.
    match installed_shards(store, configured).await? {
        installed if installed == i64::from(configured) => Ok(()),
        installed => Err(Error::Shards { installed, configured }),
    }
}

/// The number that this installation was made with: `configured` where it is made now.
async fn installed_shards(store: &Store, configured: u16) -> Result<i64, DbErr> {
    // One of an earlier release has not noted it, but has a checkpoint of each.
    let applied = checkpoint::positions(store.database()).await?;
    let shards = applied.iter().map(|at| at.shard + 1).max().unwrap_or(configured);
    store.execute("INSERT INTO installation (one, shards) VALUES (1, ?) ON CONFLICT DO NOTHING", [i64::from(shards).into()]).await?;
    let row = store.database().query_one_raw(store.statement("SELECT shards FROM installation", [])).await?;
    row.map_or(Ok(i64::from(shards)), |row| row.try_get("", "shards"))
}
