//! Every key of the config: its meaning, its unit, its default and its range, each written once.

use std::{net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use super::{
    DEFAULT_ISSUER,
    network::Network,
    secret::Secret,
    section::section,
    value::{Bytes, GIB, KIB, MIB},
};

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What a timeout may be: long enough to be met, short enough to be one.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=secs(600);

/// Where NATS is looked for unless `nats.url` says otherwise.
pub const DEFAULT_NATS_URL: &str = "nats://127.0.0.1:4222";

/// This host only; inline scripts and styles may run.
const DEFAULT_PAGES_CSP: &str = "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; \
                                 img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

section! {
    /// The HTTP side of a gateway, which WebSockets come in by.
    pub struct Http in "http" {
        /// Address and port to listen on.
        pub listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 8080)),
        /// Origins (`https://chat.example.com`) whose pages may connect and call, compared
        /// exactly. Empty: only pages that the gateway itself serves.
        pub allowed_origins: Vec<String> = Vec::new(),
        /// Ranges of reverse proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed.
        pub trusted_proxies: Vec<Network> = Vec::new(),
        /// What users type to get here, where a proxy is in front. An `https` one makes cookies
        /// `Secure`.
        pub public_url: Option<String> = None,
        /// Folder of a team's own pages, served instead of the built-in ones: `chat.html`, optionally
        /// `sign_in.html`, and `static/`. Read once, at the start.
        pub pages_dir: Option<PathBuf> = None,
        /// Content-Security-Policy of the pages in `pages_dir`. The default lets inline scripts and
        /// styles run, as chat rooms of old have them; hosts of scripts elsewhere are to be named.
        pub pages_csp: String = DEFAULT_PAGES_CSP.to_owned(),
    }
}

section! {
    /// The connection to NATS, and its streams.
    pub struct Nats in "nats" {
        /// Servers to try, comma-separated. Unset: embedded in the standalone binary, else
        /// `nats://127.0.0.1:4222`. docs/operations.md has how `natter` goes over from the one to the other.
        pub url: Option<String> = None,
        /// Streams that groups and users are spread over; fixed once installed.
        pub shards: u16 = 4 => 1..=64,
        /// Copies of each stream: 1 on a single server, 3 (or 5) in a cluster. For persisters, who make the streams; those that are there
        /// keep theirs.
        pub replicas: u8 = 1 => 1..=5,
        /// Bytes that each stream keeps, reserved at creation (by persisters; those that are there keep theirs). When four fifths of them
        /// wait for the database, sends are answered "busy" until it has caught up, so that nothing is evicted that
        /// is nowhere else; the last fifth should hold some seconds of traffic.
        pub max_bytes_per_shard: u64 as Bytes = GIB => 16 * MIB..=1024 * GIB,
        /// Upper bound of an event's time in its stream, as it is when a persister makes it; it stays in SQL for good. When the oldest that
        /// is not in SQL comes to four fifths of it, sends are answered "busy".
        pub max_age: Duration = secs(72 * 3600) => secs(600)..=secs(365 * 86_400),
        /// User name.
        pub user: Option<String> = None,
        /// The user's password.
        pub password: Option<Secret> = None,
        /// Token, instead of user and password.
        pub token: Option<Secret> = None,
        /// NKey seed (`SU…`), instead of user and password.
        pub nkey_seed: Option<Secret> = None,
        /// Path of a credentials file (JWT and seed), instead of user and password.
        pub creds_file: Option<PathBuf> = None,
        /// Path of a PEM file with the authorities to trust, instead of the system's.
        pub tls_ca_file: Option<PathBuf> = None,
        /// Refuse a server without TLS.
        pub tls_required: bool = false,
        /// Messages that wait in one subscription before NATS drops the newest.
        pub subscription_capacity: usize = 1024 => 16..=1_048_576,
        /// Publishes of a gateway that wait for their ack, together 64 MiB at most; further ones are
        /// answered "busy" at once.
        pub in_flight: usize = 16_384 => 1..=100_000,
        /// Events of a shard that are stored together at most, by one sync, where NATS (2.15 or newer, one copy) stores slower
        /// than they come. 1: each by itself. A server with a lower `max_batch_size` needs that here.
        pub batch: usize = 256 => 1..=1000,
    }
}

