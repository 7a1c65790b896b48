//! Notifications of the application to very many at once.

use axum::http::StatusCode;
use futures::FutureExt;
use serde_json::json;
use tokio::runtime;

use super::fake::Routes;
use crate::testing::API_KEY;

/// Users of one call, the most there may be.
const USERS: usize = 1000;

/// Bytes of the text that each of them is sent.
const BODY: usize = 32 * 1024;

/// Notifications that are being stored at the same time.
const AT_ONCE: usize = 64;

/// Of a broker that is slow, all of them waiting: no more copies are made than are being stored.
#[test]
fn a_text_to_many_is_copied_for_those_who_are_being_told_and_no_more() {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let routes = runtime.block_on(async { Routes::new() });
    let users: Vec<_> = (0..USERS).map(|number| format!("u{number}")).collect();
    let body = json!({"to": {"users": users}, "body": "x".repeat(BODY)}).to_string();
    let key = format!("Bearer {API_KEY}");
    let headers = [("content-type", "application/json"), ("authorization", key.as_str())];
    let call = routes.send("POST", "/api/v1/server/notifications", &headers, &body);
    tokio::pin!(call);
    let slow = runtime.block_on(routes.site.broker.stores.write());
    let used = allocation_counter::measure(|| {
        runtime.block_on(async {
            for _ in 0..100 {
                assert!(call.as_mut().now_or_never().is_none());
                tokio::task::yield_now().await;
            }
        });
    });
    // Each has it twice, as an event and as it is sent, and what that took room for while it was written.
    let (least, most) = ((AT_ONCE * BODY) as u64, (4 * AT_ONCE * BODY) as u64);
    assert!((least..most).contains(&used.bytes_max), "{} bytes are not {least} to {most}", used.bytes_max);
    drop(slow);
    let answer = runtime.block_on(call);
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
    let told = answer.json();
    let told: Vec<_> = told["notifications"].as_array().unwrap().iter().map(|one| one["user"].as_str().unwrap()).collect();
    assert_eq!(told, users, "in the order they were asked in");
}
