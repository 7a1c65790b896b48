//! Calls to the persister and announcements to all.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use natter_shared::broker::{BrokerError, Control};

use crate::fixture::{Fixture, PATIENCE, START, eventually};

pub(crate) async fn answers_calls(fixture: impl Fixture) {
    let broker = fixture.broker();
    let request = |name: &'static str, wait| broker.request(name, Bytes::from_static(b"?"), wait);
    let nobody = request("echo", PATIENCE).await;
    assert!(matches!(nobody, Err(BrokerError::NoResponder)), "{nobody:?}");
    let mut calls = broker.serve().await.expect("calls");
    let server = tokio::spawn(async move {
        let mut silent = Vec::new();
        while let Some(call) = calls.next().await {
            match call.name.as_str() {
                "echo" => call.respond.send(call.payload).expect("a caller"),
                "silent" => silent.push(call.respond),
                "drop" => drop(call.respond),
                other => panic!("not called: {other}"),
            }
        }
    });
    eventually("the server is known", async || request("echo", PATIENCE).await.ok()).await;
    let many = futures::future::join_all((0..200).map(|n| {
        let broker = &broker;
        async move {
            let payload = Bytes::from(format!("call {n}"));
            assert_eq!(broker.request("echo", payload.clone(), PATIENCE).await.expect("an answer"), payload);
        }
    }));
    many.await;
    for name in ["silent", "drop"] {
        let late = request(name, Duration::from_millis(100)).await;
        assert!(matches!(late, Err(BrokerError::Unavailable(_))), "{late:?}");
    }
    server.abort();
    let _ = server.await;
    eventually("nobody serves any more", async || {
        matches!(request("echo", Duration::from_millis(200)).await, Err(BrokerError::NoResponder)).then_some(())
    })
    .await;
}

pub(crate) async fn announces(fixture: impl Fixture) {
    let broker = fixture.broker();
    let mut one = broker.controls().await.expect("announcements");
    let mut other = broker.controls().await.expect("announcements");
    let applied = Control::Applied { shard: 1, position: START, unapplied: None };
    // A subscription is on its way for a moment; whoever announces repeats it.
    for controls in [&mut one, &mut other] {
        let heard = eventually("announced", async || {
            broker.announce(&applied).await.expect("announced");
            tokio::time::timeout(Duration::from_millis(100), controls.next()).await.ok().flatten()
        })
        .await;
        assert!(matches!(heard, Control::Applied { shard: 1, position: START, unapplied: None }), "{heard:?}");
    }
}
