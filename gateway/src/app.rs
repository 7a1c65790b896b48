//! What every request and session of the gateway shares.

use std::sync::Arc;

use natter_shared::{broker::Broker, config::Config, id::InstanceId};

use crate::auth::Authenticator;

/// The running gateway.
pub struct App {
    /// This process.
    pub instance: InstanceId,
    /// Everything behind the gateway.
    pub broker: Arc<dyn Broker>,
    /// As validated at start.
    pub config: Config,
    /// Who may sign in.
    pub auth: Authenticator,
}
