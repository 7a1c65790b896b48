//! Logs that lost their tail or all of themselves: a new epoch, and nothing in SQL moves.

use std::{path::PathBuf, sync::Arc, time::Duration};

use natter_shared::{
    broker::{Broker, Outgoing},
    event::{Audience, Event, GroupKind},
    id::{GroupId, Nonce},
    position::{Epoch, Position},
    rpc::EventsAfter,
    subject::Topic,
};
use sea_orm::{ConnectionTrait, DbBackend, Statement, TransactionTrait};

use crate::{
    erasing::erase,
    harness::{Harness, message, open_broker, user},
    on_both,
};

on_both!(
    a_lost_log_goes_on_in_a_new_epoch,
    a_log_restored_from_a_backup_goes_on_in_a_new_epoch,
    a_newer_epoch_is_followed_to_the_last_event,
    what_was_evicted_of_an_ended_epoch_is_said_to_be_missing,
    epochs_in_between_are_followed_one_after_another,
    a_rescue_that_was_broken_off_is_made_up_for,
    what_a_log_had_when_it_was_put_away_comes_with_it,
    what_a_broker_accepted_whose_clock_went_back_is_rescued_and_nothing_deleted,
    a_log_that_the_database_knows_nothing_of_is_refused
);

impl Harness {
    /// Copies the log while nothing runs.
    async fn copy_log(&mut self) -> PathBuf {
        self.broker.close().await;
        let (path, copy) = (self.directory.path().join("log.db"), self.directory.path().join("backup.db"));
        std::fs::copy(&path, &copy).unwrap();
        self.broker = open_broker(&path).await;
        copy
    }

    /// Replaces the log while nothing runs: with a copy, or with nothing.
    async fn swap_log(&mut self, with: Option<&PathBuf>) {
        self.broker.close().await;
        let path = self.directory.path().join("log.db");
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
        }
        if let Some(with) = with {
            std::fs::copy(with, &path).unwrap();
        }
        self.broker = open_broker(&path).await;
    }

    /// Waits until the log of `topic`'s shard is in an epoch after this one.
    async fn in_an_epoch_after(&self, epoch: Epoch, topic: Topic) {
        let shard = self.shard(topic);
        self.eventually("another epoch", async || (self.broker.log_state(shard).await.ok()?.epoch > epoch).then_some(())).await;
    }

    async fn positions(&self, group: GroupId) -> Vec<(String, i64, i64, i64)> {
        let rows = self.rows("SELECT body, epoch, seq, ordinal, group_id FROM messages ORDER BY ordinal").await;
        let of = rows.iter().filter(|row| row.try_get::<uuid::Uuid>("", "group_id").unwrap() == group.0);
        of.map(|row| {
            let number = |name: &str| row.try_get::<i64>("", name).unwrap();
            (row.try_get("", "body").unwrap(), number("epoch"), number("seq"), number("ordinal"))
        })
        .collect()
    }
}

async fn a_lost_log_goes_on_in_a_new_epoch(mut harness: Harness) {
    let alice = user("alice");
    let (group, created) = harness.create(GroupKind::Group, &[&alice]).await;
    let topic = Topic::Group(group);
    let mut last = harness.say(group, &alice, "0").await;
    for n in 1..10 {
        last = harness.say(group, &alice, &n.to_string()).await;
    }
    harness.applied(topic, last).await;
    let before = harness.positions(group).await;
    harness.stop().await;
    harness.swap_log(None).await;
    harness.start().await;
    harness.in_an_epoch_after(last.position.epoch, topic).await;
    let more = harness.say(group, &alice, "after").await;
    assert!(more.position > last.position);
    harness.applied(topic, more).await;
    let now = harness.positions(group).await;
    assert_eq!(now[..10], before[..]);
    assert_eq!((now[10].0.as_str(), now[10].3), ("after", 11));
    let ask = |after| EventsAfter { user: Some(alice.clone()), group: Some(group), after, limit: 100 };
    let page = harness.call(ask(created.position)).await.unwrap().reply;
    assert_eq!((page.events.len(), page.complete), (11, true));
    // What a client saw beyond the end of the old epoch is nowhere any more.
    let beyond = Position::new(last.position.epoch, last.position.seq + 1000);
    assert!(!harness.call(ask(beyond)).await.unwrap().reply.complete);
    // Epochs are never used twice, over all shards: the number is the table's key.
    harness.eventually("all shards in new epochs", async || (harness.count("epochs").await == 8).then_some(())).await;
}

