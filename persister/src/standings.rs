//! Users' standings ([`natter_shared::rpc::Standing`]) and the gateways that keep to them: the list's
//! version is announced again and again, and every gateway says which one it keeps to.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use natter_shared::{
    broker::{Broker, Control},
    id::InstanceId,
};
use parking_lot::Mutex;
use sea_orm::{ConnectionTrait, DbErr};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::database::Store;

/// Between two announcements of the version, and two looks at SQL for it.
const EVERY: Duration = Duration::from_secs(1);

/// Between two announcements while somebody waits for gateways to confirm.
const INSIST: Duration = Duration::from_millis(200);

/// A gateway that was not heard of for so long is gone, or has ended its sessions by itself.
const GONE_AFTER: Duration = Duration::from_secs(5);

/// Gateways announce themselves each second: who has listened for so long has heard of all.
const ACQUAINTED: Duration = Duration::from_secs(2);

/// How long gateways may take to confirm a change before the caller is told which have not.
const CONFIRM_WITHIN: Duration = Duration::from_secs(3);

/// How long SQL may take to say its version.
const LOOK_WITHIN: Duration = Duration::from_secs(3);

#[derive(Clone, Copy)]
struct Heard {
    at: Instant,
    version: u64,
}

/// Which gateways keep to a version.
#[derive(Default)]
pub(crate) struct Confirmation {
    pub(crate) confirmed: Vec<InstanceId>,
    pub(crate) unconfirmed: Vec<InstanceId>,
}

#[derive(Default)]
struct State {
    /// As last read of SQL, or committed by this process; none before.
    version: Option<u64>,
    gateways: HashMap<InstanceId, Heard>,
    listening_since: Option<Instant>,
}

/// The list's version, and who keeps to which.
pub(crate) struct Standings {
    store: Store,
    broker: Arc<dyn Broker>,
    state: Mutex<State>,
    /// A gateway has said something.
    heard: Notify,
}

impl Standings {
    pub(crate) fn new(store: Store, broker: Arc<dyn Broker>) -> Arc<Self> {
        Arc::new(Self { store, broker, state: Mutex::default(), heard: Notify::new() })
    }

    /// Announces the version, looks for changes made by other persisters, and listens to gateways,
    /// until `shutdown`.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.look() => {}
            () = self.announce() => {}
            () = self.listen() => {}
        }
    }

    /// This version is committed.
    pub(crate) fn committed(&self, version: u64) {
        let mut state = self.state.lock();
        state.version = state.version.max(Some(version));
    }

    /// Tells gateways of `version` until all that are there keep to it, or for a while.
    pub(crate) async fn confirm(&self, version: u64) -> Confirmation {
        let begun = Instant::now();
        loop {
            self.tell().await;
            let heard = self.heard.notified();
            tokio::pin!(heard);
            heard.as_mut().enable();
            let (acquainted, confirmation) = self.who_keeps_to(version);
            if (acquainted && confirmation.unconfirmed.is_empty()) || begun.elapsed() > CONFIRM_WITHIN {
                return confirmation;
            }
            let _ = timeout(INSIST, heard).await;
        }
    }

    /// The gateways that are there, and whether all of them have been heard of.
    fn who_keeps_to(&self, version: u64) -> (bool, Confirmation) {
        let state = self.state.lock();
        let mut confirmation = Confirmation::default();
        for (instance, heard) in state.gateways.iter().filter(|(_, heard)| heard.at.elapsed() < GONE_AFTER) {
            let list = if heard.version >= version { &mut confirmation.confirmed } else { &mut confirmation.unconfirmed };
            list.push(*instance);
        }
        (state.listening_since.is_some_and(|since| since.elapsed() > ACQUAINTED), confirmation)
    }

    async fn look(&self) {
        loop {
            match timeout(LOOK_WITHIN, version(&self.store, self.store.database())).await {
                Ok(Ok(version)) => self.committed(version),
                Ok(Err(error)) => tracing::debug!(%error, "standings_not_read"),
                Err(_) => tracing::debug!("standings_not_read"),
            }
            sleep(EVERY).await;
        }
    }

    async fn announce(&self) {
        loop {
            self.tell().await;
            sleep(EVERY).await;
        }
    }

    async fn tell(&self) {
        let version = self.state.lock().version;
        if let Some(version) = version
            && let Err(error) = self.broker.announce(&Control::Standings { version }).await
        {
            tracing::debug!(%error, "standings_not_announced");
        }
    }

    async fn listen(&self) {
        loop {
            match self.broker.controls().await {
                Ok(mut controls) => {
                    self.state.lock().listening_since = Some(Instant::now());
                    while let Some(control) = controls.next().await {
                        match control {
                            Control::Gateway { instance, standings } => self.heard(instance, standings),
                            Control::Applied { .. } | Control::Epoch { .. } | Control::Standings { .. } => {}
                        }
                    }
                }
                Err(error) => tracing::debug!(%error, "controls_unavailable"),
            }
            sleep(INSIST).await;
        }
    }

    fn heard(&self, instance: InstanceId, version: u64) {
        let mut state = self.state.lock();
        let now = Instant::now();
        state.gateways.retain(|_, heard| now.duration_since(heard.at) < 2 * GONE_AFTER);
        state.gateways.insert(instance, Heard { at: now, version });
        drop(state);
        self.heard.notify_waiters();
    }
}

/// The version of the list that `database` shows.
pub(crate) async fn version(store: &Store, database: &impl ConnectionTrait) -> Result<u64, DbErr> {
    let row = database.query_one_raw(store.statement("SELECT version FROM standings_version WHERE one = 1", [])).await?;
    let version: Option<i64> = row.map(|row| row.try_get("", "version")).transpose()?;
    Ok(u64::try_from(version.unwrap_or_default()).unwrap_or_default())
}
