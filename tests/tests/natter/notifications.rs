//! Races of notifications: with what marks them, with who comes and goes, and with each other.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use natter_shared::{
    id::{GroupId, Nonce, NotificationId, UserId},
    position::Position,
};
use natter_tests::{
    client::{ANSWER, Client},
    cluster::{Cluster, Store},
    proxy::{Condition, Select},
    record::{Record, position_of},
    sql::Sql,
    token::User,
};
use reqwest::Method;
use serde_json::{Value, json};

super::on_both_stores!(
    what_is_seen_before_it_is_stored_is_seen,
    archiving_races_with_what_comes,
    a_group_is_notified_as_of_the_notifications_place_in_its_order,
    counts_are_the_same_in_all_tabs_and_of_two_the_later_holds,
);

/// Counts are passed on and not stored: a gateway that was cut off when they were has them told again.
#[tokio::test(flavor = "multi_thread")]
async fn counts_that_were_lost_are_told_when_the_gateway_hears_again() -> Result<()> {
    let cluster = Cluster::builder().proxied().start().await?;
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let (here, cut_off) =
        (Client::connect(cluster.gateway(0), &User::named("ben")).await?, Client::connect(cluster.gateway(1), &User::named("ben")).await?);
    let group = ann.join("lobby").await?;
    for tab in [&here, &cut_off] {
        tab.join("lobby").await?;
    }
    let proxy = cluster.gateways[1].nats.as_ref().context("a proxy")?;
    let deliveries = Select::named("-subscribe");
    // What goes to a group changes nothing in the user's own topic; what goes to a user is missed there.
    for (round, to) in [(1, json!({"group": group})), (2, json!({"user": "id-ben"}))] {
        proxy.set(Select::All, Condition::refusing());
        ensure!(proxy.cut(&deliveries) > 0, "nothing cut");
        ann.request(notify(&to, Nonce::now(), "you")).await?;
        all_told(&[&here], round, round).await?;
        ensure!(cut_off.record(last_counts).is_none_or(|(unseen, ..)| unseen < round), "not cut off");
        proxy.heal();
        all_told(&[&cut_off], round, round).await?;
    }
    Ok(())
}

fn notify(to: &Value, nonce: Nonce, body: &str) -> Value {
    json!({"type": "notify", "to": to, "nonce": nonce, "body": body})
}

/// A call of the user API as `user`, or of the server API with a key.
async fn call(cluster: &Cluster, gateway: usize, bearer: &str, method: Method, path: &str, body: &Value) -> Result<Value> {
    super::api::done(cluster, gateway, bearer, method, path, body.clone()).await
}

/// The last counts a client was told.
fn last_counts(record: &Record) -> Option<(u64, u64, Position)> {
    let push = record.pushes.iter().filter(|push| push["type"] == "inbox").max_by_key(|push| position_of(&push["version"]))?;
    Some((push["unseen"].as_u64()?, push["unread"].as_u64()?, position_of(&push["version"])?))
}

/// Waits until each of these was told these counts last.
async fn all_told(clients: &[&Client], unseen: u64, unread: u64) -> Result<()> {
    for client in clients {
        let told = |record: &Record| last_counts(record).filter(|(s, r, _)| (*s, *r) == (unseen, unread));
        client.wait_until(&format!("{unseen} unseen, {unread} unread"), ANSWER, told).await?;
    }
    Ok(())
}

/// Seen by the id that it will have, while it is on its way: before and at once.
async fn what_is_seen_before_it_is_stored_is_seen(store: Store) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let ben = Client::connect(cluster.gateway(1), &User::named("ben")).await?;
    let sender = UserId::new("id-ann")?;
    let mut ids = BTreeSet::new();
    for round in 0..20 {
        let nonce = Nonce::now();
        let id = NotificationId::derive(&sender, nonce);
        let mark = ben.request(json!({"type": "seen", "ids": [id]}));
        let frame = notify(&json!({"user": "id-ben"}), nonce, &format!("{round}"));
        if round % 2 == 0 {
            mark.await?;
            ann.request(frame).await?;
        } else {
            let (marked, told) = tokio::join!(mark, ann.request(frame));
            marked?;
            told?;
        }
        ids.insert(id.to_string());
    }
    ben.wait_for("the last one", ANSWER, |push| push["body"] == "19").await?;
    all_told(&[&ben], 0, 20).await?;
    let heard: Vec<String> = ben.record(|record| {
        let told = record.pushes.iter().filter(|push| push["type"] == "notification");
        told.map(|push| push["id"].as_str().unwrap_or_default().to_owned()).collect()
    });
    assert_eq!((heard.len(), heard.into_iter().collect::<BTreeSet<_>>()), (20, ids), "each once");
    let page = call(&cluster, 0, &User::named("ben").token(), Method::GET, "notifications?limit=50", &Value::Null).await?;
    let listed = page["notifications"].as_array().context("a list")?;
    assert!(listed.len() == 20 && listed.iter().all(|entry| entry["seen"] == true && entry["read"] == false), "{page}");
    assert_eq!(page["inbox"]["unseen"], 0);
    Ok(())
}

