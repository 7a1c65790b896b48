//! How far SQL is known to have come in each shard, from this process's own commits and from what
//! other persisters announce; and the announcing of our own, with what of the log is left.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use natter_shared::{
    broker::{Broker, Control, Meter, Unapplied, hear},
    position::Position,
    rpc::ShardPosition,
    subject::Shard,
    timestamp::Timestamp,
};
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{checkpoint::Checkpoint, database::Store, lease::Leases, metrics::Metrics};

/// Announcements of one shard are at least this far apart.
const SPACING: Duration = Duration::from_millis(50);

/// And at most this far, so that who missed one learns soon. What is left of the log is measured as
/// often.
const REPEAT: Duration = Duration::from_secs(1);

/// Between two looks at what SQL has that the broker need not keep.
const SETTLE: Duration = Duration::from_secs(10);

/// How far SQL is known to have come.
pub(crate) struct Progress {
    /// By anybody's word.
    known: Vec<watch::Sender<Position>>,
    /// The furthest that anybody here waits for, or has waited for.
    wanted: Vec<watch::Sender<Position>>,
    /// By this process's own commits: what it announces, and when that event was stored.
    own: Vec<watch::Sender<(Position, Timestamp)>>,
    /// Whether that is of the time since this process took the shard: before it has settled the log others may have come further.
    settled: Vec<AtomicBool>,
    /// Whether the shard takes what users ask for: so much of its log is not in SQL.
    admits: Vec<AtomicBool>,
    /// Whether this process has committed, or read, a checkpoint since somebody looked.
    has_moved: AtomicBool,
    /// When each shard's progress was announced last, by anybody.
    announced: Vec<Mutex<Option<Instant>>>,
    /// How far SQL was known to have come when the database answered here last.
    when_confirmed: Mutex<Vec<Position>>,
    metrics: Metrics,
}

impl Progress {
    pub(crate) fn new(shards: u16, metrics: Metrics) -> Arc<Self> {
        let known = (0..shards).map(|_| watch::Sender::new(Position::START)).collect();
        let wanted = (0..shards).map(|_| watch::Sender::new(Position::START)).collect();
        let own = (0..shards).map(|_| watch::Sender::new((Position::START, Timestamp::default()))).collect();
        let settled = (0..shards).map(|_| AtomicBool::default()).collect();
        let admits = (0..shards).map(|_| AtomicBool::new(true)).collect();
        let announced = (0..shards).map(|_| Mutex::default()).collect();
        Arc::new(Self {
            known,
            wanted,
            own,
            settled,
            admits,
            has_moved: AtomicBool::default(),
            announced,
            when_confirmed: Mutex::default(),
            metrics,
        })
    }

    /// This process has committed, or read, a checkpoint.
    pub(crate) fn committed(&self, shard: Shard, checkpoint: &Checkpoint) {
        let position = checkpoint.position;
        self.metrics.applied(shard, position);
        self.has_moved.store(true, Ordering::Relaxed);
        if let Some(settled) = self.settled.get(usize::from(shard.0)) {
            settled.store(true, Ordering::Relaxed);
        }
        if let Some(own) = self.own.get(usize::from(shard.0)) {
            own.send_replace((position, checkpoint.stored_at));
        }
        self.heard(shard, position);
    }

    /// This process works on the shard no more.
    pub(crate) fn left(&self, shard: Shard) {
        if let Some(settled) = self.settled.get(usize::from(shard.0)) {
            settled.store(false, Ordering::Relaxed);
        }
    }

    /// Whether this process has committed, or read, a checkpoint since the last look.
    pub(crate) fn has_moved(&self) -> bool {
        self.has_moved.swap(false, Ordering::Relaxed)
    }

    /// Whether somebody has announced progress in `shard` in the last so long.
    pub(crate) fn was_announced_within(&self, shard: Shard, time: Duration) -> bool {
        let announced = self.announced.get(usize::from(shard.0)).and_then(|announced| *announced.lock());
        announced.is_some_and(|announced| announced.elapsed() <= time)
    }

