//! Counts of inboxes are told once and are not stored: where some may have been lost, all who are here are told again.

use std::{sync::Arc, time::Duration};

use natter_shared::{
    id::UserId,
    rpc::{self, TellInboxes},
};

use super::UsersTask;
use crate::delivery::hub::Hub;

/// Before a call that was not answered is made again.
const RETRY: Duration = Duration::from_secs(1);

/// How often: a persister may be away for minutes, and tells by itself what it tells late.
const TRIES: usize = 300;

impl UsersTask {
    /// Has the counts of everybody here told again, unless that was done after all `losses`. Who is about to recover asks by
    /// itself, when it listens again.
    pub(super) fn tell_counts_again(&mut self, losses: u64) {
        if losses <= self.losses {
            return;
        }
        self.losses = losses;
        let of = |entry: &super::User| entry.listeners.first().map(|listener| listener.session.user.clone());
        let users: Vec<UserId> = self.users.values().filter_map(of).collect();
        let asking = self.hub.stop.clone().run_until_cancelled_owned(ask(Arc::clone(&self.hub), users));
        let asking = self.hub.tasks.spawn(asking).abort_handle();
        // Of a loss before; whoever was to be told for it, and is still here, is told for this one.
        if let Some(before) = self.asking.replace(asking) {
            before.abort();
        }
    }
}

async fn ask(hub: Arc<Hub>, users: Vec<UserId>) {
    let mut tries = 0;
    for some in users.chunks(TellInboxes::MOST) {
        while let Err(error) = rpc::call(&*hub.broker, TellInboxes { users: some.to_vec() }, None).await {
            tries += 1;
            if !error.code.is_retryable() || tries > TRIES {
                tracing::warn!(%error, users = users.len(), "inbox_counts_not_told_again");
                return;
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}