/// All is archived up to a place, again and again, while more comes: what stands before it is archived,
/// what stands after is not, whatever came first to SQL.
async fn archiving_races_with_what_comes(store: Store) -> Result<()> {
    let cluster = Cluster::builder().persisters(2).store(store).start().await?;
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let ben = Client::connect(cluster.gateway(1), &User::named("ben")).await?;
    let token = User::named("ben").token();
    let mut upto = Position::START;
    let mut places = Vec::new();
    for round in 0..12 {
        let told = join_all((0..4).map(|part| {
            let frame = notify(&json!({"user": "id-ben"}), Nonce::now(), &format!("{round}.{part}"));
            let ann = &ann;
            async move { ann.request(frame).await }
        }));
        let archive = async {
            let place = json!({"upto": upto});
            call(&cluster, round % 2, &token, Method::POST, "notifications/archive", &place).await
        };
        let (told, archived) = tokio::join!(told, archive);
        archived?;
        for reply in told {
            let reply = reply?;
            places.push((position_of(&reply["position"]).context("a place")?, reply["notification_id"].clone()));
        }
        // The third of the four: something stays behind it each time.
        let mut of_round: Vec<Position> = places.iter().rev().take(4).map(|(place, _)| *place).collect();
        of_round.sort();
        upto = of_round[2];
    }
    call(&cluster, 0, &token, Method::POST, "notifications/archive", &json!({"upto": upto})).await?;
    let ids = async |archived: bool| -> Result<BTreeSet<String>> {
        let page = call(&cluster, 1, &token, Method::GET, &format!("notifications?limit=100&archived={archived}"), &Value::Null).await?;
        let listed = page["notifications"].as_array().context("a list")?;
        Ok(listed.iter().map(|entry| entry["id"].to_string()).collect())
    };
    let expected = |archived: bool| places.iter().filter(|(place, _)| (*place <= upto) == archived).map(|(_, id)| id.to_string()).collect();
    assert_eq!(ids(true).await?, expected(true), "archived, and no other");
    assert_eq!(ids(false).await?, expected(false), "not archived");
    let left = expected(false).len() as u64;
    assert_eq!(left, 1);
    all_told(&[&ben], left, left).await
}

async fn recipients(sql: &Sql, id: &Value) -> Result<i64> {
    let id = id.as_str().context("an id")?.replace('-', "");
    // Blobs in SQLite, uuids in PostgreSQL.
    let written = sql.rows("SELECT recipient, id FROM notifications").await?;
    let its = |row: &&sea_orm::QueryResult| row.try_get::<uuid::Uuid>("", "id").is_ok_and(|found| found.simple().to_string() == id);
    Ok(written.iter().filter(its).count() as i64)
}