    /// Somebody says so.
    pub(crate) fn heard(&self, shard: Shard, position: Position) {
        if let Some(known) = self.known.get(usize::from(shard.0)) {
            known.send_if_modified(|at| {
                let news = position > *at;
                if news {
                    *at = position;
                }
                news
            });
        }
    }

    /// Waits until this process alone seems not to reach the database: it has had no answer for long, and another one has come further.
    pub(crate) async fn cut_off(&self, leases: &Leases) {
        while !self.is_cut_off(leases) {
            tokio::time::sleep(REPEAT).await;
        }
    }

    fn is_cut_off(&self, leases: &Leases) -> bool {
        let furthest = self.known.iter().map(|known| *known.borrow());
        let mut before = self.when_confirmed.lock();
        if leases.is_any_confirmed() {
            *before = furthest.collect();
            return false;
        }
        // Not by what was committed here, which the database has answered.
        let own = self.own.iter().map(|own| own.borrow().0);
        furthest.zip(before.iter()).zip(own).any(|((now, before), own)| now > *before && now > own)
    }

    /// How far SQL is known to have come, by anybody's word.
    fn furthest(&self, shard: Shard) -> Position {
        self.known.get(usize::from(shard.0)).map_or(Position::START, |known| *known.borrow())
    }

    /// Somebody has measured what is left.
    fn measured(&self, shard: Shard, unapplied: Unapplied) {
        if let Some(admits) = self.admits.get(usize::from(shard.0)) {
            let before = admits.load(Ordering::Relaxed);
            admits.store(unapplied.admits(before), Ordering::Relaxed);
        }
    }

    /// Whether `shard` takes what users ask for. What follows from events that are stored already
    /// goes in anyway: it is what makes room.
    pub(crate) fn admits(&self, shard: Shard) -> bool {
        self.admits.get(usize::from(shard.0)).is_some_and(|admits| admits.load(Ordering::Relaxed))
    }

    /// Waits until SQL is known to have come to `at`. False if not by `deadline`.
    pub(crate) async fn reached(&self, at: ShardPosition, deadline: Instant) -> bool {
        let shard = usize::from(at.shard);
        let (Some(known), Some(wanted)) = (self.known.get(shard), self.wanted.get(shard)) else { return false };
        let mut known = known.subscribe();
        if *known.borrow() < at.position {
            wanted.send_if_modified(|furthest| {
                let news = at.position > *furthest;
                *furthest = at.position.max(*furthest);
                news
            });
        }
        let reached = known.wait_for(|position| *position >= at.position);
        matches!(tokio::time::timeout_at(deadline, reached).await, Ok(Ok(_)))
    }

    /// Waits until somebody here waits for SQL to come further than `at`.
    pub(crate) async fn wanted(&self, shard: Shard, at: Position) {
        if let Some(wanted) = self.wanted.get(usize::from(shard.0))
            && wanted.subscribe().wait_for(|furthest| *furthest > at).await.is_ok()
        {
            return;
        }
        std::future::pending::<()>().await;
    }