section! {
    /// The SQL database. Only the persister touches it.
    pub struct Database in "database" {
        /// `postgres://user:password@host/name` or `sqlite://path`. Unset: `natter.db` in the data
        /// folder for the standalone binary; the persister needs it. What is special in a URL is percent-encoded: in the user and
        /// the password `/ # ? @ : %` (`%2F %23 %3F %40 %3A %25`), in a path a space (`%20`), `#`, `?` and `%`. The folder of a socket
        /// goes in the place of the host: `postgres://user:password@%2Frun%2Fpostgresql/name`.
        /// An SQLite database in memory is refused.
        pub url: Option<Secret> = None,
        /// Connections to the database, of each persister. One is for leases and readiness (with SQLite, which has one writer, for all that is
        /// written); one for each of `nats.shards` and four more, or half of the others where there are fewer, are for what works on
        /// shards: projection, counts of inboxes, retention, erasures. Calls of gateways share the others, and wait for up to 2 s for one:
        /// more of them help where many sign in at once. More than four shards want 2 × (shards + 4) + 1.
        pub max_connections: u32 = 16 => 4..=1000,
    }
}

section! {
    /// Who may sign in.
    pub struct Auth in "auth" {
        /// Session cookies and CSRF tokens are signed with keys derived from it, at least 32 bytes.
        /// Also the secret of the first issuer's HS256 tokens, where that has no public key. Unset
        /// in the standalone binary: `auth.key` in the data folder.
        pub secret: Option<Secret> = None,
        /// `iss` of the first issuer's tokens. Unset: `natter`.
        pub issuer: Option<String> = None,
        /// `aud` of the first issuer's tokens. Unset: `natter`.
        pub audience: Option<String> = None,
        /// What the first issuer signs with; no other algorithm is accepted of it.
        pub algorithm: Algorithm = Algorithm::HS256,
        /// The first issuer's public key, for every algorithm but HS256.
        pub public_key: Option<PublicKey> = None,
        /// Where the first issuer publishes its keys, instead of `public_key`.
        pub jwks_url: Option<String> = None,
        /// Further issuers; in the file only.
        pub issuers: Vec<Issuer> = Vec::new(),
        /// Anybody signs in by a bare name at `POST /api/v1/dev/login`. Only for development. The
        /// standalone binary has it on by default while it listens on loopback, and neither `http.public_url` nor
        /// `http.trusted_proxies` is set: behind a proxy on the same machine, switch it off.
        pub dev_login: bool = false,
        /// How long a session cookie is good for.
        pub session_lifetime: Duration = secs(7 * 86_400) => secs(60)..=secs(365 * 86_400),
        /// Difference of clocks that is tolerated in tokens.
        pub leeway: Duration = secs(30) => Duration::ZERO..=secs(600),
        /// Between two fetches of an issuer's keys (`jwks_url`) where nothing else asks for one.
        pub jwks_refresh: Duration = secs(600) => secs(1)..=secs(86_400),
        /// Between two fetches of an issuer's keys at least: after a token with an unknown key, or a
        /// fetch that failed.
        pub jwks_cooldown: Duration = secs(30) => secs(1)..=secs(3600),
        /// How long fetched keys hold while no fetch succeeds.
        pub jwks_max_stale: Duration = secs(86_400) => secs(1)..=secs(30 * 86_400),
        /// For one fetch.
        pub jwks_timeout: Duration = secs(5) => TIMEOUT,
        /// How long a token with an unknown key waits for a fetch before it is refused.
        pub jwks_wait: Duration = secs(2) => Duration::ZERO..=secs(30),
        /// Bytes of an issuer's key set.
        pub jwks_max_bytes: usize as Bytes = 256 * KIB => KIB..=16 * MIB as usize,
    }
}

/// One of several issuers of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// `iss` of its tokens.
    pub issuer: String,
    /// `aud` of its tokens.
    pub audience: String,
    /// What it signs with; no other algorithm is accepted of it.
    pub algorithm: Algorithm,
    /// Its secret, for HS256.
    pub secret: Option<Secret>,
    /// Its public key, for every other algorithm.
    pub public_key: Option<PublicKey>,
    /// Where it publishes its keys, instead of `public_key`.
    pub jwks_url: Option<String>,
}

impl Auth {
    /// Every issuer, the first one (`auth.issuer`) among them; that is left out where it has no key
    /// of any kind.
    pub fn all_issuers(&self) -> Vec<Issuer> {
        let or_default = |name: &Option<String>| name.clone().unwrap_or_else(|| DEFAULT_ISSUER.to_owned());
        let first = Issuer {
            issuer: or_default(&self.issuer),
            audience: or_default(&self.audience),
            algorithm: self.algorithm,
            secret: self.secret.clone().filter(|_| self.signs_with_secret()),
            public_key: self.public_key.clone(),
            jwks_url: self.jwks_url.clone(),
        };
        let has_key = first.secret.is_some() || first.public_key.is_some() || first.jwks_url.is_some();
        has_key.then_some(first).into_iter().chain(self.issuers.iter().cloned()).collect()
    }

