//! The gateway: stateless, between browsers and the broker. In the order a frame takes:
//! [`accept`] → [`http`] (pages, forms, the upgrade; [`admission`]) → [`auth`] → [`session`]
//! (handshake, loop, client frames) → [`publish`] → broker; and back: broker → [`delivery`]
//! (interest, order, ring, encoding) → [`socket`] (outlets, straight to the TCP socket).

mod accept;
pub mod admission;
pub mod auth;
pub mod http;
pub mod publish;
mod refusals;
pub mod session;

pub mod delivery;
pub mod socket;

pub mod app;
pub mod connections;
mod drain;
pub mod health;
pub mod knowledge;
pub mod limit;
mod memory;
pub mod metrics;
mod open_files;
mod rate;
pub mod rates;
mod serve;
pub mod standings;

#[cfg(test)]
mod edge;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
#[cfg(test)]
mod testing;

pub use app::StartError;
pub use serve::{Gateway, run};
