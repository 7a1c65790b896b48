//! What every request and session of the gateway shares.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use dashmap::DashMap;
use natter_shared::{
    broker::Broker,
    config::Config,
    id::{InstanceId, SessionId, UserKey},
    rpc::JoinOpen,
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::Admission,
    auth::Authenticator,
    delivery::Hub,
    health::Health,
    http::{Rates, team_pages::TeamPages},
    knowledge::Knowledge,
    metrics::Metrics,
    publish::Intake,
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

/// Connections by user, to bound them.
#[derive(Default)]
pub struct Connections {
    users: Arc<DashMap<UserKey, AtomicUsize>>,
}

/// A user's place among the connections; dropped, it is free again.
pub struct Seat {
    users: Arc<DashMap<UserKey, AtomicUsize>>,
    user: UserKey,
}

impl Connections {
    /// A place for a connection of `user`, if fewer than `limit` are taken.
    pub fn sit(&self, user: &UserKey, limit: usize) -> Option<Seat> {
        let taken = self.users.entry(*user).or_default().fetch_add(1, Ordering::Relaxed);
        let seat = Seat { users: Arc::clone(&self.users), user: *user };
        (taken < limit).then_some(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.users.remove_if(&self.user, |_, taken| taken.fetch_sub(1, Ordering::Relaxed) <= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_as_many_seats_as_allowed() {
        let connections = Connections::default();
        let user = UserKey(7);
        let first = connections.sit(&user, 2);
        let second = connections.sit(&user, 2);
        assert!(first.is_some() && second.is_some());
        assert!(connections.sit(&user, 2).is_none());
        drop(first);
        assert!(connections.sit(&user, 2).is_some());
        drop(second);
        assert!(connections.users.is_empty());
    }
}
