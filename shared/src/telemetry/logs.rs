//! Logs on stderr, for people or as JSON, one event a line with snake_case fields.

use std::io::{self, IsTerminal};

use thiserror::Error;
use tracing::{Level, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::filter_fn,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    registry,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

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
    let lines = lines(config.format, io::stderr, io::stderr().is_terminal());
    logs.with(lines).try_init().map_err(|error| LogsError::Installed(error.into()))
}

/// Writes events as lines of this format to `writer`, which may be a terminal.
fn lines<S, W>(format: LogFormat, writer: W, is_terminal: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = fmt::layer().with_writer(writer);
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Human => false,
        LogFormat::Auto => !is_terminal,
    };
    if json {
        lines.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
    } else {
        lines.with_ansi(is_terminal).boxed()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::{
        fs::File,
        io::{Read, Seek},
        sync::Arc,
    };

    use serde_json::Value;

    use super::*;

    /// What is logged in this format of an event within a span.
    fn logged(format: LogFormat, is_terminal: bool) -> String {
        let mut file = tempfile::tempfile().unwrap();
        let writer: Arc<File> = Arc::new(file.try_clone().unwrap());
        tracing::subscriber::with_default(registry().with(lines(format, writer, is_terminal)), || {
            let _span = tracing::info_span!("connection", id = 7).entered();
            tracing::info!(count = 3, text = "\"of two\nlines\"", "sessions_told");
            tracing::warn!("last");
        });
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_line_of_json_is_an_event_with_its_fields() {
        for (format, is_terminal) in [(LogFormat::Json, true), (LogFormat::Json, false), (LogFormat::Auto, false)] {
            let lines: Vec<Value> = logged(format, is_terminal).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(lines.len(), 2, "{lines:?}");
            let [first, last] = lines.try_into().unwrap();
            assert_eq!((&first["level"], &first["message"]), (&Value::from("INFO"), &Value::from("sessions_told")));
            assert_eq!((&first["count"], &first["text"]), (&Value::from(3), &Value::from("\"of two\nlines\"")));
            assert_eq!((&first["span"]["name"], &first["span"]["id"]), (&Value::from("connection"), &Value::from(7)));
            assert_eq!((&last["level"], &last["message"]), (&Value::from("WARN"), &Value::from("last")));
        }
    }

    #[test]
    fn a_line_for_people_is_coloured_on_a_terminal_only() {
        for (format, is_terminal) in [(LogFormat::Human, true), (LogFormat::Human, false), (LogFormat::Auto, true)] {
            let text = logged(format, is_terminal);
            assert!(text.contains("sessions_told") && !text.starts_with('{'), "{text}");
            assert_eq!(text.contains('\u{1b}'), is_terminal, "{text}");
        }
    }

    #[test]
    fn libraries_that_tell_too_much_are_not_asked_for_everything() {
        assert!(is_discreet("tungstenite::protocol", Level::DEBUG) && is_discreet("natter_gateway::session", Level::TRACE));
        for target in ["tungstenite", "tungstenite::handshake", "sqlx::query", "async_nats::connection"] {
            assert!(!is_discreet(target, Level::TRACE), "{target}");
        }
    }
}
