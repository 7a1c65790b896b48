//! The promises at the top of the broker module, one by one.

pub(crate) mod call;
pub(crate) mod epoch;
pub(crate) mod live;
pub(crate) mod log;
pub(crate) mod order;
