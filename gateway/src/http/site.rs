//! What the handlers need of the process they run in, so that they can be tried without one.

use natter_shared::{broker::Broker, config::Config, position::Position, subject::Shard};

use super::team_pages::TeamPages;
use crate::{
    app::App,
    auth::{AuthError, Authenticator, Identity},
    publish::Intake,
    rates::Rates,
};

/// The process behind the routes.
pub trait Site: Send + Sync + 'static {
    /// Everything behind the gateway.
    fn broker(&self) -> &dyn Broker;
    /// Which shards take events.
    fn intake(&self) -> &Intake;
    /// As validated at start.
    fn config(&self) -> &Config;
    /// Who may sign in.
    fn auth(&self) -> &Authenticator;
    /// How often users and keys may call.
    fn rates(&self) -> &Rates;
    /// The pages of the team, where it has its own.
    fn pages(&self) -> Option<&TeamPages>;
    /// What is missing before requests can be served; nothing when ready.
    fn missing(&self) -> Vec<&'static str>;
    /// Whether a verified identity may come in.
    fn judge(&self, identity: &Identity) -> Result<(), AuthError>;
    /// A position in a shard that SQL has reached where it knows what was stored until a few seconds
    /// ago; none where it is not known.
    fn recent(&self, shard: Shard) -> Option<Position>;
    /// Whether the process takes nothing new any more.
    fn is_closing(&self) -> bool;
    /// Metrics in the OpenMetrics text format.
    fn metrics(&self) -> String;
    /// Counts a message that was accepted.
    fn accepted(&self);
}

impl Site for App {
    fn broker(&self) -> &dyn Broker {
        &*self.broker
    }

    fn intake(&self) -> &Intake {
        &self.intake
    }

    fn config(&self) -> &Config {
        &self.config
    }

    fn auth(&self) -> &Authenticator {
        &self.auth
    }

    fn rates(&self) -> &Rates {
        &self.rates
    }

    fn pages(&self) -> Option<&TeamPages> {
        self.pages.as_ref()
    }

    fn missing(&self) -> Vec<&'static str> {
        self.readiness()
    }

    fn judge(&self, identity: &Identity) -> Result<(), AuthError> {
        Self::judge(self, identity)
    }

    fn recent(&self, shard: Shard) -> Option<Position> {
        self.knowledge.recent(shard).map(|(_, position)| position)
    }

    fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    fn metrics(&self) -> String {
        self.metrics.encode()
    }

    fn accepted(&self) {
        self.metrics.accepted.inc();
    }
}