    /// Whether `secret` is that of the first issuer's tokens, and not of cookies only.
    pub fn signs_with_secret(&self) -> bool {
        self.algorithm == Algorithm::HS256 && self.public_key.is_none() && self.jwks_url.is_none()
    }
}

/// What tokens are signed with (RFC 7518 section 3.1, RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC with SHA-256: who can check a token can make one.
    HS256,
    /// RSA (PKCS #1 v1.5) with SHA-256.
    RS256,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// Ed25519.
    EdDSA,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::HS256, Self::RS256, Self::ES256, Self::EdDSA];

    /// As a token's `alg` says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HS256 => "HS256",
            Self::RS256 => "RS256",
            Self::ES256 => "ES256",
            Self::EdDSA => "EdDSA",
        }
    }
}

/// A public key as PEM (`-----BEGIN PUBLIC KEY-----`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(String);

impl PublicKey {
    /// Of a text that has a public key in it, or what is wrong with it, to be put after its name.
    pub fn from_pem(text: &str) -> Result<Self, &'static str> {
        if text.contains("PRIVATE KEY-----") {
            Err("is a private key: give the public one, and keep that where it is")
        } else if text.contains("-----BEGIN CERTIFICATE-----") {
            Err("is a certificate: give its public key (openssl x509 -pubkey -noout)")
        } else if ["-----BEGIN PUBLIC KEY-----", "-----BEGIN RSA PUBLIC KEY-----"].iter().any(|begin| text.contains(begin)) {
            Ok(Self(text.trim().to_owned()))
        } else {
            Err("is not a public key in PEM (-----BEGIN PUBLIC KEY-----)")
        }
    }

    /// The PEM text.
    pub fn as_pem(&self) -> &str {
        &self.0
    }
}

section! {
    /// Groups.
    pub struct Groups in "groups" {
        /// Anybody who is signed in may join (and thereby make) open groups by name. Set it on the persisters: they decide.
        pub open: bool = true,
    }
}

