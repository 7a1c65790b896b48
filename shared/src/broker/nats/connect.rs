//! The four connections, and what their state means: connected or not, and the generation.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, ConnectError, ConnectOptions, Event, connection::State};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    super::BrokerStatus,
    NatsError,
    link::Link,
    next::Next,
    options::{NatsAuth, NatsOptions, Role},
    refusal::Refusals,
};
use crate::id::InstanceId;

/// The oldest server whose behaviour the design relies on.
const MIN_VERSION: (u32, u32, u32) = (2, 12, 3);

/// Replies and pulled events are bounded by what was asked for, so this only has to be larger.
const REPLY_CAPACITY: usize = 65_536;

/// Between two pings. A server whose third is due while none was answered is left for another: one that
/// stands still or is cut off is left after 3 s, before any log that it led can have another leader, and before the gateway's
/// sessions are ended because it hears no announcements.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(1);

/// For so long after a server or a leader was lost, what is asked may go to where nobody is: the other servers route by the
/// interest of one that is cut off until they give it up, after 10 s (their `write_deadline`).
const UNSETTLED: Duration = Duration::from_secs(15);

/// How often the connections are looked at without an event: the client's events may be lost.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// One connection for each kind of traffic, so that none of them waits behind another.
pub(super) struct Connections {
    pub(super) publishing: Link,
    pub(super) live: Link,
    pub(super) recovery: Client,
    pub(super) calls: Client,
}

/// What the connections' events have said, and what became of it.
pub(super) struct Health {
    status: watch::Sender<BrokerStatus>,
    changed: Notify,
    /// The client complained of something.
    troubled: Notify,
    slow: AtomicU64,
    /// A gateway does not know the broker's time before its first canary, and is not ready.
    needs_clock: bool,
    clock_known: AtomicBool,
    /// When a server or a leader was lost last.
    lost: Mutex<Option<Instant>>,
    refusals: Refusals,
}

impl Health {
    pub(super) fn new(role: Role, auth: &NatsAuth) -> Arc<Self> {
        Arc::new(Self {
            status: watch::Sender::new(BrokerStatus { connected: false, generation: 0, elections: 0, leaders: 0 }),
            changed: Notify::new(),
            troubled: Notify::new(),
            slow: AtomicU64::new(0),
            needs_clock: role == Role::Gateway,
            clock_known: AtomicBool::new(false),
            lost: Mutex::default(),
            refusals: Refusals::new(role, auth),
        })
    }

    pub(super) fn watch(&self) -> watch::Receiver<BrokerStatus> {
        self.status.subscribe()
    }

    /// Waits until the client complains, or has since the last time.
    pub(super) async fn troubled(&self) {
        self.troubled.notified().await;
    }

    /// Live deliveries may have been lost.
    pub(super) fn raise_generation(&self) {
        self.status.send_modify(|status| status.generation += 1);
    }

    /// A stream seems to have no leader, or another one that did not say so.
    pub(super) fn note_election(&self) {
        self.note_loss();
        self.status.send_modify(|status| status.elections += 1);
    }

    /// A stream's new leader has said so.
    pub(super) fn note_leader(&self) {
        self.note_loss();
        self.status.send_modify(|status| {
            status.elections += 1;
            status.leaders += 1;
        });
    }

    fn note_loss(&self) {
        *self.lost.lock() = Some(Instant::now());
    }

    /// Whether what is asked may go to where nobody is.
    pub(super) fn is_unsettled(&self) -> bool {
        self.lost.lock().is_some_and(|at| at.elapsed() < UNSETTLED)
    }

