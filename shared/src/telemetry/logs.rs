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

/// Libraries that write down what passes through them, tokens and texts among it, when they are asked
/// for everything.
const TALKATIVE: [&str; 6] = ["async_nats", "hyper", "sea_orm", "sqlx", "tokio_tungstenite", "tungstenite"];

/// The filter without what must never be logged: of these libraries nothing beyond `debug`.
fn discreet(filter: &str) -> String {
    let is_of = |directive: &str, library: &str| directive.starts_with(library);
    let mut all: Vec<String> = filter.split(',').map(|directive| directive.trim().to_owned()).collect();
    let everything = all.iter().any(|directive| directive.eq_ignore_ascii_case("trace"));
    for library in TALKATIVE {
        let named = all.iter().any(|directive| is_of(directive, library));
        if everything && !named {
            all.push(format!("{library}=debug"));
        }
    }
    for directive in &mut all {
        if TALKATIVE.iter().any(|library| is_of(directive, library)) && directive.to_ascii_lowercase().ends_with("trace") {
            directive.truncate(directive.len() - "trace".len());
            directive.push_str("debug");
        }
    }
    all.join(",")
}

/// Sends the process's logs to stderr as configured. Once per process.
pub fn init(config: &Telemetry) -> Result<(), LogsError> {
    let filter = EnvFilter::try_new(discreet(&config.filter))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_that_tell_too_much_are_not_asked_for_everything() {
        assert_eq!(discreet("info,async_nats=warn"), "info,async_nats=warn");
        assert_eq!(discreet("debug, hyper::proto=TRACE"), "debug,hyper::proto=debug");
        let all = discreet("trace,async_nats=info");
        assert!(all.starts_with("trace,async_nats=info,") && all.contains("tungstenite=debug") && !all.contains("async_nats=debug"));
    }
}
