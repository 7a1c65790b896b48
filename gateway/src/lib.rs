//! The gateway: stateless, between browsers and the broker. In the order a frame takes:
//! [`accept`] → [`http`] (pages, forms, the upgrade; [`admission`]) → [`auth`] → [`session`]
//! (handshake, loop, client frames) → [`publish`] → broker; and back: broker → [`delivery`]
//! (interest, order, ring, encoding) → [`socket`] (outlets, straight to the TCP socket).

#![allow(
    unreachable_pub,
    reason = "what a module offers to the others; nothing but what is named below leaves the crate, so that what is dead is seen"
)]

mod accept;
mod admission;
mod auth;
mod http;
mod publish;
mod refusals;
mod session;

mod delivery;
mod socket;

mod app;
mod connections;
mod drain;
mod health;
mod knowledge;
mod limit;
mod memory;
mod metrics;
mod open_files;
mod rate;
mod rates;
mod serve;
mod standings;

#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
#[cfg(test)]
mod network_tests;
#[cfg(test)]
mod testing;

pub use app::StartError;
#[cfg(feature = "bench")]
pub use delivery::benches;
pub use serve::{Gateway, run};