/// The group is notified while a member is removed and added: who got it is what the order of the
/// group says, on the socket and in SQL alike.
async fn a_group_is_notified_as_of_the_notifications_place_in_its_order(store: Store) -> Result<()> {
    let cluster = Cluster::builder().gateways(3).persisters(2).store(store).start().await?;
    let key = cluster.api_key("shop")?;
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let cid = Client::connect(cluster.gateway(2), &User::named("cid")).await?;
    let new = json!({"display_name": "Two", "members": [{"user": "id-ann", "role": "owner"}]});
    let made = call(&cluster, 0, &key, Method::POST, "server/groups", &new).await?;
    let group: GroupId = made["id"].as_str().context("an id")?.parse().map_err(|_| anyhow::anyhow!("no id"))?;
    ann.wait_until("the group", ANSWER, |record| record.position(group)).await?;
    let member = format!("server/groups/{group}/members/id-cid");
    let mut told = Vec::new();
    for round in 0..25 {
        // By turns cid is added and removed, while ann notifies the group.
        let method = if round % 2 == 0 { Method::PUT } else { Method::DELETE };
        let nothing = json!({});
        let change = call(&cluster, 1, &key, method, &member, &nothing);
        let speak = async {
            let mut replies = Vec::new();
            for part in 0..3 {
                replies.push(ann.request(notify(&json!({"group": group}), Nonce::now(), &format!("{round}.{part}"))).await?);
            }
            anyhow::Ok(replies)
        };
        let (changed, replies) = tokio::join!(change, speak);
        changed?;
        told.extend(replies?);
    }
    // Where the membership began and ended, by the group's own order, as ann was told.
    let places = |change: &str| -> Vec<Position> {
        ann.record(|record| {
            let of_cid = |push: &&Value| push["type"] == "group" && push["change"] == change && push["user"] == "id-cid";
            record.pushes.iter().filter(of_cid).filter_map(|push| position_of(&push["position"])).collect()
        })
    };
    ann.wait_until("all changes", ANSWER, |record| {
        let changes = record.pushes.iter().filter(|push| push["type"] == "group" && push["user"] == "id-cid");
        (changes.count() >= 25).then_some(())
    })
    .await?;
    let (added, removed) = (places("member_added"), places("member_removed"));
    assert_eq!((added.len(), removed.len()), (13, 12));
    let was_member = |place: Position| {
        let of = |places: &[Position]| places.iter().filter(|at| **at < place).count();
        of(&added) > of(&removed)
    };
    ann.send(group, "the end").await?;
    cid.wait_for_body("the end").await?;
    let sql = cluster.sql().await?;
    let (mut for_cid, mut between) = (BTreeSet::new(), 0);
    for reply in &told {
        let place = position_of(&reply["position"]).context("a place")?;
        // Nobody is told by themselves.
        let expected = was_member(place);
        between += usize::from(expected);
        if expected {
            for_cid.insert(reply["notification_id"].to_string());
        }
        let is_stored = async || recipients(&sql, &reply["notification_id"]).await.unwrap_or_default() == i64::from(expected);
        super::chat::wait_until(&format!("the rows of {place}"), is_stored).await;
    }
    eprintln!("cid was a member for {between} of {}", told.len());
    let heard: Vec<String> = cid.record(|record| {
        let told = record.pushes.iter().filter(|push| push["type"] == "notification");
        told.map(|push| push["id"].to_string()).collect()
    });
    assert_eq!(heard.len(), heard.iter().collect::<BTreeSet<_>>().len(), "each once");
    // A membership that ended before its delivery began may be silent on the socket; it is in SQL.
    assert!(heard.iter().all(|id| for_cid.contains(id)), "{heard:?} is not within {for_cid:?}");
    assert!(!heard.is_empty());
    all_told(&[&cid], between as u64, between as u64).await
}

/// Several tabs on two gateways; marks and notifications come from all sides. What each was told with
/// one version is the same for all, and the greatest version is the truth.
async fn counts_are_the_same_in_all_tabs_and_of_two_the_later_holds(store: Store) -> Result<()> {
    let cluster = Cluster::builder().persisters(2).store(store).start().await?;
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let mut tabs = Vec::new();
    for tab in 0..4 {
        tabs.push(Client::connect(cluster.gateway(tab % 2), &User::named("ben")).await?);
    }
    // Groups of several shards, whose notifications count in the same inbox.
    for group in ["red", "green", "blue"] {
        ann.join(group).await?;
        tabs[0].join(group).await?;
    }
    for tab in &tabs {
        tab.wait_until("the groups", ANSWER, |record| (record.groups().len() == 3).then_some(())).await?;
    }
    for round in 0..30 {
        let to = [json!({"user": "id-ben"}), json!({"group": "red"}), json!({"group": "green"}), json!({"group": "blue"})];
        let reply = ann.request(notify(&to[round % 4], Nonce::now(), &format!("{round}"))).await?;
        if round % 3 == 0 {
            tabs[round % 4].request(json!({"type": "seen", "ids": [reply["notification_id"]]})).await?;
        }
        if round % 7 == 0 {
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    }
    let all: Vec<&Client> = tabs.iter().collect();
    all_told(&all, 20, 30).await?;
    let mut versions = std::collections::BTreeMap::new();
    for tab in &tabs {
        let told: Vec<Value> = tab.record(|record| record.pushes.iter().filter(|push| push["type"] == "inbox").cloned().collect());
        for push in told {
            let counts = (push["unseen"].clone(), push["unread"].clone());
            let version = position_of(&push["version"]).context("a version")?;
            assert_eq!(*versions.entry(version).or_insert_with(|| counts.clone()), counts, "two truths of {version}");
        }
        let heard = tab.record(|record| record.pushes.iter().filter(|push| push["type"] == "notification").count());
        assert_eq!(heard, 30, "each once, in every tab");
    }
    Ok(())
}
