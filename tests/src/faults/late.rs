//! Copies of publishes that come late: as a gateway's client library sends what it buffered while it
//! was disconnected, 100 s after it was made. NATS has forgotten the ids by then; so that this takes
//! seconds here, its window is made small first.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::{Client, ConnectOptions, HeaderMap};
use bytes::Bytes;
use serde_json::{Value, json};

use super::run::Run;
use crate::cluster::Cluster;

/// How long NATS remembers an id here.
const WINDOW: Duration = Duration::from_millis(500);

/// How old a copy is; what is stored more than 90 s after it was made is void.
const AGE_MS: u64 = 100_000;

/// Stores a second copy of some of the messages.
pub(super) async fn repeat(cluster: &Cluster, run: &mut Run) -> Result<()> {
    // As the service that may change streams; gateways may not.
    let nats = ConnectOptions::with_nkey(cluster.identities.persister.seed.clone())
        .custom_inbox_prefix("_INBOX.persister.late")
        .connect(cluster.nats.client_url())
        .await?;
    let mut copies = 0;
    let names = ask(&nats, "$JS.API.STREAM.NAMES".to_owned(), json!({})).await?;
    for stream in names["streams"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let told = ask(&nats, format!("$JS.API.STREAM.INFO.{stream}"), json!({})).await?;
        let last = told["state"]["last_seq"].as_u64().context("a last sequence")?;
        let mut config = told["config"].clone();
        config["duplicate_window"] = json!(WINDOW.as_nanos());
        let updated = ask(&nats, format!("$JS.API.STREAM.UPDATE.{stream}"), config).await?;
        ensure!(updated["error"].is_null(), "{updated}");
        tokio::time::sleep(2 * WINDOW).await;
        for seq in last.saturating_sub(run.rounds(100, 200, 1000) as u64).max(1)..=last {
            copies += usize::from(copy(&nats, stream, seq).await?);
        }
    }
    run.note(format!("{copies} copies came late"));
    ensure!(copies > 20, "hardly any copies: {copies}");
    Ok(())
}

async fn ask(nats: &Client, subject: String, body: Value) -> Result<Value> {
    let answer = nats.request(subject, Bytes::from(body.to_string())).await?;
    Ok(serde_json::from_slice(&answer.payload)?)
}

/// Publishes once more what stands at `seq`, if it is a group's message.
async fn copy(nats: &Client, stream: &str, seq: u64) -> Result<bool> {
    let body = Bytes::from(json!({"seq": seq}).to_string());
    let stored = nats.request(format!("$JS.API.DIRECT.GET.{stream}"), body).await?;
    let headers = stored.headers.unwrap_or_default();
    let text = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
    let (Some(subject), Some(id), Some(made)) = (text("Nats-Subject"), text("Nats-Msg-Id"), text("Natter-At")) else { return Ok(false) };
    if !subject.contains(".g.") || !stored.payload.starts_with(b"{\"type\":\"message\"") {
        return Ok(false);
    }
    let made: u64 = made.parse()?;
    let mut again = HeaderMap::new();
    again.insert("Nats-Msg-Id", id.as_str());
    again.insert("Natter-At", made.saturating_sub(AGE_MS).to_string().as_str());
    again.insert("Nats-Expected-Stream", stream);
    let ack = nats.request_with_headers(subject, again, stored.payload).await?;
    let ack: Value = serde_json::from_slice(&ack.payload)?;
    ensure!(ack["error"].is_null() && ack["duplicate"] != true, "not stored a second time: {ack}");
    Ok(true)
}
