//! The routes over a fake site, without sockets.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod chat_form;
mod chat_page;
mod fake;
mod sign_in;
