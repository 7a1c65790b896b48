//! What the installation decides about NATS; the config crate fills this in.

use std::{fmt, path::PathBuf, time::Duration};

/// How to reach NATS, and the shape of the streams there.
#[derive(Debug, Clone)]
pub struct NatsOptions {
    /// Servers of one cluster, `nats://host:port` or `tls://host:port`.
    pub urls: Vec<String>,
    /// How many shards; fixed when the installation is made.
    pub shards: u16,
    /// Copies of each stream: 1, or 3 in a cluster.
    pub replicas: u8,
    /// Bytes a shard's stream may hold; reserved by the server when the stream is made.
    pub max_bytes_per_shard: u64,
    /// Upper bound of an event's age in the stream.
    pub max_age: Duration,
    /// Who we are.
    pub auth: NatsAuth,
    /// Refuse a connection without TLS.
    pub tls_required: bool,
    /// Roots to trust, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// How long one connection attempt may take.
    pub connect_timeout: Duration,
    /// How long an answer of the broker is waited for.
    pub request_timeout: Duration,
    /// How long a publish waits for its ack. Short, for it is tried again under the same id: a dead leader
    /// never answers, and the next one is there after 5 s or so.
    pub publish_timeout: Duration,
    /// Publishes in flight; one more is [`super::super::BrokerError::Busy`].
    pub max_in_flight: usize,
    /// Bytes in flight, likewise.
    pub max_in_flight_bytes: usize,
    /// Events that NATS stores together at most, where it stores slower than they come; 1: each by itself.
    pub batch: usize,
    /// Together also where that is not faster: so tests see it do so.
    pub eager_batches: bool,
    /// Deliveries that wait for one subscription; one more is lost and the generation rises.
    pub subscription_capacity: usize,
    /// Calls served at once.
    pub max_calls: usize,
    /// How often each shard's path is probed.
    pub probe_interval: Duration,
}

impl Default for NatsOptions {
    fn default() -> Self {
        Self {
            urls: vec!["nats://127.0.0.1:4222".to_owned()],
            shards: 4,
            replicas: 1,
            max_bytes_per_shard: 1 << 30,
            max_age: Duration::from_hours(72),
            auth: NatsAuth::None,
            tls_required: false,
            ca_file: None,
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(5),
            publish_timeout: Duration::from_secs(2),
            max_in_flight: 16_384,
            max_in_flight_bytes: 64 << 20,
            batch: 256,
            eager_batches: false,
            subscription_capacity: 1024,
            max_calls: 256,
            probe_interval: Duration::from_secs(5),
        }
    }
}

/// How a service proves who it is; one identity per service.
#[derive(Clone, Default)]
pub enum NatsAuth {
    /// Not at all.
    #[default]
    None,
    /// User and password.
    UserPassword {
        /// Its name.
        user: String,
        /// Its secret.
        password: String,
    },
    /// A token.
    Token(String),
    /// The seed of an nkey.
    NkeySeed(String),
    /// A file with a JWT and its nkey.
    CredentialsFile(PathBuf),
}

impl fmt::Debug for NatsAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Secrets never reach a log.
        f.write_str(match self {
            Self::None => "None",
            Self::UserPassword { .. } => "UserPassword",
            Self::Token(_) => "Token",
            Self::NkeySeed(_) => "NkeySeed",
            Self::CredentialsFile(_) => "CredentialsFile",
        })
    }
}

/// Which service connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Reads and publishes.
    Gateway,
    /// Also creates streams and answers calls.
    Persister,
}

impl Role {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Persister => "persister",
        }
    }
}
