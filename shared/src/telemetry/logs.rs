//! Logs on stderr, for people or as JSON, one event a line with snake_case fields.

use std::io::{self, IsTerminal};

use thiserror::Error;
use tracing::Level;
use tracing_subscriber::{EnvFilter, filter::filter_fn, fmt, layer::SubscriberExt, registry, util::SubscriberInitExt};

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

/// Libraries that write down what passes through them, tokens and texts among it, when they are asked
/// for everything.
const TALKATIVE: [&str; 6] = ["async_nats", "hyper", "sea_orm", "sqlx", "tokio_tungstenite", "tungstenite"];

/// Whether something may be logged whatever the filter says: of these libraries nothing beyond `debug`.
fn is_discreet(target: &str, level: Level) -> bool {
    level <= Level::DEBUG || !TALKATIVE.iter().any(|library| target.starts_with(library))
}

/// Sends the process's logs to stderr as configured. Once per process.
pub fn init(config: &Telemetry) -> Result<(), LogsError> {
    let discreet = filter_fn(|metadata| is_discreet(metadata.target(), *metadata.level()));
    let logs = registry().with(EnvFilter::try_new(&config.filter)?).with(discreet);
    let lines = fmt::layer().with_writer(io::stderr);
    let json = match config.format {
        LogFormat::Json => true,
        LogFormat::Human => false,
        LogFormat::Auto => !io::stderr().is_terminal(),
    };
    let installed = if json {
        logs.with(lines.json().flatten_event(true).with_current_span(true).with_span_list(false)).try_init()
    } else {
        logs.with(lines.with_ansi(io::stderr().is_terminal())).try_init()
    };
    installed.map_err(|error| LogsError::Installed(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_that_tell_too_much_are_not_asked_for_everything() {
        assert!(is_discreet("tungstenite::protocol", Level::DEBUG) && is_discreet("natter_gateway::session", Level::TRACE));
        for target in ["tungstenite", "tungstenite::handshake", "sqlx::query", "async_nats::connection"] {
            assert!(!is_discreet(target, Level::TRACE), "{target}");
        }
    }
}
