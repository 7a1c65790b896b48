//! From the built-in broker to NATS: what the log has and the database has not would be nowhere.

use std::time::Duration;

use anyhow::{Context, bail};
use natter_persister::admin;
use natter_shared::{broker::embedded, config::Config, subject::Shard};
use tokio::time::sleep;

use crate::{folder::DataFolder, persister, start::LOG_FILE};

/// Waits for the database where the folder has a log. Fails where that has events that are not in the database.
pub(crate) async fn check(config: &Config, folder: &DataFolder) -> anyhow::Result<()> {
    let log = folder.join(LOG_FILE);
    if !log.exists() {
        return Ok(());
    }
    let log = log.display();
    let database = persister::database(config)?;
    let mut pause = Duration::from_millis(100);
    let applied = loop {
        match admin::applied(&database).await {
            Ok(applied) => break applied,
            Err(error) => tracing::warn!(
                %error,
                "database_not_asked: {log} may have events that are not in the database, which is waited for. To do without them, stop \
                 natter and move the file away"
            ),
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    };
    let applied: Vec<_> = applied.into_iter().map(|at| (Shard(at.shard), at.position)).collect();
    let beyond = embedded::count_beyond(&folder.join(LOG_FILE), &applied).await.with_context(|| format!("the log {log}"))?;
    if beyond > 0 {
        bail!(
            "{log}, the built-in broker's log, has {beyond} events that are not in the database yet, and over NATS they would be lost. \
             Start natter once more without NATTER_NATS__URL, where no client comes; stop it with SIGTERM when its /readyz is 200: it \
             stays until they are in the database, for 5 s at most. Then start it with NATTER_NATS__URL again. \
             docs/operations.md has the steps. (To do without these events, move the file away.)"
        );
    }
    Ok(())
}
