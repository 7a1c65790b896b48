//! Delivery: from the broker's subscriptions to the sockets of who is concerned. Each group with
//! a local member has a task ([`group`]) that owns its members and its [`ring`], each shard's users
//! have one ([`users`]); what they write is encoded once ([`encode`]), and after an interruption held
//! ([`hold`]) until a check. Who comes back after a while gets what was missed from the ring, or through
//! [`recover`], read once for all ([`flights`], [`read`]), which asks again ([`insist`]) for what cannot
//! be answered just now; [`tail`] finds what was lost without
//! a trace, and [`lists`] knows whether SQL knew of all groups of a user.

mod arrived;
mod batch;
#[cfg(feature = "bench")]
pub mod benches;
mod cursor;
mod encode;
mod fill;
mod flights;
mod group;
mod hold;
mod hub;
mod insist;
mod join;
#[cfg(test)]
mod limits_tests;
mod lists;
mod log_states;
mod missed;
mod read;
mod recover;
mod recoveries;
mod ring;
mod tail;
#[cfg(test)]
pub(crate) mod tests;
mod users;

pub use encode::message_frame;
pub use hub::Hub;
pub(crate) use insist::Insistence;
pub use join::{GroupMeta, JoinError, Joined, Start, Telling};
pub use lists::Unheard;
