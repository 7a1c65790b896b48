//! Counts of inboxes are told once and are not stored: where some may have been lost, all who are here are told again,
//! round by round.

use std::{sync::Arc, time::Duration};

use natter_shared::{
    id::UserId,
    rpc::{self, TellInboxes},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::UsersTask;
use crate::delivery::hub::Hub;

/// Before a call that was not answered is made again.
const RETRY: Duration = Duration::from_secs(1);

/// How often: a persister may be away for minutes, and tells by itself what it tells late.
const TRIES: usize = 300;

/// Between two rounds at least, and at most.
const APART: Duration = Duration::from_secs(2);
const APART_AT_MOST: Duration = Duration::from_mins(1);

/// So many times longer than a round took nothing is asked: SQL counts for everybody who is here.
const TIMES_AS_LONG: u32 = 9;

/// Which losses counts were told again for.
pub(super) struct Recounts {
    /// Up to these [`losses`](crate::knowledge::losses) they were, or are being.
    asked: u64,
    /// Up to these they are to be.
    wanted: u64,
    /// Asks; it ends when the next round may begin.
    round: Option<JoinHandle<Option<()>>>,
}

impl Recounts {
    /// Nothing was lost but `losses`, which need no telling.
    pub(super) fn after(losses: u64) -> Self {
        Self { asked: losses, wanted: losses, round: None }
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.round.is_some()
    }

    /// Waits until the next round may begin. Cancel-safe.
    pub(super) async fn ended(&mut self) {
        if let Some(round) = &mut self.round {
            let _ = round.await;
            self.round = None;
        }
    }
}

impl UsersTask {
    /// Has the counts of everybody here told again, unless that was done after all `losses`. Who is about to recover asks by
    /// itself, when it listens again.
    pub(super) fn tell_counts_again(&mut self, losses: u64) {
        self.recounts.wanted = self.recounts.wanted.max(losses);
        self.begin_round();
    }

    /// One round after the other: begun anew with each loss, none would come to its end.
    pub(super) fn begin_round(&mut self) {
        let Recounts { asked, wanted, .. } = self.recounts;
        if wanted <= asked || self.recounts.is_under_way() {
            return;
        }
        let of = |entry: &super::User| entry.listeners.first().map(|listener| listener.session.user.clone());
        let users: Vec<UserId> = self.users.values().filter_map(of).collect();
        let round = round(Arc::clone(&self.hub), users);
        let round = self.hub.tasks.spawn(self.hub.stop.clone().run_until_cancelled_owned(round));
        (self.recounts.asked, self.recounts.round) = (wanted, Some(round));
    }
}

async fn round(hub: Arc<Hub>, users: Vec<UserId>) {
    let begun = Instant::now();
    ask(&hub, users).await;
    sleep((begun.elapsed() * TIMES_AS_LONG).clamp(APART, APART_AT_MOST)).await;
}

async fn ask(hub: &Hub, users: Vec<UserId>) {
    let mut tries = 0;
    for some in users.chunks(TellInboxes::MOST) {
        while let Err(error) = rpc::call(&*hub.broker, TellInboxes { users: some.to_vec() }, None).await {
            tries += 1;
            if !error.code.is_retryable() || tries > TRIES {
                tracing::warn!(%error, users = users.len(), "inbox_counts_not_told_again");
                return;
            }
            sleep(RETRY).await;
        }
    }
}