    /// Waits until a stream's new leader says so, after `status` was seen last.
    pub(super) async fn new_leader(status: &mut watch::Receiver<BrokerStatus>) {
        let leaders = status.borrow_and_update().leaders;
        if status.wait_for(|status| status.leaders != leaders).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    pub(super) fn set_clock_known(&self) {
        if !self.clock_known.swap(true, Ordering::AcqRel) {
            self.changed.notify_one();
        }
    }

    pub(super) fn clock_known(&self) -> bool {
        self.clock_known.load(Ordering::Acquire)
    }

    /// So many live deliveries found no room; the generation has been raised.
    pub(super) fn dropped(&self, deliveries: u64) {
        self.slow.fetch_add(deliveries, Ordering::Relaxed);
        self.changed.notify_one();
    }

    pub(super) fn on_event(&self, connection: &'static str, event: &Event) {
        match event {
            event if self.refusals.says(connection, event) => {}
            Event::Connected => info!(connection, "nats_connected"),
            Event::Disconnected => warn!(connection, "nats_disconnected"),
            Event::LameDuckMode => info!(connection, "nats_lame_duck"),
            Event::SlowConsumer(_) => warn!(connection, "nats_slow_consumer"),
            Event::Draining | Event::Closed => info!(connection, %event, "nats_closing"),
            Event::ServerError(error) => warn!(connection, %error, "nats_server_error"),
            Event::ClientError(error) => {
                warn!(connection, %error, "nats_client_error");
                self.troubled.notify_one();
            }
        }
        self.changed.notify_one();
    }
}

impl Connections {
    /// Starts to connect and goes on trying for ever; returns at once.
    pub(super) async fn open(
        options: &NatsOptions,
        role: Role,
        instance: InstanceId,
        health: &Arc<Health>,
        stop: &CancellationToken,
    ) -> Result<Self, NatsError> {
        let servers = servers(options)?;
        let servers = servers.as_slice();
        let open = |name: &'static str| async move {
            let options = base_options(options).await?;
            let on_event = Arc::clone(health);
            options
                .retry_on_initial_connect()
                .name(format!("natter-{}-{name}", role.as_str()))
                .custom_inbox_prefix(inbox_prefix(role, instance, name))
                .subscription_capacity(REPLY_CAPACITY)
                .reconnect_to_server_callback({
                    let next = Arc::new(Next::default());
                    move |servers, info| {
                        let next = next.among(&servers, &info.connect_urls);
                        async move { next }
                    }
                })
                .event_callback(move |event| {
                    on_event.on_event(name, &event);
                    std::future::ready(())
                })
                .connect(servers)
                .await
                .map_err(|error| NatsError::Connect(Box::new(error)))
        };
        let link = |name: &'static str| Link::start(name, options, role, Arc::clone(health), stop.clone());
        Ok(Self {
            publishing: link("publish").await?,
            live: link("subscribe").await?,
            recovery: open("recovery").await?,
            calls: open("calls").await?,
        })
    }

    /// How each stands.
    fn all(&self) -> [(Lane, Standing); 4] {
        [
            (Lane::Publishing, Standing::of_link(&self.publishing)),
            (Lane::Subscribing, Standing::of_link(&self.live)),
            (Lane::Recovery, Standing::of(&self.recovery)),
            (Lane::Calls, Standing::of(&self.calls)),
        ]
    }
}

/// How a connection stands.
struct Standing {
    /// How often it was connected.
    connects: u64,
    /// The version of the server, while it is.
    server: Option<String>,
}

impl Standing {
    fn of_link(link: &Link) -> Self {
        Self { connects: link.connects(), server: link.version() }
    }

    fn of(client: &Client) -> Self {
        let connects = client.statistics().connects.load(Ordering::Relaxed);
        // The client says that it is connected a moment before it knows to what.
        let is_connected = client.connection_state() == State::Connected;
        Self { connects, server: client.try_server_info().filter(|_| is_connected).map(|server| server.version) }
    }
}

/// Which connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    Publishing,
    Subscribing,
    Recovery,
    Calls,
}

/// What happened to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It broke: answers to what was in flight never come.
    Broke(Lane),
    /// Some connection came up, perhaps to another server or store.
    Came,
}

/// Replies to this process only, below what its service's identity may subscribe to (deploy/nats.conf).
pub(super) fn inbox_prefix(role: Role, instance: InstanceId, connection: &str) -> String {
    format!("_INBOX.{}.{}.{connection}", role.as_str(), instance.0.simple())
}

pub(super) fn servers(options: &NatsOptions) -> Result<Vec<async_nats::ServerAddr>, NatsError> {
    options.urls.iter().map(|url| url.parse().map_err(|_| NatsError::Url)).collect()
}

