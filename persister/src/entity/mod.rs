//! The tables as SeaORM entities, one file each. What reads single rows goes through them; batches are
//! written by [`crate::database::rows`].

#![allow(missing_docs, reason = "fields are columns, explained in the entity's own docs and the migration")]

pub mod api_keys;
pub mod applied;
pub mod dead_letters;
pub mod epochs;
pub mod erasures;
pub mod group_counters;
pub mod group_events;
pub mod groups;
pub mod inbox_state;
pub mod leases;
pub mod marked_upto;
pub mod members;
pub mod messages;
pub mod notifications;
pub mod read_positions;
pub mod standings;
pub mod users;
