//! Commands that work on the data of a natter that may be running: they take no lock of the folder,
//! SQLite's own is enough.

use std::process::ExitCode;

use anyhow::{Context, bail};
use natter_persister::{DatabaseOptions, admin};
use natter_shared::config::{Config, DATABASE_FILE};

/// Does what an operator's command says.
pub(crate) async fn administer(config: &Config, command: admin::Command) -> anyhow::Result<ExitCode> {
    let url = config.database.url.as_ref().context("database.url is not set")?.expose().to_owned();
    // A mistyped folder must not become a new database.
    let file = config.data_dir.join(DATABASE_FILE);
    if config.has_own_database() && !file.exists() {
        bail!("there is no {}: start natter once, or say where its data is with NATTER_DATA_DIR", file.display());
    }
    let database = DatabaseOptions { url, max_connections: config.database.max_connections, ..DatabaseOptions::default() };
    admin::run(command, &database).await?;
    Ok(ExitCode::SUCCESS)
}
