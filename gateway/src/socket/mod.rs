//! The socket: frames are written straight to it by whoever has them (`outlet`), read through
//! tungstenite (`adapter`), and encoded with their WebSocket header (`wire`).

pub mod adapter;
pub mod outlet;
pub mod wire;

pub use adapter::SocketIo;
pub use outlet::{Outlet, OutletLimits, OutletState};
