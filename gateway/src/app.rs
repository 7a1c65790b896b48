//! What every request and session of the gateway shares.

use std::sync::Arc;

use dashmap::DashMap;
use natter_shared::{
    broker::Broker,
    config::Config,
    id::{InstanceId, SessionId},
    lifecycle::Lifecycle,
    rpc::JoinOpen,
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::Admission,
    auth::{Authenticator, AuthenticatorError},
    connections::Connections,
    delivery::Hub,
    health::Health,
    http::team_pages::{PagesError, TeamPages},
    knowledge::Knowledge,
    memory::Memory,
    metrics::Metrics,
    publish::Intake,
    rates::Rates,
    session::{FirstJoins, SessionHandle, SignIns, Together},
    socket::{OutletLimits, ReadLimits},
    standings::Standings,
};

/// The running gateway.
pub struct App {
    /// This process.
    pub instance: InstanceId,
    /// Everything behind the gateway.
    pub broker: Arc<dyn Broker>,
    /// Which shards take events.
    pub intake: Intake,
    /// As validated at start.
    pub config: Config,
    /// Who may sign in.
    pub auth: Authenticator,
    /// How often users and keys may call over HTTP.
    pub rates: Rates,
    /// The pages of the team, where it has its own.
    pub pages: Option<TeamPages>,
    /// Delivery.
    pub hub: Arc<Hub>,
    /// Sessions signed in.
    pub sessions: DashMap<SessionId, Arc<SessionHandle>>,
    /// Who is connected how often.
    pub connections: Connections,
    /// On their way to SQL.
    pub sign_ins: SignIns,
    /// Joins of open groups on their way to SQL, which knows most who join as members.
    pub joins: Arc<Together<JoinOpen>>,
    /// Those of others.
    pub first_joins: FirstJoins,
    /// Which connections may become sessions.
    pub admission: Admission,
    /// What a connection may send.
    pub read_limits: Arc<ReadLimits>,
    /// What the gateway counts.
    pub metrics: Arc<Metrics>,
    /// How the path behind is.
    pub health: Health,
    /// Whether the persister of the same process is ready, where it has one.
    pub database: Option<watch::Receiver<bool>>,
    /// How old what is known of memberships is.
    pub knowledge: Arc<Knowledge>,
    /// Who is blocked, and whose tokens were revoked.
    pub standings: Standings,
    /// Cancelled: the gateway takes nothing new, and its sessions are told to leave.
    pub closing: CancellationToken,
    /// Everything that runs beside the sessions' own tasks.
    pub tasks: TaskTracker,
    /// Cancelled: everything breaks off.
    pub hard: CancellationToken,
}

/// What a gateway is made over.
pub struct AppParts {
    /// This process.
    pub instance: InstanceId,
    /// Everything behind the gateway.
    pub broker: Arc<dyn Broker>,
    /// As validated.
    pub config: Config,
    /// Whether the persister of the same process is ready, where it has one.
    pub database: Option<watch::Receiver<bool>>,
    /// What the gateway counts.
    pub metrics: Arc<Metrics>,
    /// How much memory the process takes.
    pub memory: Arc<Memory>,
    /// When the process ends, and what that waits for.
    pub lifecycle: Lifecycle,
    /// Cancelled: delivery ends, as the last session has left.
    pub stop: CancellationToken,
}

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The config's issuers cannot be used.
    #[error(transparent)]
    Authenticator(#[from] AuthenticatorError),
    /// The team's own pages cannot be used.
    #[error(transparent)]
    Pages(#[from] PagesError),
}

impl App {
    /// A gateway with nobody on it. Its delivery runs from here on.
    ///
    /// # Errors
    /// Where the config's issuers or the team's own pages cannot be used.
    pub fn new(parts: AppParts) -> Result<Self, StartError> {
        let AppParts { instance, broker, config, database, metrics, memory, lifecycle, stop } = parts;
        let (auth, pages) = (Authenticator::from_config(&config.auth)?, TeamPages::of_config(&config.http)?);
        let (limits, linger, shards) = (&config.limits, config.gateway.interest_linger, broker.shards());
        let knowledge = Arc::new(Knowledge::new(shards));
        let (tasks, hard) = (lifecycle.tasks.clone(), lifecycle.hard.clone());
        Ok(Self {
            instance,
            intake: Intake::new(shards, Arc::clone(&metrics)),
            auth,
            rates: Rates::new(limits),
            pages,
            hub: Hub::start(Arc::clone(&broker), limits, linger, Arc::clone(&metrics), Arc::clone(&knowledge), &lifecycle, &stop),
            sessions: DashMap::new(),
            connections: Connections::new(limits),
            sign_ins: SignIns::new(Arc::clone(&broker), tasks.clone(), limits.sign_ins),
            joins: Together::new(Arc::clone(&broker), tasks.clone(), limits.sign_ins),
            first_joins: FirstJoins::new(&broker, &tasks, limits.sign_ins),
            admission: Admission::new(limits, memory, Arc::clone(&metrics)),
            read_limits: Arc::new(ReadLimits::new(limits)),
            metrics,
            health: Health::default(),
            database,
            knowledge,
            standings: Standings::default(),
            closing: CancellationToken::new(),
            tasks,
            hard,
            broker,
            config,
        })
    }

    /// What is missing before sessions can be served.
    pub fn readiness(&self) -> Vec<&'static str> {
        let mut missing = self.health.missing();
        if self.database.as_ref().is_some_and(|ready| !*ready.borrow()) {
            missing.push("database");
        }
        if !self.hub.is_live() {
            missing.push("subscriptions");
        }
        if !self.standings.is_loaded() {
            missing.push("standings");
        }
        missing
    }

    /// How much may wait for a slow reader.
    pub fn outlet_limits(&self) -> OutletLimits {
        let limits = &self.config.limits;
        OutletLimits { messages: limits.backlog_messages, bytes: limits.backlog_bytes, missed: 4 * limits.backlog_bytes }
    }
}
