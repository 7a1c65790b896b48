//! Looking for users by how they begin.

use natter_shared::rpc::{ListUsers, SignIn};
use sea_orm::DbBackend;

use crate::{
    figures,
    harness::{Harness, user},
    on_both,
};

on_both!(
    users_are_found_by_how_they_begin,
    a_name_that_thousands_have_is_listed_in_pages_too,
    names_that_go_like_handles_are_listed_once_and_not_walked_through,
    erased_users_are_passed_over,
);

/// Users whose handle or name begins with `prefix`, but one, page by page; and how many pages these were.
async fn pages(harness: &Harness, but: &str, prefix: &str, limit: u32) -> (Vec<String>, usize) {
    let (mut found, mut count) = (Vec::new(), 0);
    let (mut after, mut after_name) = (None, None);
    loop {
        let call = ListUsers { user: Some(user(but)), prefix: prefix.into(), after, after_name, limit };
        let page = harness.call(call).await.unwrap().reply;
        assert!(page.users.len() <= limit as usize && page.more == page.next.is_some());
        found.extend(page.users.into_iter().map(|user| user.handle));
        count += 1;
        let Some(next) = page.next else { return (found, count) };
        (after, after_name) = (Some(next.handle), next.name);
    }
}

/// As a gateway of the release before asks for them.
async fn pages_by_handle(harness: &Harness, but: &str, prefix: &str, limit: u32) -> Vec<String> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let call = ListUsers { user: Some(user(but)), prefix: prefix.into(), after, after_name: None, limit };
        let page = harness.call(call).await.unwrap().reply;
        found.extend(page.users.into_iter().map(|user| user.handle));
        after = found.last().cloned();
        if !page.more {
            return found;
        }
    }
}

async fn users_are_found_by_how_they_begin(harness: Harness) {
    let people = [
        ("1", "anna", "Zoe"),
        ("2", "Anton", "Toni"),
        ("3", "bert", "Anneliese"),
        ("4", "carl", "Örjan"),
        ("5", "dora_x", "Dora"),
        ("6", "doraax", "Dora"),
        ("7", "王", "王小明"),
        ("8", "a%b", "percent"),
        ("9", "abe", "Anna"),
    ];
    for (id, handle, name) in people {
        let (handle, display_name) = (Some(handle.to_owned()), Some(name.to_owned()));
        harness.call(SignIn { user: user(id), handle, display_name, limit: 1, issued_at: None }).await.unwrap();
    }
    let find = async |prefix: &str| -> Vec<String> {
        let call = ListUsers { user: Some(user("5")), prefix: prefix.into(), after: None, after_name: None, limit: 50 };
        harness.call(call).await.unwrap().reply.users.into_iter().map(|found| found.handle).collect()
    };
    let by_handle_then_by_name = ["anna", "Anton", "abe", "bert"];
    assert_eq!(find("an").await, by_handle_then_by_name);
    assert_eq!(find("AN").await, by_handle_then_by_name);
    assert_eq!(find("anto").await, ["Anton"]);
    assert_eq!(find("ör").await, ["carl"]);
    assert_eq!(find("ÖR").await, ["carl"]);
    assert_eq!(find("王").await, ["王"]);
    assert_eq!(find("a%").await, ["a%b"], "no wildcards");
    assert_eq!(find("dora_").await, Vec::<String>::new(), "no wildcards, and not oneself");
    assert_eq!(find("nobody").await, Vec::<String>::new());
    assert_eq!(find("\0").await, Vec::<String>::new());
    let all = ["a%b", "abe", "anna", "Anton", "bert", "carl", "doraax", "王"];
    assert_eq!(find("").await, all);
    // Page by page it is the same.
    for prefix in ["", "a", "an", "d", "ö"] {
        for limit in [1, 2, 3] {
            assert_eq!(pages(&harness, "5", prefix, limit).await.0, find(prefix).await, "{prefix:?} by {limit}");
            assert_eq!(pages_by_handle(&harness, "5", prefix, limit).await, find(prefix).await, "{prefix:?} by {limit}");
        }
    }
    let everybody = ListUsers { user: None, prefix: String::new(), after: None, after_name: None, limit: 50 };
    assert_eq!(harness.call(everybody).await.unwrap().reply.users.len(), 9);
}

