//! Asking again for what could not be answered just now. A hint comes before its rows, and a machine
//! under load writes them late: that must not cost anybody the connection.

use std::time::Duration;

use natter_shared::{
    broker::Broker,
    rpc::{self, Answer, Rpc, RpcError, ShardPosition},
};
use tokio::time::Instant;

use crate::session::SessionHandle;

/// How long a session's delivery is worked at before it is given up: as long as NATS may take to
/// elect a leader, or a persister to take over, and then some.
const PATIENCE: Duration = Duration::from_secs(15);

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long a session still waits for its delivery.
pub(crate) struct Insistence<'a> {
    session: &'a SessionHandle,
    deadline: Instant,
}

impl<'a> Insistence<'a> {
    /// From now on.
    pub(crate) fn of(session: &'a SessionHandle) -> Self {
        Self { session, deadline: Instant::now() + PATIENCE }
    }

    /// Which session.
    pub(super) fn session(&self) -> &'a SessionHandle {
        self.session
    }

    /// Whether it is worth asking again.
    pub(super) fn goes_on(&self) -> bool {
        !self.session.is_closed() && Instant::now() < self.deadline
    }

    /// What `ask` answers at last; what can be tried again is, while it is worth it. What it asks must
    /// change nothing.
    pub(crate) async fn ask<T, Asked>(&self, ask: impl Fn() -> Asked) -> Result<T, RpcError>
    where
        Asked: Future<Output = Result<T, RpcError>>,
    {
        let mut pause = FIRST_PAUSE;
        loop {
            match ask().await {
                Err(error) if error.code.is_retryable() && self.goes_on() => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                answered => return answered,
            }
        }
    }

    /// [`rpc::call`], asked again.
    pub(crate) async fn call<T: Rpc + Clone>(
        &self,
        broker: &dyn Broker,
        call: T,
        min_position: Option<ShardPosition>,
    ) -> Result<Answer<T::Reply>, RpcError> {
        self.ask(|| rpc::call(broker, call.clone(), min_position)).await
    }
}
