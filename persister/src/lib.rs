//! Natter's persister, in the order data flows through it: a shard's log is settled and read, its
//! events are projected into SQL, progress and inbox counts are announced, and calls are answered
//! from SQL or become events that come round the same way. Beside them, what is too old
//! is deleted and users are erased; and
//! [`admin`] is what an operator does to the database by commands.

mod error;
mod metrics;
mod options;
mod readiness;
mod run;

mod epochs;
mod lease;
mod log;
mod shard;
mod work;

mod checkpoint;
mod projector;

mod inbox;
mod progress;
mod standings;

mod rpc;

mod erasure;
mod retention;

pub mod admin;

mod database;
pub mod entity;
mod migration;

pub use database::{Connections, connect, connect_with_retry, migrate};
pub use error::Error;
pub use metrics::Metrics;
pub use migration::Migrator;
pub use options::{DatabaseOptions, Options};
pub use run::run;