/// Connects once, to hear why it fails.
pub(super) async fn once(options: &NatsOptions, role: Role) -> Result<(), ConnectError> {
    // What can never work was refused at the start.
    let (Ok(servers), Ok(base)) = (servers(options), base_options(options).await) else { return Ok(()) };
    base.name(format!("natter-{}-once", role.as_str())).connect(servers.as_slice()).await.map(drop)
}

async fn base_options(options: &NatsOptions) -> Result<ConnectOptions, NatsError> {
    let base = ConnectOptions::new();
    let mut base = match &options.auth {
        NatsAuth::None => base,
        NatsAuth::UserPassword { user, password } => base.user_and_password(user.clone(), password.clone()),
        NatsAuth::Token(token) => base.token(token.clone()),
        NatsAuth::NkeySeed(seed) => base.nkey(seed.clone()),
        NatsAuth::CredentialsFile(path) => base.credentials_file(path).await.map_err(NatsError::Credentials)?,
    };
    if let Some(path) = &options.ca_file {
        base = base.add_root_certificates(path.clone());
    }
    Ok(base
        .require_tls(options.tls_required)
        .connection_timeout(options.connect_timeout)
        .ping_interval(PING_INTERVAL)
        .client_capacity(options.max_in_flight.max(2048))
        .read_buffer_capacity(u16::MAX)
        // Every subject comes from the subject module.
        .skip_subject_validation(true)
        .reconnect_delay_callback(reconnect_delay))
}

/// Before another attempt after so many.
pub(super) fn reconnect_delay(attempts: usize) -> Duration {
    let shift = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(5);
    if attempts == 0 { Duration::ZERO } else { Duration::from_millis(50 << shift) }
}

/// Follows the connections until `stop`, and tells of their changes.
pub(super) async fn follow(connections: Arc<Connections>, health: Arc<Health>, stop: CancellationToken, tell: impl Fn(Change)) {
    let mut connects = [0; 4];
    let mut was_up = [false; 4];
    let mut slow = 0;
    let mut unfit = false;
    loop {
        let mut all_up = true;
        let mut came = false;
        let mut deliveries_lost = false;
        let mut too_old = None;
        for (((lane, standing), connects), was_up) in connections.all().into_iter().zip(&mut connects).zip(&mut was_up) {
            let Standing { connects: now, server: version } = standing;
            let is_up = version.is_some();
            let again = now > *connects && *connects > 0;
            if again || (*was_up && !is_up) {
                health.note_loss();
                tell(Change::Broke(lane));
            }
            deliveries_lost |= again && lane == Lane::Subscribing;
            came |= now > *connects;
            too_old = too_old.or_else(|| version.filter(|version| !fits(version)));
            (*connects, *was_up) = (now, is_up);
            all_up &= is_up;
        }
        let slow_now = health.slow.load(Ordering::Relaxed);
        if slow_now > slow {
            warn!(dropped = slow_now - slow, "live_deliveries_dropped");
            slow = slow_now;
        }
        if let Some(version) = too_old.as_ref().filter(|_| !unfit) {
            let (major, minor, patch) = MIN_VERSION;
            error!(version, needed = %format_args!("{major}.{minor}.{patch}"), "nats_server_too_old");
        }
        unfit = too_old.is_some();
        let ready = all_up && !unfit && (!health.needs_clock || health.clock_known());
        health.status.send_if_modified(|status| {
            let changed = status.connected != ready || deliveries_lost;
            status.connected = ready;
            status.generation += u64::from(deliveries_lost);
            changed
        });
        if came {
            tell(Change::Came);
        }
        tokio::select! {
            () = health.changed.notified() => {}
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Whether the server is new enough.
fn fits(version: &str) -> bool {
    parse_version(version).is_some_and(|version| version >= MIN_VERSION)
}

/// Major, minor, patch.
pub(super) fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let core = text.split(['-', '+']).next()?;
    let mut parts = core.trim_start_matches('v').split('.').map(str::parse);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch))) => Some((major, minor, patch)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_versions_compare_as_numbers() {
        assert_eq!(parse_version("2.15.1"), Some((2, 15, 1)));
        assert!(fits("2.12.3") && fits("2.13.0-RC.1"));
        assert!(!fits("2.9.10") && !fits("2.12.2") && !fits(""));
        assert_eq!(parse_version("unknown"), None);
    }
}
