//! The socket: frames are written straight to it by whoever has them (`outlet`), read through
//! tungstenite (`adapter`) and counted before it sees them (`meter`), and encoded with their
//! WebSocket header (`wire`).

pub mod adapter;
mod meter;
pub mod outlet;
pub mod wire;

pub(crate) use adapter::websocket;
pub use adapter::{Socket, SocketIo, breach_of};
pub use meter::{Breach, ReadLimits};
pub use outlet::{Outlet, OutletLimits, OutletState};