section! {
    /// What one connection, user, address or process may use.
    pub struct Limits in "limits" {
        /// Bytes of a client's message on the socket.
        pub frame_bytes: usize as Bytes = 64 * KIB => KIB..=16 * MIB as usize,
        /// Bytes of the `connect` frame, which lists positions to resume from: 64 for each of `limits.groups_per_connection` at least.
        pub connect_frame_bytes: usize as Bytes = 256 * KIB => KIB..=16 * MIB as usize,
        /// Bytes of a chat message's or notification's text.
        pub body_bytes: usize as Bytes = 32 * KIB => 1..=512 * KIB,
        /// Frames that wait for a slow client before it is closed (4408).
        pub backlog_messages: usize = 256 => 1..=1_000_000,
        /// Bytes that wait for a slow client before it is closed (4408).
        pub backlog_bytes: usize as Bytes = MIB as usize => 4 * KIB..=GIB as usize,
        /// Frames per second of one connection in the long run, control frames and fragments counted.
        pub frames_per_second: u32 = 100 => 1..=1_000_000,
        /// Frames that one connection may send at once: a quarter of `limits.frames_per_second`, and 4 more, at least.
        pub frames_burst: u32 = 200 => 1..=1_000_000,
        /// Frames per second that one user's connections to one gateway may together have stored, or told to others, in the long
        /// run: `send`, `notify`, `read`, `seen`, `typing`. Further ones are answered "rate_limited".
        pub user_frames_per_second: u32 = 200 => 1..=1_000_000,
        /// Such frames that one user's connections may send at once: a quarter of `limits.user_frames_per_second`, and one more, at
        /// least.
        pub user_frames_burst: u32 = 400 => 1..=1_000_000,
        /// Notifications per minute of one user to groups, over one gateway's sockets and HTTP, in the long run, and as many at once:
        /// each is a row for each member. Further ones are answered "rate_limited" (429). The server API is not bound by it.
        pub group_notifications_per_minute: u32 = 30 => 1..=1_000_000,
        /// Bytes per second of one connection in the long run, as they are on the wire.
        pub bytes_per_second: usize as Bytes = MIB as usize => KIB..=GIB as usize,
        /// Bytes that one connection may send at once: a quarter of `limits.bytes_per_second`, a frame and a `connect` frame at least.
        pub bytes_burst: usize as Bytes = 4 * MIB as usize => 4 * KIB..=GIB as usize,
        /// Frames that one message may come in; with more it is too big (1009).
        pub fragments: u32 = 256 => 1..=1_000_000,
        /// From a message's first frame to its last; a slower one loses its connection (4410). Looked at
        /// as bytes come; without any, the heartbeat ends it.
        pub assembly_timeout: Duration = secs(15) => TIMEOUT,
        /// HTTP calls per second of one user to one gateway in the long run, chat pages and pages of history over sockets included.
        /// As often, the user's sockets may ask for what has to be looked up: `limits.groups_per_connection` times at once, or
        /// `limits.http_requests_burst` times where that is more.
        pub http_requests_per_second: u32 = 50 => 1..=1_000_000,
        /// HTTP calls that one user may make at once.
        pub http_requests_burst: u32 = 200 => 1..=1_000_000,
        /// Calls of the server API per second of one key to one gateway in the long run.
        pub server_requests_per_second: u32 = 1000 => 1..=1_000_000,
        /// Calls of the server API that one key may make at once.
        pub server_requests_burst: u32 = 2000 => 1..=1_000_000,
        /// Bytes of an HTTP request's body; twice `limits.body_bytes` where that is more.
        pub http_body_bytes: usize as Bytes = 64 * KIB => KIB..=16 * MIB as usize,
        /// From an HTTP request's headers to its answer, the body included.
        pub http_timeout: Duration = secs(15) => TIMEOUT,
        /// Connections of the process, WebSockets or not. Where the system lets it open fewer files than 256 more (`ulimit -Hn`), so many
        /// fewer, with a warning at the start.
        pub connections: usize = 100_000 => 1..=10_000_000,
        /// Connections from one address, WebSockets or not; of IPv6, from one /64. From a trusted proxy
        /// only WebSockets are counted, by the address they are for.
        pub connections_per_ip: usize = 4096 => 1..=10_000_000,
        /// Connections of one user.
        pub connections_per_user: usize = 64 => 1..=1_000_000,
        /// Handshakes per second of the process.
        pub handshakes_per_second: u32 = 10_000 => 1..=1_000_000,
        /// Users of the process that are looked up, or made, to sign in at the same time, together in a call or two; the
        /// others wait, no longer than `handshake_timeout`. As many more who have another name than before, each alone. As
        /// many also of those who join open groups that they are members of, and in each shard of those who become members.
        pub sign_ins: usize = 64 => 1..=10_000,
        /// Resident memory of the process, files that are mapped into it left out, from which on no WebSocket is let in (503).
        /// 0: 85 % of what its cgroup may have, or the machine has.
        pub memory_bytes: u64 as Bytes = 0 => 0..=64 * 1024 * GIB,
        /// Groups that are delivered on one connection. With more than `limits.connect_frame_bytes` has room for, that is to be raised as well.
        /// Set it alike on gateways and persisters: these bound by it the groups that users make.
        pub groups_per_connection: usize = 1000 => 1..=100_000,
        /// Requests of one connection that wait for their answer; further ones are answered "busy" at once.
        pub in_flight_sends: usize = 64 => 1..=10_000,
        /// Bytes of recent events that the process keeps for clients that resume. A quarter of them is for older ones that were
        /// read back for one client and serve the next, which have half of all where groups leave it free.
        /// What came in the last second is kept beyond it, up to twice as much.
        pub ring_bytes: usize as Bytes = 64 * MIB as usize => MIB as usize..=64 * GIB as usize,
        /// Recent events kept of one group.
        pub ring_events_per_group: usize = 1024 => 1..=1_000_000,
        /// Events that one group is resumed by; more missed is a `reset`.
        pub recovery_events: usize = 2000 => 1..=100_000,
        /// Recoveries of the process at the same time; each shard has an equal share of them.
        pub recoveries: usize = 64 => 1..=10_000,
        /// Members that a group is made with or added to; who joins an open group is not counted. Set it on the persisters:
        /// they alone read it.
        pub group_members: usize = 1000 => 2..=10_000,
        /// Groups of a user from which on no other user brings them into one more. Groups for two are not counted: whoever is in fewer groups
        /// than `limits.groups_per_connection`, those for two counted, opens one with anybody. The server API is not bounded by it.
        /// More than `limits.groups_per_connection` is as that.
        /// Set it on the persisters: they alone read it.
        pub groups_by_others: usize = 500 => 1..=100_000,
        /// Groups that one user makes in a day, those counted that were left since: open ones by joining them first, and those of people.
        /// Each persister counts what it was asked for, since it started. Those for two and the server API are not counted. Set it on the
        /// persisters: they alone read it.
        pub groups_made_per_day: usize = 1000 => 1..=1_000_000,
        /// Notifications of an inbox that its counts are of, the newest ones: no inbox takes longer to count. Set it on the
        /// persisters: they alone read it.
        pub inbox_counted: u32 = 10_000 => 1..=1_000_000,
        /// Messages of one page of history.
        pub history_page: u32 = 200 => 1..=1000,
        /// Bytes of a request's headers; more is 431.
        pub header_bytes: usize as Bytes = 16 * KIB => 8 * KIB..=MIB as usize,
        /// Headers of a request; more is 431.
        pub headers: usize = 100 => 16..=1000,
        /// From a TCP connection, or the answer before, to the end of a request's headers.
        pub header_timeout: Duration = secs(5) => TIMEOUT,
        /// From a TCP connection to its 101.
        pub handshake_timeout: Duration = secs(10) => TIMEOUT,
        /// From the 101 to the `connect` frame.
        pub connect_timeout: Duration = secs(5) => TIMEOUT,
        /// Between the server's pings.
        pub heartbeat_interval: Duration = secs(25) => secs(1)..=secs(600),
        /// Beyond the interval, until a silent client is closed.
        pub heartbeat_timeout: Duration = secs(10) => TIMEOUT,
        /// For reading back what live delivery lost; then the group is `reset`.
        pub gap_fill_timeout: Duration = secs(2) => TIMEOUT,
        /// For the broker's word on a send, retries included; then it is answered `pending`.
        pub send_deadline: Duration = secs(15) => TIMEOUT,
        /// From the Close of a slow client to the reset of its connection.
        pub slow_close_timeout: Duration = secs(2) => TIMEOUT,
    }
}

