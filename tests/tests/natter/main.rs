//! Natter as its users meet it: real processes over real NATS and real databases, real browsers.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests fail by panicking")]

mod abuse;
mod api;
mod api_access;
mod api_document;
mod api_paging;
mod api_schema;
mod backup;
mod bad_input;
mod chat;
mod chatroom;
mod client_js;
mod command_line;
mod compose;
mod delivery;
mod django_example;
mod drain;
mod drain_crowd;
mod faults;
mod herd;
mod inbox;
mod limits;
mod membership;
mod nats_identities;
mod nats_tls;
mod notifications;
mod original_page;
mod own_page;
mod page;
mod page_access;
mod page_groups;
mod page_looks;
mod page_news;
mod protocol;
mod resume;
mod secrets;
mod sending;
mod sign_in;
mod slow_readers;
mod standalone;
mod standings;
mod start_order;
mod team_page;
mod three_nodes;

/// Runs each test on a cluster over SQLite and over PostgreSQL.
macro_rules! on_both_stores {
    ($($test:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() -> anyhow::Result<()> {
                super::$test(natter_tests::cluster::Store::Sqlite).await
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() -> anyhow::Result<()> {
                super::$test(natter_tests::cluster::Store::Postgres).await
            })+
        }
    };
}
use on_both_stores;
