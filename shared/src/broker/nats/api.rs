//! Calls to JetStream's API by hand, on the recovery connection: only the few subjects that a
//! service's permissions have to name, and streams' configs as the server wrote them.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    super::BrokerError,
    envelope,
    exchange::{Exchange, ExchangeError},
};
use crate::{
    position::Epoch,
    subject::{self, Shard},
    timestamp::Timestamp,
};

/// Before a question is asked again while the first asking is waited for: only a leader answers, and
/// where it has died the next one may be there at any moment.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// "stream not found".
const STREAM_NOT_FOUND: u64 = 10059;

/// Why an API call brought nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// No answer.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// The server's own error.
    #[error("{description} ({err_code})")]
    Server {
        /// As in HTTP.
        code: u64,
        /// Which error exactly.
        err_code: u64,
        /// For people.
        description: String,
    },
    /// An answer of another shape.
    #[error("an answer that is not understood: {0}")]
    Answer(#[from] serde_json::Error),
}

impl ApiError {
    pub(super) fn is_no_stream(&self) -> bool {
        matches!(self, Self::Server { err_code: STREAM_NOT_FOUND, .. })
    }
}

impl From<ApiError> for BrokerError {
    fn from(error: ApiError) -> Self {
        match &error {
            // 4xx are ours to mend; 5xx and no answer may pass.
            ApiError::Server { code, .. } if (400..500).contains(code) => Self::Refused(error.to_string()),
            ApiError::Server { .. } | ApiError::Exchange(_) | ApiError::Answer(_) => Self::Unavailable(error.to_string()),
        }
    }
}

/// What JetStream says when it does not do a thing.
#[derive(Deserialize)]
pub(super) struct Failure {
    #[serde(default)]
    pub(super) code: u64,
    #[serde(default)]
    pub(super) err_code: u64,
    #[serde(default)]
    pub(super) description: String,
}

#[derive(Deserialize)]
struct MaybeFailure {
    error: Option<Failure>,
}

/// What is asked of JetStream.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) exchange: Exchange,
    pub(super) timeout: Duration,
}

#[derive(Deserialize)]
struct Names {
    streams: Option<Vec<String>>,
}

/// A stream's config, with all fields of the server's version, and its state.
#[derive(Deserialize)]
pub(super) struct StreamInfo {
    pub(super) config: Value,
    pub(super) state: StreamState,
    /// Where it has copies; none on a server that is alone.
    cluster: Option<StreamCluster>,
}

#[derive(Deserialize)]
struct StreamCluster {
    #[serde(default)]
    replicas: Vec<Replica>,
}

/// A copy beside the leader's.
#[derive(Deserialize)]
struct Replica {
    name: String,
    #[serde(default)]
    current: bool,
    #[serde(default)]
    offline: bool,
    #[serde(default)]
    lag: u64,
}

/// Of a stream's config: whether it stores atomic batches (NATS ADR-50).
pub(super) const ALLOW_ATOMIC: &str = "allow_atomic";

impl StreamInfo {
    pub(super) fn has_copies(&self) -> bool {
        self.config.get("num_replicas").and_then(Value::as_u64).is_some_and(|copies| copies > 1)
    }

    /// Whether events may go to it together. What comes to the leader of several copies is proposed together anyway.
    pub(super) fn takes_batches(&self) -> bool {
        self.config.get(ALLOW_ATOMIC).and_then(Value::as_bool).unwrap_or_default() && !self.has_copies()
    }

    /// A server that could lead: its copy has everything.
    pub(super) fn successor(&self) -> Option<&str> {
        let is_ready = |replica: &&Replica| replica.current && !replica.offline && replica.lag == 0;
        let mut replicas = self.cluster.iter().flat_map(|cluster| &cluster.replicas);
        replicas.find(is_ready).map(|replica| replica.name.as_str())
    }
}

#[derive(Deserialize)]
pub(super) struct StreamState {
    messages: u64,
    #[serde(default)]
    bytes: u64,
    #[serde(default)]
    first_ts: String,
    first_seq: u64,
    last_seq: u64,
}

impl StreamState {
    pub(super) fn last(&self) -> u64 {
        self.last_seq
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// When the first event was stored; 0 if the stream is empty.
    pub(super) fn first_at(&self) -> Timestamp {
        if self.messages == 0 { Timestamp::default() } else { envelope::time_stamp(&self.first_ts).unwrap_or_default() }
    }

    /// `last + 1` when empty, whatever the server says then.
    pub(super) fn first(&self) -> u64 {
        if self.messages == 0 { self.last_seq + 1 } else { self.first_seq }
    }
}

impl Api {
    /// Calls `$JS.API.<call>`.
    pub(super) async fn call<T: DeserializeOwned>(&self, call: &str, body: &Value) -> Result<T, ApiError> {
        let payload = Bytes::from(serde_json::to_vec(body)?);
        let subject = format!("$JS.API.{call}").into();
        let answer = self.exchange.call(subject, None, payload, self.timeout).await?;
        if let Some(Failure { code, err_code, description }) = serde_json::from_slice::<MaybeFailure>(&answer.payload)?.error {
            return Err(ApiError::Server { code, err_code, description });
        }
        Ok(serde_json::from_slice(&answer.payload)?)
    }

    /// The same for what only asks. One who did not answer at first is asked again, and the first answer counts.
    async fn ask<T: DeserializeOwned>(&self, call: &str, body: &Value) -> Result<T, ApiError> {
        let mut asked = FuturesUnordered::new();
        let asking = async {
            loop {
                asked.push(self.call(call, body));
                if let Ok(Some(answer)) = tokio::time::timeout(ASK_AGAIN, asked.next()).await {
                    return answer;
                }
            }
        };
        tokio::time::timeout(self.timeout, asking).await.unwrap_or(Err(ExchangeError::TimedOut.into()))
    }

    /// The epochs of `shard` whose streams have `subject`, in order.
    pub(super) async fn epochs_of(&self, shard: Shard, subject: &str) -> Result<Vec<Epoch>, ApiError> {
        let names: Names = self.ask("STREAM.NAMES", &serde_json::json!({ "subject": subject })).await?;
        let streams = names.streams.unwrap_or_default();
        let found = streams.iter().filter_map(|name| subject::parse_stream_name(name));
        let mut epochs: Vec<Epoch> = found.filter(|(of, _)| *of == shard).map(|(_, epoch)| epoch).collect();
        epochs.sort_unstable();
        Ok(epochs)
    }

    pub(super) async fn stream_info(&self, stream: &str) -> Result<StreamInfo, ApiError> {
        self.ask(&format!("STREAM.INFO.{stream}"), &Value::Object(serde_json::Map::default())).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_with_all_of_a_stream_could_lead_it() {
        let info = |cluster: &str| {
            let state = r#"{"messages":0,"first_seq":1,"last_seq":0}"#;
            serde_json::from_str::<StreamInfo>(&format!(r#"{{"config":{{}},"state":{state}{cluster}}}"#)).unwrap()
        };
        assert_eq!(info("").successor(), None);
        assert_eq!(info(r#","cluster":{"leader":"a"}"#).successor(), None);
        let replicas = r#","cluster":{"leader":"a","replicas":[{"name":"b","current":false},{"name":"c","current":true,"lag":3},
            {"name":"d","current":true,"offline":true},{"name":"e","current":true,"active":20}]}"#;
        assert_eq!(info(replicas).successor(), Some("e"));
    }
}
