//! The suite of faults, `make faults`: each of them happens to a cluster of real processes under
//! traffic from a seed, and the checkers judge what clients saw and what SQL holds.
//!
//! `kind` says what there is, `run` runs one, `trouble` makes what goes wrong (`database`, `links`,
//! `disk` and `chaos` their part of it); `joins` and `late` are scenarios of their own; `sabotage`
//! spoils the live path, which has to be caught; `table` is what is shown in the end.

mod chaos;
mod database;
mod disk;
mod joins;
mod kind;
mod late;
mod links;
mod run;
mod sabotage;
mod table;
mod trouble;
mod watchers;

pub use self::{
    kind::Fault,
    run::{Outcome, Size, run},
    sabotage::{Finding, NOTHING_SHOWN, Sabotage, status_of_all, status_of_one},
    table::{Row, table, verdict},
};