async fn a_log_restored_from_a_backup_goes_on_in_a_new_epoch(mut harness: Harness) {
    let (alice, erased) = (user("alice"), user("erased"));
    let (group, _) = harness.create(GroupKind::Group, &[&alice, &erased]).await;
    let topic = Topic::Group(group);
    let ack = harness.say(group, &alice, "kept").await;
    harness.applied(topic, ack).await;
    harness.stop().await;
    let backup = harness.copy_log().await;
    harness.start().await;
    let mut lost = ack;
    for n in 0..5 {
        lost = harness.say(group, &alice, &format!("only in SQL {n}")).await;
    }
    harness.applied(topic, lost).await;
    harness.stop().await;
    let before = harness.positions(group).await;
    harness.swap_log(Some(&backup)).await;
    // Gateways are quicker than the persister: these are accepted in the old epoch, where the
    // positions are taken already, and go beyond them.
    harness.say(group, &erased, "rescued, of who is erased").await;
    harness.sql("UPDATE users SET erased_at = 1 WHERE id = 'erased'").await;
    for n in 0..8 {
        let ack = harness.say(group, &alice, &format!("rescued {n}")).await;
        assert_eq!(ack.position.epoch, lost.position.epoch);
    }
    harness.start().await;
    harness.in_an_epoch_after(lost.position.epoch, topic).await;
    harness.say(group, &alice, "last").await;
    let now = harness.eventually("all applied", async || Some(harness.positions(group).await).filter(|now| now.len() >= 15)).await;
    assert_eq!(now[..6], before[..], "nothing in SQL moves");
    // What comes in the new epoch meanwhile may come before what is rescued.
    let bodies = |prefix: &str| now[6..].iter().map(|row| row.0.clone()).filter(|body| body.starts_with(prefix)).collect::<Vec<_>>();
    let expected: Vec<String> = (0..8).map(|n| format!("rescued {n}")).collect();
    assert_eq!(bodies("rescued"), expected);
    assert_eq!(bodies("last").len(), 1);
    assert!(now.iter().enumerate().all(|(n, row)| row.3 == n as i64 + 1), "ordinals have no gaps");
    assert_eq!(harness.count("dead_letters").await, 0);
}

async fn a_newer_epoch_is_followed_to_the_last_event(mut harness: Harness) {
    let alice = user("alice");
    let (group, _) = harness.create(GroupKind::Group, &[&alice]).await;
    let topic = Topic::Group(group);
    let ack = harness.say(group, &alice, "first").await;
    harness.applied(topic, ack).await;
    harness.stop().await;
    for n in 0..20 {
        harness.say(group, &alice, &format!("old {n}")).await;
    }
    // Another persister opened it.
    let next = Epoch(ack.position.epoch.0 + 100);
    harness.broker.open_epoch(harness.shard(topic), next).await.unwrap();
    let last = harness.say(group, &alice, "new").await;
    assert_eq!(last.position.epoch, next);
    harness.start().await;
    harness.applied(topic, last).await;
    let now = harness.positions(group).await;
    assert_eq!(now.len(), 22);
    assert!(now[..21].iter().all(|row| row.1 == i64::from(ack.position.epoch.0)));
    assert_eq!(harness.count("dead_letters").await, 0);
}

async fn what_was_evicted_of_an_ended_epoch_is_said_to_be_missing(mut harness: Harness) {
    let alice = user("alice");
    let (group, created) = harness.create(GroupKind::Group, &[&alice]).await;
    let (topic, shard) = (Topic::Group(group), harness.shard(Topic::Group(group)));
    harness.applied(topic, created).await;
    harness.stop().await;
    let lost = harness.say(group, &alice, "lost").await;
    harness.say(group, &alice, "old").await;
    harness.broker.close().await;
    let path = harness.directory.path().join("log.db");
    let file = sea_orm::Database::connect(format!("sqlite://{}", path.display())).await.unwrap();
    let Position { epoch, seq } = lost.position;
    file.execute_unprepared(&format!("DELETE FROM events_{shard}_{epoch} WHERE seq <= {seq}")).await.unwrap();
    file.close().await.unwrap();
    harness.broker = open_broker(&path).await;
    harness.broker.open_epoch(shard, Epoch(epoch.0 + 100)).await.unwrap();
    let newest = harness.say(group, &alice, "new").await;
    harness.start().await;
    harness.applied(topic, newest).await;
    let bodies: Vec<String> = harness.positions(group).await.into_iter().map(|row| row.0).collect();
    assert_eq!(bodies, ["old", "new"]);
    let ask = |after| EventsAfter { user: Some(alice.clone()), group: Some(group), after, limit: 100 };
    assert!(!harness.call(ask(created.position)).await.unwrap().reply.complete, "what came next is nowhere");
    assert!(harness.call(ask(lost.position)).await.unwrap().reply.complete);
}

