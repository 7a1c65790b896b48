//! Whose the shards are when clocks, connections or servers are not what they should be.

use std::{
    collections::HashSet,
    ops::Range,
    time::{Duration, Instant},
};

use futures::StreamExt;
use natter_shared::{
    broker::{Broker, Control},
    event::GroupKind,
    subject::Topic,
};
use sea_orm::DbBackend;

use crate::{
    harness::{Harness, user},
    on_both,
};

on_both!(leases_from_before_the_clock_was_set_back_are_taken, what_was_measured_of_a_lost_shard_is_told_no_more);

impl Harness {
    /// Makes leases somebody's who says nothing, for so long by the database's clock.
    pub(crate) async fn lease_to_the_dead(&self, shards: Range<u16>, time: Duration) {
        let (nobody, now) = match self.database.get_database_backend() {
            DbBackend::Sqlite => ("zeroblob(16)", "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"),
            _ => ("CAST('00000000-0000-0000-0000-000000000000' AS uuid)", "(extract(epoch from clock_timestamp()) * 1000)::bigint"),
        };
        for shard in shards {
            let until = format!("{now} + {}", time.as_millis());
            let values = format!("SELECT {shard}, {nobody}, {until}");
            let renewed = format!("holder = {nobody}, until = {until}");
            self.sql(&format!("INSERT INTO leases (shard, holder, until) {values} WHERE TRUE ON CONFLICT (shard) DO UPDATE SET {renewed}"))
                .await;
        }
    }

    async fn holders(&self) -> Vec<String> {
        let text = if self.database.get_database_backend() == DbBackend::Sqlite { "hex(holder)" } else { "CAST(holder AS text)" };
        let rows = self.rows(&format!("SELECT DISTINCT {text} AS holder FROM leases")).await;
        rows.iter().map(|row| row.try_get("", "holder").unwrap()).collect()
    }
}

async fn leases_from_before_the_clock_was_set_back_are_taken(mut harness: Harness) {
    harness.stop().await;
    harness.lease_to_the_dead(0..harness.broker.shards().count(), Duration::from_hours(1)).await;
    let started = Instant::now();
    harness.start().await;
    let (group, created) = harness.create(GroupKind::Group, &[&user("alice")]).await;
    harness.applied(Topic::Group(group), created).await;
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}

async fn what_was_measured_of_a_lost_shard_is_told_no_more(harness: Harness) {
    let (group, created) = harness.create(GroupKind::Group, &[&user("alice")]).await;
    harness.applied(Topic::Group(group), created).await;
    let names = ["lag_milliseconds", "unapplied_bytes", "applied_seq", "applied_epoch"];
    let told = || names.map(|name| harness.metric(&format!("natter_persister_{name}")).len());
    harness.eventually("measured", async || told().iter().all(|shards| *shards > 0).then_some(())).await;
    harness.lease_to_the_dead(0..harness.broker.shards().count(), Duration::from_mins(5)).await;
    harness.eventually("told no more", async || (told() == [0; 4]).then_some(())).await;
    // And nobody works on them.
    harness.eventually("not ready", async || (!harness.is_ready(0)).then_some(())).await;
    harness.sql("DELETE FROM leases").await;
    harness.eventually("ready again", async || harness.is_ready(0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reaches_the_database_for_all_but_the_work_leaves_the_shards_to_others() {
    let mut harness = Harness::postgres().await;
    harness.stop().await;
    let handle = harness.start_with_a_handle().await;
    let first = harness.holders().await;
    assert_eq!(first.len(), 1);
    harness.start().await;
    let pool = handle.work.get_postgres_connection_pool();
    let mut taken = Vec::new();
    while taken.len() < pool.options().get_max_connections() as usize {
        // What is under way gives its connection back.
        taken.extend(pool.acquire().await.ok());
    }
    let silent = Instant::now();
    harness
        .eventually("others have them", async || {
            let holders = harness.holders().await;
            (holders.len() == 1 && holders != first).then_some(())
        })
        .await;
    assert!(silent.elapsed() < Duration::from_secs(25), "{:?}", silent.elapsed());
    assert!(!harness.is_ready(1) && harness.is_ready(0));
    let (group, created) = harness.create(GroupKind::Group, &[&user("alice")]).await;
    harness.applied(Topic::Group(group), created).await;
    drop(taken);
    harness.eventually("ready again", async || harness.is_ready(1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_the_shards_to_others_that_are_not_there_goes_on_telling_how_far_it_came() {
    let mut harness = Harness::postgres().await;
    harness.stop().await;
    let handle = harness.start_with_a_handle().await;
    let pool = handle.work.get_postgres_connection_pool();
    let mut taken = Vec::new();
    while taken.len() < pool.options().get_max_connections() as usize {
        taken.extend(pool.acquire().await.ok());
    }
    harness.eventually("left", async || harness.holders().await.is_empty().then_some(())).await;
    // What was on its way by then has come.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut controls = harness.broker.controls().await.unwrap();
    let mut left: HashSet<u16> = harness.broker.shards().iter().map(|shard| shard.0).collect();
    let all_are_told = async {
        while !left.is_empty() {
            if let Control::Applied { shard, .. } = controls.next().await.unwrap() {
                left.remove(&shard);
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all_are_told).await.expect("told");
    drop(taken);
    harness.eventually("taken again", async || (!harness.holders().await.is_empty()).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_no_writes_is_no_database() {
    let mut harness = Harness::postgres().await;
    harness.stop().await;
    harness.sql("ALTER DATABASE natter_0 SET default_transaction_read_only = on").await;
    let waits = tokio::time::timeout(Duration::from_secs(5), harness.connections()).await;
    assert!(waits.is_err(), "it answers, that is all");
    harness.sql("ALTER DATABASE natter_0 RESET default_transaction_read_only").await;
    harness.start().await;
    // In the middle of it all, as a service does whose disk is full.
    for (setting, is_ready) in [("= on", false), ("= off", true)] {
        harness.sql(&format!("ALTER SYSTEM SET default_transaction_read_only {setting}")).await;
        harness.sql("SELECT pg_reload_conf()").await;
        harness.eventually("ready or not", async || (harness.is_ready(0) == is_ready).then_some(())).await;
    }
}
