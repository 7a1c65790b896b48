//! Whether the connections for the work on shards answer. Whoever holds a lease and cannot write would keep all others from it.

use std::sync::Arc;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    database::{LOOK, SILENCE, Store},
    lease::Leases,
    progress::Progress,
};

/// Tells `leases`, until `shutdown`, whether the connections of `work` answer, of which no others say more.
pub(crate) async fn watch(work: Store, leases: Arc<Leases>, progress: Arc<Progress>, shutdown: CancellationToken) {
    let mut heard = Instant::now();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = sleep(LOOK) => {}
        }
        if progress.has_moved() || work.answers().await {
            heard = Instant::now();
            leases.set_reaches_work(true);
        } else if !leases.is_any_confirmed() {
            // It is away for all.
            heard = Instant::now();
        } else if heard.elapsed() >= SILENCE && leases.set_reaches_work(false) {
            tracing::warn!("leases_left_to_others: the database does not answer the connections for the work on shards");
        }
    }
}
