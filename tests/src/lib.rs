//! The harness of the integration tests. What tests run against: `process`, `nats`, `nats_cluster` with
//! `partition` and `leaders`, `postgres`, a `cluster` of which each process is a `node`, or the one that is
//! `standalone`, `proxy` in between, `nginx` and `django` before it, under a `clock` that is wrong; what cannot
//! run here is `skipped`. Who talks to it: `token`, `socket`, `record`, `client`, `chatroom`, `http`, `customer`,
//! `browser`, and a `crowd`. Who judges: `sql`, `checker`, `inboxes`; `traffic` and its `person`, which may be an
//! `owner`, random use of all of it; and `faults`, the suite of everything that goes wrong.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::disallowed_methods,
    reason = "a harness of tests fails by panicking, and blocks while it waits for a process"
)]

/// What binaries with failpoints hold, and releases do not.
pub const FAILPOINTS_MARK: &str = "natter_failpoints_are_compiled_in";

pub mod browser;
pub mod chatroom;
pub mod checker;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod crowd;
pub mod customer;
pub mod django;
pub mod faults;
pub mod http;
pub mod inboxes;
pub mod leaders;
pub mod nats;
pub mod nats_cluster;
pub mod nginx;
pub mod node;
pub(crate) mod owner;
pub mod partition;
pub(crate) mod person;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod record;
pub mod skipped;
pub mod socket;
pub mod sql;
pub mod standalone;
pub mod token;
pub mod traffic;
