//! The socket: frames are written straight to it by whoever has them (`outlet`), read through
//! tungstenite (`adapter`) and counted before it sees them (`meter`), and encoded with their
//! WebSocket header (`wire`).

mod adapter;
mod meter;
mod outlet;
pub(crate) mod wire;

pub(crate) use adapter::websocket;
pub use adapter::{Socket, breach_of};
pub use meter::ReadLimits;
pub use outlet::{Outlet, OutletLimits, OutletState};
