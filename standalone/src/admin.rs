//! Commands that work on the data of a natter that may be running: they take no lock of the folder,
//! SQLite's own is enough.

use std::process::ExitCode;

use anyhow::bail;
use natter_persister::admin;
use natter_shared::config::{Config, DATABASE_FILE};

use crate::persister;

/// Does what an operator's command says.
pub(crate) async fn administer(config: &Config, command: admin::Command) -> anyhow::Result<ExitCode> {
    // A mistyped folder must not become a new database.
    let file = config.data_dir.join(DATABASE_FILE);
    if config.has_own_database() && !file.exists() {
        bail!("there is no {}: start natter once, or say where its data is with NATTER_DATA_DIR", file.display());
    }
    admin::run(command, &persister::database(config)?).await?;
    Ok(ExitCode::SUCCESS)
}