    /// Announces this process's progress in `shard` until `shutdown`, for as long as the shard is its own to work on, or it has left it to
    /// others and none has come further: while the database is away, or busy, for all, nobody can, and the same position is announced, so
    /// that gateways know how much waits. Before it has settled the log that is what others came to: somebody works on it.
    pub(crate) async fn announce(self: Arc<Self>, broker: Arc<dyn Broker>, leases: Arc<Leases>, shard: Shard, shutdown: CancellationToken) {
        let Some(own) = self.own.get(usize::from(shard.0)) else { return };
        let mut own = own.subscribe();
        let mut meter = Meter::default();
        let mut measured = None;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = own.changed() => {}
                () = tokio::time::sleep(REPEAT) => {}
            }
            let ((reached, stored_at), furthest, holds) = (*own.borrow_and_update(), self.furthest(shard), leases.holds(shard));
            let is_settled = self.settled.get(usize::from(shard.0)).is_some_and(|settled| settled.load(Ordering::Relaxed));
            let is_own = reached != Position::START && (is_settled || !holds);
            let position = if is_own || !holds { reached } else { furthest };
            if position == Position::START || !(holds || leases.are_left()) {
                continue;
            }
            // Cut off from the database, but somebody else is not: what waits is theirs to tell.
            if !(holds && leases.is_confirmed(shard)) && furthest > position {
                continue;
            }
            let mut unapplied = None;
            if is_own && measured.is_none_or(|at: Instant| at.elapsed() >= REPEAT) {
                measured = Some(Instant::now());
                match broker.log_size(shard).await {
                    Ok(size) => unapplied = Some(meter.measure(&size, position, stored_at, broker.now())),
                    Err(error) => tracing::debug!(%error, shard = shard.0, "log_not_measured"),
                }
            }
            if let Some(unapplied) = unapplied
                && leases.holds(shard)
            {
                self.metrics.unapplied(shard, unapplied);
                self.measured(shard, unapplied);
            }
            let control = Control::Applied { shard: shard.0, position, unapplied };
            if let Err(error) = broker.announce(&control).await {
                tracing::debug!(%error, shard = shard.0, "announcement_failed");
            }
            tokio::time::sleep(SPACING).await;
        }
    }

    /// Waits until this process has committed what `broker`'s logs have, and what that made.
    pub(crate) async fn caught_up(&self, broker: &dyn Broker) {
        let mut waited = true;
        // What is applied of one shard may have been published into another one, before it.
        while std::mem::take(&mut waited) {
            for (shard, own) in (0..).map(Shard).zip(&self.own) {
                // Without a log there is nothing to wait for.
                let Ok(state) = broker.log_state(shard).await else { continue };
                let end = Position::new(state.epoch, state.last);
                waited |= own.borrow().0 < end;
                let _ = own.subscribe().wait_for(|(position, _)| *position >= end).await;
            }
        }
    }

    /// Tells `broker` until `shutdown` what it need not keep any more: what is in SQL, and survives a loss of power there.
    pub(crate) async fn settle(self: Arc<Self>, store: Store, broker: Arc<dyn Broker>, shutdown: CancellationToken) {
        let mut told = vec![Position::START; self.own.len()];
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(SETTLE) => {}
            }
            let reached: Vec<Position> = self.own.iter().map(|own| own.borrow().0).collect();
            if reached == told {
                continue;
            }
            if let Err(error) = store.sync().await {
                tracing::warn!(%error, "not_synced");
                continue;
            }
            for (shard, position) in (0..).map(Shard).zip(&reached) {
                broker.applied(shard, *position).await;
            }
            told = reached;
        }
    }

    /// Listens to what other persisters announce until `shutdown`.
    pub(crate) async fn listen(self: Arc<Self>, broker: Arc<dyn Broker>, shutdown: CancellationToken) {
        let heard = hear(&*broker, |control| match control {
            Control::Applied { shard, position, unapplied } => {
                self.heard(Shard(shard), position);
                if let Some(announced) = self.announced.get(usize::from(shard)) {
                    *announced.lock() = Some(Instant::now());
                }
                if let Some(unapplied) = unapplied {
                    self.measured(Shard(shard), unapplied);
                }
            }
            Control::Epoch { .. } | Control::Standings { .. } | Control::Gateway { .. } => {}
        });
        shutdown.run_until_cancelled(heard).await;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::{FutureExt, StreamExt};
    use natter_shared::{
        broker::{
            Outgoing,
            embedded::{EmbeddedBroker, EmbeddedOptions},
        },
        id::{EventId, InstanceId},
        position::Epoch,
        subject::Topic,
    };
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::{
        database::{connect, migrate},
        options::DatabaseOptions,
    };

    #[tokio::test]
    async fn whoever_waits_hurries_the_shard_and_no_other() {
        let progress = Progress::new(2, Metrics::register(&mut Registry::default()));
        let (first, at) = (Shard(0), Position::new(Epoch(1), 5));
        let waits = tokio::spawn({
            let progress = Arc::clone(&progress);
            async move { progress.reached(ShardPosition { shard: 0, position: at }, Instant::now() + Duration::from_secs(10)).await }
        });
        progress.wanted(first, Position::new(Epoch(1), 4)).await;
        assert!(progress.wanted(first, at).now_or_never().is_none(), "nobody waits for more");
        assert!(progress.wanted(Shard(1), Position::START).now_or_never().is_none(), "nobody waits for it");
        progress.heard(first, at);
        assert!(waits.await.unwrap());
        assert!(progress.reached(ShardPosition { shard: 0, position: at }, Instant::now()).await);
    }

    #[tokio::test]
    async fn who_settles_a_shard_still_says_how_far_others_came() {
        let directory = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions { shards: 1, ..EmbeddedOptions::default() };
        let broker = EmbeddedBroker::open(&directory.path().join("log.db"), options).await.unwrap();
        let url = format!("sqlite:{}", directory.path().join("natter.db").display());
        let database = connect(&DatabaseOptions { url, ..DatabaseOptions::default() }).await.unwrap();
        migrate(&database).await.unwrap();
        let leases = Leases::new(Store::new(database), InstanceId::random(), Duration::from_secs(9), 1, None);
        let stop = CancellationToken::new();
        tokio::spawn(Arc::clone(&leases).keep(stop.clone()));
        let (progress, others) = (Progress::new(1, Metrics::register(&mut Registry::default())), Position::new(Epoch(1), 5));
        let mut controls = broker.controls().await.unwrap();
        tokio::spawn(Arc::clone(&progress).announce(broker.clone(), leases, Shard(0), stop.clone()));
        assert!(tokio::time::timeout(2 * REPEAT, controls.next()).await.is_err(), "nobody has come anywhere");
        // When it had the shard before.
        progress.committed(Shard(0), &Checkpoint::before(Epoch(1), Position::START));
        progress.left(Shard(0));
        progress.heard(Shard(0), others);
        let told = tokio::time::timeout(Duration::from_secs(10), controls.next()).await.expect("told");
        assert!(matches!(&told, Some(Control::Applied { shard: 0, position, unapplied: None }) if *position == others), "{told:?}");
        stop.cancel();
    }

    #[tokio::test]
    async fn what_a_later_shard_made_in_one_before_it_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions { shards: 2, ..EmbeddedOptions::default() };
        let broker = EmbeddedBroker::open(&directory.path().join("log.db"), options).await.unwrap();
        let (progress, epoch) = (Progress::new(2, Metrics::register(&mut Registry::default())), Epoch(1));
        let publish = async |shard| {
            let topic = std::iter::repeat_with(|| Topic::Canary(InstanceId::random()));
            let topic = topic.into_iter().find(|topic| broker.shards().of(*topic) == Shard(shard)).unwrap();
            let event = Outgoing { topic, id: EventId::random(), made_at: broker.now(), epoch: None, payload: Bytes::new() };
            broker.publish(event).await.unwrap();
        };
        for shard in broker.shards().iter() {
            broker.open_epoch(shard, epoch).await.unwrap();
            progress.committed(shard, &Checkpoint::before(epoch, Position::START));
        }
        publish(1).await;
        let applied = |seq| Checkpoint { position: Position::new(epoch, seq), ..Checkpoint::before(epoch, Position::START) };
        let mut caught_up = std::pin::pin!(progress.caught_up(&*broker));
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut caught_up).await.is_err());
        publish(0).await;
        progress.committed(Shard(1), &applied(1));
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut caught_up).await.is_err(), "the first has one more");
        progress.committed(Shard(0), &applied(1));
        caught_up.await;
    }
}
