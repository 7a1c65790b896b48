//! What our own page promises beyond a chat: a long room to its beginning, and a gateway that dies.

use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::try_join_all;
use natter_tests::{browser::Browser, client::Client, cluster::Cluster, token::User};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::own_page::{come_in, is_up, say, sees};

const MESSAGES: usize = 10_000;
const WRITERS: usize = 40;

/// Notes each row that ever comes into the document, and what must never be: the same message twice
/// at once, rows out of order, more rows than a window holds.
const WATCH_ROWS: &str = "
    const body = document.querySelector('.msg_card_body');
    window.seen = new Map();
    window.wrong = [];
    const order = (position) => position.split('.').map(Number);
    const look = () => {
        const rows = [...body.querySelectorAll('.line')];
        if (new Set(rows.map((row) => row.dataset.id)).size !== rows.length) window.wrong.push('twice at once');
        if (rows.length > 600) window.wrong.push(`${rows.length} rows`);
        let before = [0, 0];
        for (const row of rows) {
            const at = order(row.dataset.position);
            if (at[0] < before[0] || (at[0] === before[0] && at[1] <= before[1])) window.wrong.push(`${at} after ${before}`);
            before = at;
            window.seen.set(row.dataset.id, row.querySelector('.text').textContent);
        }
    };
    look();
    new MutationObserver(look).observe(body, {childList: true});
    window.scrolling = setInterval(() => { body.scrollTop = 0; }, 20);";

/// So many messages of many writers at once.
async fn fill(cluster: &Cluster) -> Result<()> {
    let writers = (0..WRITERS).map(|writer| async move {
        let client = Client::connect(cluster.gateway(writer % 2), &User::named(&format!("writer{writer}"))).await?;
        let group = client.join("lobby").await?;
        for number in (writer..MESSAGES).step_by(WRITERS) {
            client.send(group, &format!("number {number}")).await?;
        }
        anyhow::Ok(())
    });
    try_join_all(writers).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_of_ten_thousand_scrolls_to_its_beginning_with_each_message_once() -> Result<()> {
    let cluster = Cluster::builder().env("NATTER_LIMITS__FRAMES_PER_SECOND", "100000").env("NATTER_LIMITS__FRAMES_BURST", "100000");
    let cluster = cluster.env("NATTER_LIMITS__USER_FRAMES_PER_SECOND", "100000").env("NATTER_LIMITS__USER_FRAMES_BURST", "100000");
    let cluster = cluster.start().await?;
    fill(&cluster).await?;
    let browser = Browser::start("long-room").await?;
    come_in(&browser, "ann", cluster.gateway(0)).await?;
    browser.wait_for("messages", "return document.querySelectorAll('.msg_card_body .line').length > 20").await?;
    browser.eval(WATCH_ROWS).await?;
    let until = Instant::now() + Duration::from_mins(3);
    while browser.eval("return !document.querySelector('.beginning')").await? == true {
        if Instant::now() > until {
            let state = browser.eval("return [window.seen.size, document.querySelector('.msg_card_body').innerText.slice(0, 300)]").await?;
            anyhow::bail!("the beginning does not come; seen: {state}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let found = browser.eval("clearInterval(window.scrolling); return [[...window.seen.values()], window.wrong.slice(0, 5)]").await?;
    assert_eq!(found[1], json!([]), "rows as they should never be");
    let mut numbers: Vec<usize> = Vec::new();
    for text in found[0].as_array().context("texts")? {
        let text = text.as_str().context("a text")?;
        numbers.push(text.strip_prefix("number ").context("one of ours")?.parse()?);
    }
    numbers.sort_unstable();
    assert_eq!(numbers.len(), MESSAGES);
    assert!(numbers.iter().copied().eq(0..MESSAGES), "each number once");
    browser.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_whose_gateway_dies_counts_down_and_goes_on_with_nothing_missing() -> Result<()> {
    let mut cluster = Cluster::builder().start().await?;
    let browser = Browser::start("killed").await?;
    come_in(&browser, "ann", cluster.gateway(0)).await?;
    let ben = Client::connect(cluster.gateway(1), &User::named("ben")).await?;
    let group = ben.join("lobby").await?;
    ben.send(group, "away 0").await?;
    sees(&browser, "away 0").await?;

    cluster.gateways[0].process.kill()?;
    let counts =
        "return !document.getElementById('banner').hidden && /[0-9]+ s/.test(document.getElementById('banner-countdown').textContent)";
    browser.wait_for("the countdown", counts).await?;
    say(&browser, "said without a gateway").await?;
    browser.wait_for("her line waiting", "return document.querySelectorAll('.line.own .mark.pending').length === 1").await?;
    for number in 1..100 {
        ben.send(group, &format!("away {number}")).await?;
    }
    cluster.gateways[0].process.start_again()?;
    cluster.wait_ready().await?;
    // As a person would, instead of waiting for the countdown.
    browser.eval("document.getElementById('reconnect').click()").await?;
    is_up(&browser).await?;
    browser.wait_for("no banner", "return document.getElementById('banner').hidden").await?;
    ben.wait_for_body("said without a gateway").await?;
    browser.wait_for("her line accepted", "return document.querySelectorAll('.line.own .mark.accepted').length === 1").await?;
    sees(&browser, "away 99").await?;
    let texts = browser.eval("return [...document.querySelectorAll('.msg_card_body .line .text')].map((text) => text.textContent)").await?;
    let texts: Vec<&str> = texts.as_array().context("texts")?.iter().filter_map(Value::as_str).collect();
    let expected: Vec<String> = (0..100).map(|number| format!("away {number}")).collect();
    assert_eq!(texts.iter().filter(|text| text.starts_with("away")).collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>());
    assert_eq!(texts.iter().filter(|text| text.starts_with("said")).count(), 1);
    browser.close().await
}
