//! What Natter's services share, in the order data flows through it: ids and positions, the frames
//! of the client protocol, the events they become, the subjects those travel on, the broker that
//! carries them, and the calls between gateway and persister. Then what every binary needs:
//! config, telemetry, lifecycle.

mod tagged;

pub mod id;
pub mod position;
pub mod timestamp;

pub mod frame;

pub mod event;
pub mod subject;

pub mod broker;

pub mod rpc;

pub mod ask_health;
pub mod cli;
pub mod config;
pub mod failpoint;
pub mod lifecycle;
pub mod listen;
pub mod telemetry;

#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