/// As after a database was put back from a backup.
async fn epochs_in_between_are_followed_one_after_another(mut harness: Harness) {
    let alice = user("alice");
    let (group, created) = harness.create(GroupKind::Group, &[&alice]).await;
    let (topic, shard) = (Topic::Group(group), harness.shard(Topic::Group(group)));
    harness.applied(topic, created).await;
    harness.stop().await;
    let mut newest = harness.say(group, &alice, "0").await;
    for number in 1..4 {
        harness.broker.open_epoch(shard, Epoch(newest.position.epoch.0 + 5)).await.unwrap();
        newest = harness.say(group, &alice, &number.to_string()).await;
    }
    harness.start().await;
    harness.applied(topic, newest).await;
    let bodies: Vec<String> = harness.positions(group).await.into_iter().map(|row| row.0).collect();
    assert_eq!(bodies, ["0", "1", "2", "3"]);
}

async fn a_rescue_that_was_broken_off_is_made_up_for(mut harness: Harness) {
    let alice = user("alice");
    let (group, _) = harness.create(GroupKind::Group, &[&alice]).await;
    let (topic, shard) = (Topic::Group(group), harness.shard(Topic::Group(group)));
    let kept = harness.say(group, &alice, "kept").await;
    harness.applied(topic, kept).await;
    harness.stop().await;
    let backup = harness.copy_log().await;
    // The log is lost, SQL goes on in a newer epoch; then an older copy of the log is put back, and takes a message.
    harness.swap_log(None).await;
    harness.start().await;
    harness.in_an_epoch_after(kept.position.epoch, topic).await;
    let lost = harness.say(group, &alice, "only in SQL").await;
    harness.applied(topic, lost).await;
    harness.stop().await;
    harness.swap_log(Some(&backup)).await;
    let accepted = harness.say(group, &alice, "accepted").await;
    assert_eq!(accepted.position.epoch, kept.position.epoch);
    // A persister opened the next epoch, and died before it had published again what the copy has.
    harness.broker.open_epoch(shard, Epoch(lost.position.epoch.0 + 9)).await.unwrap();
    harness.start().await;
    let bodies = async || harness.positions(group).await.into_iter().map(|row| row.0).collect::<Vec<_>>();
    harness.eventually("all of it", async || (bodies().await == ["kept", "only in SQL", "accepted"]).then_some(())).await;
}

/// SQL was over another log in between, and has newer events of that.
async fn what_a_log_had_when_it_was_put_away_comes_with_it(mut harness: Harness) {
    let alice = user("alice");
    let (group, _) = harness.create(GroupKind::Group, &[&alice]).await;
    let topic = Topic::Group(group);
    let first = harness.say(group, &alice, "in SQL").await;
    harness.applied(topic, first).await;
    harness.stop().await;
    harness.say(group, &alice, "left behind").await;
    let put_away = harness.copy_log().await;
    harness.swap_log(None).await;
    harness.start().await;
    harness.in_an_epoch_after(first.position.epoch, topic).await;
    let meanwhile = harness.say(group, &alice, "meanwhile").await;
    harness.applied(topic, meanwhile).await;
    harness.stop().await;
    // A minute later than the other log's last event.
    harness.sql("UPDATE applied SET stored_at = stored_at + 60000").await;
    harness.swap_log(Some(&put_away)).await;
    harness.start().await;
    let bodies = async || harness.positions(group).await.into_iter().map(|row| row.0).collect::<Vec<_>>();
    harness.eventually("all of it", async || (bodies().await == ["in SQL", "meanwhile", "left behind"]).then_some(())).await;
}

