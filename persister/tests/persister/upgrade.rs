//! From one release's schema to the next, with rows in it.

use std::time::Duration;

use natter_persister::Migrator;
use sea_orm_migration::MigratorTrait;

use natter_shared::{event::GroupKind, subject::Topic};

use crate::{
    harness::{Harness, user},
    on_both,
};

on_both!(
    rows_of_the_first_schema_are_kept,
    beside_a_newer_release_a_persister_starts,
    another_number_of_shards_is_refused,
    the_number_of_shards_is_looked_at_until_it_can_be_read,
);

async fn rows_of_the_first_schema_are_kept(mut harness: Harness) {
    harness.stop().await;
    // A database as the first release made it.
    for table in harness.tables().await {
        harness.sql(&format!("DROP TABLE {table}")).await;
    }
    Migrator::up(&harness.database, Some(1)).await.unwrap();
    let id = match harness.database.get_database_backend() {
        sea_orm::DbBackend::Sqlite => "x'00000000000040008000000000000001'",
        _ => "'00000000-0000-4000-8000-000000000001'",
    };
    let rows = [
        format!("INSERT INTO users (id, key, handle, display_name, placeholder, created_at) VALUES ('old', {id}, 'old', 'Old', FALSE, 1)"),
        format!("INSERT INTO groups (id, kind, display_name, epoch, seq, created_at) VALUES ({id}, 'group', 'g', 1, 1, 1)"),
        format!("INSERT INTO group_counters (group_id, messages) VALUES ({id}, 5)"),
        format!(
            "INSERT INTO members (group_id, user_id, role, since_epoch, since_seq, since_ordinal, version) VALUES ({id}, 'old', 'owner', 1, 1, 0, 1)"
        ),
        format!("INSERT INTO notifications (recipient, id, epoch, seq, nonce, body, sent_at) VALUES ('old', {id}, 1, 2, {id}, 'n', 1)"),
        format!("INSERT INTO inbox_state (recipient, notification, seen, is_read) VALUES ('old', {id}, TRUE, FALSE)"),
    ];
    for row in &rows {
        harness.sql(row).await;
    }
    natter_persister::migrate(&harness.database).await.unwrap();
    // The release before goes on beside this one: it names no new column.
    harness.sql("DELETE FROM inbox_state").await;
    harness.sql(&rows[5]).await;
    // The log that is there is none of that release's.
    harness.options.without_history = true;
    harness.start().await;
    let old = harness.sign_in(&user("old"), None).await;
    assert_eq!((old.groups[0].unread, old.inbox.unseen, old.inbox.unread), (5, 0, 1));
    let (group, ack) = harness.create(GroupKind::Group, &[&user("old")]).await;
    harness.applied(Topic::Group(group), ack).await;
}

async fn beside_a_newer_release_a_persister_starts(mut harness: Harness) {
    harness.stop().await;
    harness.sql("INSERT INTO seaql_migrations (version, applied_at) VALUES ('m29990101_000001_of_a_newer_release', 1)").await;
    harness.start().await;
    let (group, ack) = harness.create(GroupKind::Group, &[&user("old")]).await;
    harness.applied(Topic::Group(group), ack).await;
}

async fn another_number_of_shards_is_refused(mut harness: Harness) {
    harness.stop().await;
    for other in [2, 8] {
        harness.sql(&format!("UPDATE installation SET shards = {other}")).await;
        let refused = harness.run_to_its_end().await.unwrap_err().to_string();
        assert_eq!(refused, format!("the database was installed with {other} shards, the configuration says 4"));
    }
    // One of an earlier release noted nothing: what it has counts.
    harness.sql("DELETE FROM installation").await;
    harness.sql("DELETE FROM applied WHERE shard > 1").await;
    let refused = harness.run_to_its_end().await.unwrap_err().to_string();
    assert_eq!(refused, "the database was installed with 2 shards, the configuration says 4");
    harness.sql("DELETE FROM installation").await;
    harness.sql("UPDATE applied SET shard = 7 WHERE shard = 1").await;
    let refused = harness.run_to_its_end().await.unwrap_err().to_string();
    assert_eq!(refused, "the database was installed with 8 shards, the configuration says 4");
}

async fn the_number_of_shards_is_looked_at_until_it_can_be_read(mut harness: Harness) {
    harness.stop().await;
    harness.sql("UPDATE installation SET shards = 2").await;
    harness.sql("ALTER TABLE installation RENAME TO out_of_reach").await;
    let (ended, ()) = tokio::join!(harness.run_to_its_end(), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        harness.sql("ALTER TABLE out_of_reach RENAME TO installation").await;
    });
    assert_eq!(ended.unwrap_err().to_string(), "the database was installed with 2 shards, the configuration says 4");
}
