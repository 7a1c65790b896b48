//! The persister as a whole, over the embedded broker, on SQLite and on PostgreSQL.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs, reason = "tests")]

mod harness;
#[path = "../../../tests/src/postgres.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the integration tests")]
mod postgres;
#[path = "../../../tests/src/process.rs"]
#[allow(dead_code, unreachable_pub, clippy::disallowed_methods, reason = "what PostgreSQL is started by")]
mod process;

mod commands;
mod dead_letters;
mod documented;
mod erasing;
mod figures;
mod inbox;
mod leases;
mod lists;
mod outages;
mod projection;
mod reading;
mod retention;
mod rewinds;
mod search;
mod sign_ins;
mod throughput;
mod upgrade;

/// Runs each test on both databases.
macro_rules! on_both {
    ($($test:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test($crate::harness::Harness::sqlite().await).await;
            })+
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test($crate::harness::Harness::postgres().await).await;
            })+
        }
    };
}
pub(crate) use on_both;
