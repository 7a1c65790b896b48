//! What every request and session of the gateway shares.

use std::sync::Arc;

use dashmap::DashMap;
use natter_shared::{
    broker::Broker,
    config::Config,
    id::{InstanceId, SessionId},
    rpc::JoinOpen,
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::Admission,
    auth::Authenticator,
    connections::Connections,
    delivery::Hub,
    health::Health,
    http::team_pages::TeamPages,
    knowledge::Knowledge,
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

impl App {
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