/// Names in another order than handles, and these in another one than ids.
async fn a_name_that_thousands_have_is_listed_in_pages_too(harness: Harness) {
    figures::people(&harness, 3000).await;
    // Many of one name.
    harness.sql("UPDATE users SET display_name = 'Name' WHERE id LIKE 'id9%'").await;
    let mut wanted: Vec<(String, String)> = harness
        .rows("SELECT handle, lower(display_name) AS name FROM users WHERE display_name LIKE 'Name%' AND id <> 'id7'")
        .await
        .iter()
        .map(|row| (row.try_get("", "name").unwrap(), row.try_get("", "handle").unwrap()))
        .collect();
    wanted.sort();
    assert_eq!(wanted.len(), 2999);
    let wanted: Vec<String> = wanted.into_iter().map(|(_, handle)| handle).collect();
    assert_eq!(pages(&harness, "id7", "nAmE", 70).await.0, wanted, "each once, in the order of names");
    assert_eq!(pages_by_handle(&harness, "id7", "nAmE", 200).await, wanted);
}

/// They lie beside each other by handle and by name, more of them than are looked at for a page.
async fn erased_users_are_passed_over(harness: Harness) {
    let (numbers, key) = (figures::numbers(&harness, 15_000), figures::uuid(&harness, 'a'));
    harness
        .sql(&format!(
            "INSERT INTO users (id, key, handle, display_name, placeholder, created_at, erased_at) \
             SELECT 'id' || n, {key}, 'erased~' || n, 'erased', TRUE, 0, 0 FROM {numbers}"
        ))
        .await;
    for (id, handle, name) in [("1", "erwin", "Erwin"), ("2", "zoe", "Erased"), ("3", "erasmus", "Erasmus")] {
        let (handle, display_name) = (Some(handle.to_owned()), Some(name.to_owned()));
        harness.call(SignIn { user: user(id), handle, display_name, limit: 1, issued_at: None }).await.unwrap();
    }
    for (prefix, found) in [("er", vec!["erasmus", "erwin", "zoe"]), ("", vec!["erasmus", "erwin", "zoe"]), ("erased", vec!["zoe"])] {
        assert_eq!(pages(&harness, "nobody", prefix, 50).await, (found.into_iter().map(str::to_owned).collect(), 1), "{prefix:?}");
    }
}

/// The rows of users that have been read. All other sessions of PostgreSQL have to end for that: only then they have told all.
async fn fetched(harness: &mut Harness) -> i64 {
    harness.stop().await;
    harness.database.close_by_ref().await.unwrap();
    let alone = natter_persister::DatabaseOptions { max_connections: 1, ..harness.options.database.clone() };
    harness.database = natter_persister::connect(&alone).await.unwrap();
    let sessions = "pg_stat_activity WHERE application_name = 'natter-persister'";
    harness.eventually("alone", async || (harness.count(sessions).await == 1).then_some(())).await;
    let rows = harness.rows("SELECT idx_tup_fetch AS n FROM pg_stat_user_tables WHERE relname = 'users'").await;
    rows[0].try_get("", "n").unwrap()
}

async fn names_that_go_like_handles_are_listed_once_and_not_walked_through(mut harness: Harness) {
    let is_postgres = harness.database.get_database_backend() == DbBackend::Postgres;
    let (willis, others) = (12_000, 20_000);
    let (numbers, key) = (figures::numbers(&harness, willis + others), figures::uuid(&harness, 'a'));
    harness
        .sql(&format!(
            "INSERT INTO users (id, key, handle, display_name, placeholder, created_at) SELECT 'id' || n, {key}, \
             CASE WHEN n <= {willis} THEN 'willi.' ELSE 'anna.' END || n, CASE WHEN n <= {willis} THEN 'Willi ' ELSE 'Anna ' END || n, \
             FALSE, 0 FROM {numbers}"
        ))
        .await;
    harness.sql("UPDATE users SET handle = 'x.' || id WHERE id IN ('id5', 'id50', 'id6000')").await;
    figures::settled(&harness).await;
    let before = if is_postgres { fetched(&mut harness).await } else { 0 };
    harness.start().await;
    let call = ListUsers { user: None, prefix: "wi".into(), after: None, after_name: None, limit: 50 };
    assert_eq!(harness.call(call).await.unwrap().reply.users.len(), 50);
    if is_postgres {
        let read = fetched(&mut harness).await - before;
        assert!((50..500).contains(&read), "{read} rows were read for one page");
        harness.start().await;
    }
    let (found, pages) = pages(&harness, "id7", "wi", 200).await;
    let (listed, last) = found.split_at(willis as usize - 4);
    assert!(listed.is_sorted() && listed.iter().all(|handle| handle.starts_with("willi.") && handle != "willi.7"));
    assert_eq!(last, ["x.id5", "x.id50", "x.id6000"], "who goes by another handle comes behind them");
    assert!(pages <= 63, "{pages}");
    if is_postgres {
        let read = fetched(&mut harness).await - before;
        assert!(read < 3 * i64::from(willis), "{read} rows were read for all pages");
    }
}
