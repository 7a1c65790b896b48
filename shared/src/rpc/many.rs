//! Calls of one kind that go together, by one call for all.

use serde::{Deserialize, Serialize};

use super::{Request, Rpc, RpcError};

/// Calls in one at most.
pub const MANY: usize = 256;

/// A call that can go together with others of its kind.
pub trait Gathered: Clone + Send + 'static {
    /// What each is answered.
    type Reply: Send;

    /// The call of many: it says of each what became of it, in their order.
    type Many: Rpc<Reply = Vec<OneOfMany<Self::Reply>>>;

    /// The call of all these.
    fn gather(all: Vec<Request<Self>>) -> Self::Many;
}

/// What became of one of many; as many as were asked for, in that order.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OneOfMany<T> {
    /// Answered.
    Answered(Box<T>),
    /// Refused.
    Refused(RpcError),
    /// To be asked for alone: something is to be written first, SQL has not come far enough, or it did not fit.
    Alone,
}
