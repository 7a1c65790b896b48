//! The routes over a fake site, without sockets.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod api;
mod chat_form;
mod chat_page;
pub(crate) mod fake;
mod notifying;
mod session;
mod sign_in;
mod team_page;
