//! Logs on stderr, for people or as JSON, one event a line with snake_case fields.

use std::io::{self, IsTerminal};

use thiserror::Error;
use tracing_subscriber::{EnvFilter, fmt};

use crate::config::{LogFormat, Telemetry};

/// Logs could not be set up.
#[derive(Debug, Error)]
pub enum LogsError {
    /// The filter of the config is none.
    #[error("telemetry.filter")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Somebody was faster.
    #[error("logs are set up already")]
    Installed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Sends the process's logs to stderr as configured. Once per process.
pub fn init(config: &Telemetry) -> Result<(), LogsError> {
    let filter = EnvFilter::try_new(&config.filter)?;
    let logs = fmt().with_env_filter(filter).with_writer(io::stderr);
    let json = match config.format {
        LogFormat::Json => true,
        LogFormat::Human => false,
        LogFormat::Auto => !io::stderr().is_terminal(),
    };
    let installed = if json {
        logs.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
    } else {
        logs.with_ansi(io::stderr().is_terminal()).try_init()
    };
    installed.map_err(LogsError::Installed)
}