async fn what_a_broker_accepted_whose_clock_went_back_is_rescued_and_nothing_deleted(mut harness: Harness) {
    let (alice, bob) = (user("alice"), user("bob"));
    let (group, _) = harness.create(GroupKind::Group, &[&alice, &bob]).await;
    let topic = Topic::Group(group);
    let (_, told) = harness.notify(Audience::User(bob.clone()), Some(&alice), "to who is erased since").await;
    harness.applied(Topic::User(bob.key()), told).await;
    let retired = harness.say(group, &alice, "retired").await;
    harness.applied(topic, retired).await;
    harness.stop().await;
    let backup = harness.copy_log().await;
    harness.start().await;
    let lost = harness.say(group, &alice, "only in SQL").await;
    harness.applied(topic, lost).await;
    erase(&harness, &bob).await.unwrap();
    harness.sign_in(&bob, None).await;
    assert_eq!(harness.count("users WHERE id = 'bob' AND erased_at IS NULL").await, 1);
    harness.stop().await;
    let Position { epoch, seq } = retired.position;
    harness.sql("DELETE FROM messages WHERE body = 'retired'").await;
    harness.sql(&format!("UPDATE group_counters SET floor_epoch = {epoch}, floor_seq = {seq}")).await;
    // All shards, and by an hour.
    harness.sql("UPDATE applied SET stored_at = stored_at + 3600000, restored = TRUE").await;
    harness.swap_log(Some(&backup)).await;
    harness.say(group, &alice, "accepted").await;
    harness.start().await;
    harness.eventually("all shards in new epochs", async || (harness.count("applied WHERE epoch > 4").await == 4).then_some(())).await;
    let bodies = async || harness.positions(group).await.into_iter().map(|row| row.0).collect::<Vec<_>>();
    harness.eventually("what was accepted", async || (bodies().await == ["only in SQL", "accepted"]).then_some(())).await;
    assert_eq!(harness.count("notifications").await, 0);
}

async fn a_log_that_the_database_knows_nothing_of_is_refused(mut harness: Harness) {
    let alice = user("alice");
    let (group, _) = harness.create(GroupKind::Group, &[&alice]).await;
    let kept = harness.say(group, &alice, "kept").await;
    harness.applied(Topic::Group(group), kept).await;
    harness.stop().await;
    harness.take_an_empty_database().await;
    // Nor does a second try find that it was noted.
    for _ in 0..2 {
        let refused = harness.run_to_its_end().await.unwrap_err().to_string();
        assert!(
            refused.starts_with("the log of shard ") && refused.contains("the database (database.url) knows nothing of it"),
            "{refused}"
        );
    }
    harness.options.without_history = true;
    harness.start().await;
    let bodies = async || harness.positions(group).await.into_iter().map(|row| row.0).collect::<Vec<_>>();
    harness.eventually("all that the log has", async || (bodies().await == ["kept"]).then_some(())).await;
    harness.stop().await;
    harness.options.without_history = false;
    harness.start().await;
}

/// Two find at the same time that the log was rewound, since one of them has lost the database for a while.
#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_that_another_opened_meanwhile_is_not_passed_over() {
    let mut harness = Harness::postgres().await;
    let alice = user("alice");
    let (group, _) = harness.create(GroupKind::Group, &[&alice]).await;
    let (topic, shard) = (Topic::Group(group), harness.shard(Topic::Group(group)));
    let kept = harness.say(group, &alice, "kept").await;
    harness.applied(topic, kept).await;
    harness.stop().await;
    let backup = harness.copy_log().await;
    harness.start().await;
    let later = harness.say(group, &alice, "only in SQL").await;
    harness.applied(topic, later).await;
    harness.stop().await;
    harness.swap_log(Some(&backup)).await;
    let rescued = harness.say(group, &alice, "rescued").await;
    // The other one has the next number, and has not committed it yet.
    let next = harness.rows("SELECT max(epoch) AS last FROM epochs").await[0].try_get::<i64>("", "last").unwrap() + 1;
    let database = natter_persister::connect(&harness.options.database).await.unwrap();
    let other = database.begin().await.unwrap();
    other.execute_unprepared(&format!("INSERT INTO epochs (epoch, shard, opened_at) VALUES ({next}, {}, 0)", shard.0)).await.unwrap();
    let broker = Arc::clone(&harness.broker);
    let meanwhile = async {
        let sql = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO epochs%'";
        let statement = || Statement::from_string(DbBackend::Postgres, sql);
        while database.query_one_raw(statement()).await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        broker.open_epoch(shard, Epoch(next as u32)).await.unwrap();
        let message = message(group, &alice, Nonce::now(), "in between");
        let payload = Event::Message(message.clone()).encode().unwrap();
        let outgoing = Outgoing { topic, id: message.id.into(), made_at: broker.now(), epoch: None, payload };
        assert_eq!(broker.publish(outgoing).await.unwrap().position.epoch, Epoch(next as u32));
        other.commit().await.unwrap();
    };
    tokio::join!(harness.start(), meanwhile);
    assert_eq!(rescued.position.epoch, kept.position.epoch);
    let bodies = async || {
        let mut bodies: Vec<_> = harness.positions(group).await.into_iter().map(|row| row.0).collect();
        bodies.sort();
        bodies
    };
    harness.eventually("all of it", async || (bodies().await == ["in between", "kept", "only in SQL", "rescued"]).then_some(())).await;
}