section! {
    /// The gateway's own ways.
    pub struct Gateway in "gateway" {
        /// How long a group's subscription outlives its last local member.
        pub interest_linger: Duration = secs(10) => Duration::ZERO..=secs(600),
        /// How long a stopping process goes on serving after `/readyz` says that it is going, so that
        /// proxies notice. Not needed where they are told before (Kubernetes' `preStop`).
        pub drain_delay: Duration = Duration::ZERO => Duration::ZERO..=secs(60),
        /// Connections per second that are told to go elsewhere when the process stops; more where
        /// they would not all be told within `drain_timeout`.
        pub drain_rate: u32 = 500 => 1..=1_000_000,
        /// From SIGTERM to the end, `drain_delay` included; what is still connected then is cut off.
        pub drain_timeout: Duration = secs(25) => Duration::ZERO..=secs(600),
    }
}

section! {
    /// The persister's own ways.
    pub struct Persister in "persister" {
        /// Events of one transaction at most.
        pub batch: usize = 2000 => 1..=2000,
        /// How long a silent persister keeps its shards.
        pub lease_ttl: Duration = secs(3) => secs(1)..=secs(600),
        /// Whether a log that was used is taken where the database knows nothing of it (an empty one, another installation's):
        /// what is in the database that it was used with is gone then. Else the start is refused.
        pub without_history: bool = false,
        /// Requests of gateways that are answered at the same time.
        pub rpc_concurrency: usize = 64 => 1..=10_000,
        /// Address and port of the persister's `/healthz`, `/readyz` and `/metrics`; `""` for none.
        /// The standalone binary has them on `http.listen`.
        pub http_listen: Option<SocketAddr> = Some(SocketAddr::from(([127, 0, 0, 1], 8081))),
    }
}

section! {
    /// How long the database keeps what was said.
    pub struct Retention in "retention" {
        /// How long messages are kept, an hour at least and a hundred years at most. Unset: for good.
        pub messages: Option<Duration> = None,
        /// How long notifications are kept, an hour at least and a hundred years at most. Unset: for good.
        pub notifications: Option<Duration> = None,
    }
}

section! {
    /// Logs.
    pub struct Telemetry in "telemetry" {
        /// `human` or `json`; `auto` is `human` on a terminal and `json` elsewhere.
        pub format: LogFormat = LogFormat::Auto,
        /// What is logged, as `info` or `info,natter_gateway=debug`. By default without what
        /// libraries say of their daily work.
        pub filter: String = "info,async_nats=warn,sea_orm_migration=warn,sqlx=warn".to_owned(),
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Human on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}
