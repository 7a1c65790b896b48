//! The gateway: stateless, between browsers and the broker. In the order a frame takes:
//! `accept` → `http` (pages, forms, the upgrade) → `auth` → `session` (handshake, loop,
//! client frames) → `publish` → broker; and back: broker → `delivery` (interest, topics, ring,
//! encoding) → `socket` (outlets, straight to the TCP socket).

pub mod app;
pub mod auth;
pub mod http;
