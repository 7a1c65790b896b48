//! `natter backup`: a consistent copy of the data folder while natter runs.
//!
//! First the database, then the log: what the copy of the log has beyond the copy of the database is
//! applied when natter starts with them. The other way round, accepted messages could be in neither.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use natter_persister::{DatabaseOptions, admin};
use natter_shared::{
    broker::embedded,
    config::{Config, DATABASE_FILE, database_url},
    position::Position,
    subject::Shard,
};

use crate::{key, start};

/// The log may forget applied events between the two copies; then both are made again.
const ATTEMPTS: usize = 3;

/// What is said where the database is PostgreSQL.
const DUMP: &str = "The database is PostgreSQL, which has its own tools. It has to be dumped before the log is copied: pg_dump --format=custom \
                    --file=natter.dump \"$NATTER_DATABASE__URL\", then natter backup. docs/operations.md has that, and how they are restored";

/// Copies database, log and key to `folder`; of PostgreSQL, which has its own tools, log and key.
pub(crate) async fn backup(config: &Config, folder: &Path) -> anyhow::Result<ExitCode> {
    let url = config.database.url.as_ref().context("database.url is not set")?.expose().to_owned();
    let source = database_url::sqlite_file(&url);
    let log = Some(config.data_dir.join(start::LOG_FILE)).filter(|log| config.nats.url.is_none() && log.exists());
    let key = Some(config.data_dir.join(key::NAME)).filter(|key| key.exists());
    match &source {
        Some(source) if !source.exists() => {
            bail!("there is no {}: start natter once, or say where its data is with NATTER_DATA_DIR", source.display());
        }
        None if log.is_none() && key.is_none() => {
            bail!("there is nothing to copy in {} (NATTER_DATA_DIR). {DUMP}", config.data_dir.display());
        }
        Some(_) | None => {}
    }
    make_empty(folder)?;
    let mut files = match (&source, &log) {
        (Some(source), log) => {
            let database = DatabaseOptions { url, ..DatabaseOptions::default() };
            copy_both(&database, source, log.as_deref(), folder).await?
        }
        (None, Some(log)) => vec![copy_log(log, folder).await?.0],
        (None, None) => Vec::new(),
    };
    if let Some(key) = key {
        let text = fs::read(&key).with_context(|| format!("{} cannot be read", key.display()))?;
        let copy = private(folder, key::NAME)?;
        OpenOptions::new().write(true).open(&copy)?.write_all(&text)?;
        files.push(copy);
    }
    for file in &files {
        File::open(file)?.sync_all().with_context(|| format!("{} cannot be synced", file.display()))?;
        println!("{}", file.display());
    }
    File::open(folder)?.sync_all()?;
    eprintln!("{}", if source.is_some() { to_restore(config) } else { DUMP.to_owned() });
    Ok(ExitCode::SUCCESS)
}

/// The database, then the log. Returns the copies.
async fn copy_both(database: &DatabaseOptions, source: &Path, log: Option<&Path>, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    for _ in 0..ATTEMPTS {
        let copy = private(folder, DATABASE_FILE)?;
        let applied = admin::backup(database, &copy).await.with_context(|| format!("{} cannot be copied", source.display()))?;
        let Some(log) = log else { return Ok(vec![copy]) };
        let (log, begins) = copy_log(log, folder).await?;
        let follows = applied.iter().all(|at| {
            let mut same = begins.iter().filter(|(shard, first)| shard.0 == at.shard && first.epoch == at.position.epoch);
            same.all(|(_, first)| first.seq <= at.position.seq + 1)
        });
        if follows {
            return Ok(vec![copy, log]);
        }
    }
    bail!("the log forgets faster than it can be copied: make nats.max_bytes_per_shard larger, or try when there is less traffic");
}

/// The log. Returns the copy, and where each epoch of each shard begins in it.
async fn copy_log(log: &Path, folder: &Path) -> anyhow::Result<(PathBuf, Vec<(Shard, Position)>)> {
    let copy = private(folder, start::LOG_FILE)?;
    let begins = embedded::backup(log, &copy).await.with_context(|| format!("{} cannot be copied", log.display()))?;
    Ok((copy, begins))
}

fn to_restore(config: &Config) -> String {
    let how = "To restore: put these files into an empty folder, and start natter with NATTER_DATA_DIR naming it";
    // The copy lies in the folder, where the config does not look.
    let elsewhere = format!(", and with NATTER_DATABASE__URL=sqlite://<that folder>/{DATABASE_FILE}: database.url names another file.");
    format!("{how}{}", if config.has_own_database() { "." } else { &elsewhere })
}

/// Makes the folder, for its user only; one that is there must be empty.
fn make_empty(folder: &Path) -> anyhow::Result<()> {
    let cannot = || format!("the folder {} cannot be made", folder.display());
    DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(cannot)?;
    if fs::read_dir(folder).with_context(cannot)?.next().is_some() {
        bail!("the folder {} is not empty: a backup goes into a new one", folder.display());
    }
    Ok(())
}

/// An empty file that only its user reads.
fn private(folder: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let path = folder.join(name);
    let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
    made.with_context(|| format!("{} cannot be made", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use natter_shared::config::Role;

    use super::*;

    #[test]
    fn who_has_the_database_elsewhere_is_told_to_name_the_copy() {
        let with = |env: &[(&str, &str)]| {
            let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            to_restore(&Config::load_from(None, &env, Role::Standalone).unwrap())
        };
        assert!(!with(&[]).contains("NATTER_DATABASE__URL"));
        let elsewhere = with(&[("NATTER_DATABASE__URL", "sqlite:///var/lib/natter.db")]);
        assert!(elsewhere.contains("NATTER_DATABASE__URL=sqlite://<that folder>/natter.db"), "{elsewhere}");
    }

    #[test]
    fn a_folder_with_something_in_it_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        make_empty(&folder.path().join("new/one")).unwrap();
        let error = make_empty(folder.path()).unwrap_err().to_string();
        assert!(error.contains("not empty"), "{error}");
    }
}
