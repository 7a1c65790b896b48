//! From the built-in broker to NATS: what the log has and the database has not would be nowhere.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use natter_persister::admin;
use natter_shared::{broker::embedded, config::Config, subject::Shard};
use tokio::time::{sleep, timeout};

use crate::{folder::DataFolder, persister, start::LOG_FILE};

/// How long the database is waited for at first: its schema may have to be brought up to date.
const PATIENCE: Duration = Duration::from_mins(5);

/// What a log's files are called, beside its name; the log itself at last, since it is by that that the next start goes.
const FILES: [&str; 3] = ["-wal", "-shm", ""];

/// Waits for the database where the folder has a log, and puts that aside. Fails where it has events that are not in the database, or
/// where this one does not fit.
pub(crate) async fn check(config: &Config, folder: &DataFolder) -> anyhow::Result<()> {
    let path = folder.join(LOG_FILE);
    if !path.exists() {
        return Ok(());
    }
    let log = path.display();
    let database = persister::database(config)?;
    let (mut pause, mut patience) = (Duration::from_millis(100), PATIENCE);
    let applied = loop {
        let error = match timeout(patience, admin::applied(&database)).await {
            Ok(Ok(applied)) => break applied,
            Ok(Err(error)) if error.is_lasting() => return Err(error.into()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => {
                patience = patience.saturating_mul(2);
                "no answer in time".to_owned()
            }
        };
        tracing::warn!(
            %error,
            "database_not_asked: {log} may have events that are not in the database, which is waited for. To do without them, stop \
                 natter and move the file away"
        );
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    };
    let applied: Vec<_> = applied.into_iter().map(|at| (Shard(at.shard), at.position)).collect();
    let beyond = embedded::count_beyond(&path, &applied).await.with_context(|| format!("the log {log}"))?;
    if beyond > 0 {
        bail!(
            "{log}, the built-in broker's log, has {beyond} events that are not in the database yet, and over NATS they would be lost. \
             Start natter once more without NATTER_NATS__URL, where no client comes; stop it with SIGTERM when its /readyz is 200: it \
             stays until they are in the database, for 5 s at most. Then start it with NATTER_NATS__URL again. \
             docs/operations.md has the steps. (To do without these events, move the file away.)"
        );
    }
    // Later starts ask nothing, and so do not wait for the database.
    match put_aside(&path) {
        Ok(aside) => tracing::info!("log_put_aside: {log} is {} now; all its events are in the database", aside.display()),
        Err(error) => tracing::warn!(%error, "log_not_put_aside: {log} has nothing that is not in the database: move it away"),
    }
    Ok(())
}

/// Renames the log's files, over those that were put aside before.
fn put_aside(log: &Path) -> io::Result<PathBuf> {
    let named = |suffix: &str, more: &str| {
        let mut name = OsString::from(log);
        name.push(more);
        name.push(suffix);
        PathBuf::from(name)
    };
    let absent = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    for suffix in FILES {
        let aside = named(suffix, ".moved");
        match fs::rename(named(suffix, ""), &aside) {
            // One of an older log does not belong to this one.
            Err(error) if absent(&error) => fs::remove_file(&aside).or_else(|error| if absent(&error) { Ok(()) } else { Err(error) })?,
            renamed => renamed?,
        }
    }
    Ok(named("", ".moved"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_log_is_put_aside_with_its_own_files_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("events.db");
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).ok();
        for name in ["events.db", "events.db-wal", "events.db-shm"] {
            write(name, "first");
        }
        assert_eq!(put_aside(&log).unwrap(), folder.path().join("events.db.moved"));
        assert_eq!((read("events.db"), read("events.db-wal"), read("events.db-shm")), (None, None, None));
        assert_eq!((read("events.db.moved").as_deref(), read("events.db.moved-wal").as_deref()), (Some("first"), Some("first")));
        write("events.db", "second");
        put_aside(&log).unwrap();
        assert_eq!((read("events.db.moved").as_deref(), read("events.db.moved-wal")), (Some("second"), None));
    }
}
