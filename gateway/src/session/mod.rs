//! A session: one connection of one user. Not signed in yet ([`handshake`]), then opened
//! ([`open`]), then its loop ([`run`]), which reads frames ([`on_frame`], [`on_chat_frame`]) and
//! notices, and has one exit.

#[cfg(test)]
mod echo;
mod follow;
mod handle;
mod handshake;
mod heartbeat;
#[cfg(test)]
mod limits_tests;
mod lists;
mod membership;
mod nonces;
mod notices;
mod on_chat_frame;
mod on_frame;
mod open;
mod reply;
mod requests;
mod run;
mod send;
#[cfg(test)]
mod tests;
mod time;
mod together;
mod work;

#[cfg(test)]
pub(crate) use echo::open_echo;
pub use handle::{Lost, Notice, Protocol, SessionHandle};
pub use handshake::open_v1;
pub use open::{OpenError, Opened, RoomOrGroup, open_chat_room};
pub use run::{Serving, finish, serve_chat_room};
pub use together::{FirstJoins, SignIns, Together};
