//! Wires the persister together and keeps it going.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use natter_shared::{
    broker::{Broker, BrokerError},
    id::InstanceId,
    rpc::ShardPosition,
};
use sea_orm::{ConnectionTrait, DbBackend, DbErr};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    checkpoint,
    database::{Connections, Store, migrate, unfit_encoding},
    erasure::Eraser,
    error::Error,
    inbox,
    lease::{Leases, OTHERS_WATCHED},
    metrics::Metrics,
    options::Options,
    progress::Progress,
    projector::{Portion, Projector},
    retention::Retention,
    rpc::Server,
    shard::ShardTask,
    standings::Standings,
};

/// Changes of inboxes waiting to be counted.
const CHANGES: usize = 65_536;

/// How long answers and commits under way may take at the end; and what is not applied yet, where it has to be.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs a persister until `shutdown`. `ready` follows whether all shards have a log and a
/// checkpoint, broker and database answer, and calls are served; neither needs to be there at the
/// start.
///
/// # Errors
/// Where waiting cannot help: the database belongs to an installation with another number of
/// shards, or has another encoding than UTF-8; or a task died.
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
        };
        let task = ShardTask { projector, lease, batch: options.batch.max(1), check_interval: options.check_interval };
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
    tasks.spawn(watch_readiness(apart, Arc::clone(&broker), watched, is_serving, ready.clone(), projecting.clone()));
    let standings = Standings::new(store.clone(), Arc::clone(&broker));
    tasks.spawn(Arc::clone(&standings).run(projecting.clone()));
    let to_apply = options.apply_all.clone().map(|hurry| (Arc::clone(&progress), Arc::clone(&broker), hurry));
    let server = Server::new(store.over(calls), broker, progress, standings, changes, metrics, options);
    let mut serving = tokio::spawn(server.run(leases, serving, shutdown.clone()));

    // Nothing ends by itself; what does has died.
    let died = tokio::select! {
        ended = &mut serving => ended.err().map(|error| error.to_string()),
        ended = tasks.join_next() => ended.and_then(Result::err).map(|error| error.to_string()),
    };
    ready.send_replace(false);
    if let (None, Some((progress, broker, hurry))) = (&died, to_apply) {
        let is_all = tokio::select! {
            () = progress.caught_up(&*broker) => true,
            () = sleep(DRAIN) => false,
            () = hurry.cancelled() => false,
        };
        if !is_all {
            tracing::warn!("events_left_to_the_next_start");
        }
    }
    projecting.cancel();
    let drained = timeout(DRAIN, async { while tasks.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!("persister_drain_incomplete");
    }
    match died {
        Some(error) if !shutdown.is_cancelled() => Err(Error::Task(error)),
        Some(_) | None => Ok(()),
    }
}

/// Brings the schema up to date and checks that the database is this installation's, however long it takes; false when shut
/// down before.
async fn prepared(store: &Store, configured: u16, shutdown: &CancellationToken) -> Result<bool, Error> {
    let mut pause = Duration::from_millis(100);
    loop {
        match prepare(store, configured).await {
            Err(Error::Database(error)) => tracing::warn!(%error, "database_not_prepared"),
            prepared => return prepared.map(|()| true),
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

/// Tells whether the persister can do its work, and learns progress that no announcement brought.
async fn watch_readiness(
    store: Store,
    broker: Arc<dyn Broker>,
    progress: Arc<Progress>,
    serving: watch::Receiver<bool>,
    ready: watch::Sender<bool>,
    shutdown: CancellationToken,
) {
    let status = broker.status();
    loop {
        let applied = match timeout(Duration::from_secs(3), checkpoint::positions(store.database())).await {
            Ok(applied) => applied,
            Err(_) => Err(DbErr::Custom("timed out".into())),
        };
        let installed = applied.unwrap_or_default();
        for at in &installed {
            progress.heard(natter_shared::subject::Shard(at.shard), at.position);
        }
        let connected = status.borrow().connected;
        let can = connected && *serving.borrow() && !installed.is_empty();
        let fit = if can { are_fit(&*broker).await } else { None };
        let now = can
            && match fit {
                Some(false) => false,
                // Once settled, a shard that changes its epoch keeps nothing waiting but itself.
                _ if *ready.borrow() => true,
                Some(true) => are_settled(&*broker, &installed).await,
                None => false,
            };
        ready.send_if_modified(|ready| std::mem::replace(ready, now) != now);
        let pause = Duration::from_millis(if now || fit == Some(false) { 1000 } else { 100 });
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

/// Whether every shard's log is as it has to be: asked once for each connection and epoch. None: not all of them say, and none
/// that does is not.
async fn are_fit(broker: &dyn Broker) -> Option<bool> {
    let answers = join_all(broker.shards().iter().map(|shard| broker.fit(shard))).await;
    if answers.iter().any(|answer| matches!(answer, Err(BrokerError::Refused(_)))) {
        return Some(false);
    }
    answers.iter().all(Result::is_ok).then_some(true)
}

/// Whether every shard's log is in the epoch of its checkpoint.
async fn are_settled(broker: &dyn Broker, installed: &[ShardPosition]) -> bool {
    for shard in broker.shards().iter() {
        let Some(at) = installed.iter().find(|at| at.shard == shard.0) else { return false };
        match broker.log_state(shard).await {
            Ok(state) if state.epoch == at.position.epoch => {}
            Ok(_) | Err(_) => return false,
        }
    }
    true
}
