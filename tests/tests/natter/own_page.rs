//! Our own page with two people in Chromium, on a cluster and on the standalone process.

use std::net::SocketAddr;

use anyhow::Result;
use natter_tests::{browser::Browser, cluster::Cluster, standalone::Standalone};

async fn enter(label: &str, name: &str, gateway: SocketAddr) -> Result<Browser> {
    let browser = Browser::start(&format!("{label}-{name}")).await?;
    come_in(&browser, name, gateway).await?;
    Ok(browser)
}

/// Signs in on the page and waits for the lobby.
pub(super) async fn come_in(browser: &Browser, name: &str, gateway: SocketAddr) -> Result<()> {
    // As a person comes: the page sends to the sign-in, which sends back.
    browser.goto(&format!("http://{gateway}/chat/lobby/")).await?;
    browser.wait_for("the sign-in page", "return !!document.querySelector('#sign-in-submit:enabled')").await?;
    let fill = format!("document.getElementById('name-input').value = '{name}'; document.getElementById('sign-in-submit').click();");
    browser.eval(&fill).await?;
    browser.wait_for("the room", "return location.pathname === '/chat/lobby/' && !!document.getElementById('status')").await?;
    is_up(browser).await
}

/// The page is signed in, loaded and live.
pub(super) async fn is_up(browser: &Browser) -> Result<()> {
    let up = "return document.body.dataset.state === 'ready' && document.body.dataset.loaded === 'true' && !!document.querySelector('.type_msg')";
    browser.wait_for("the page", up).await.map(drop)
}

/// Writes into the open room and presses Send.
pub(super) async fn say(browser: &Browser, text: &str) -> Result<()> {
    let script = format!(
        "const pane = document.querySelector('.display_room:not([hidden])');
         pane.querySelector('.type_msg').value = {};
         pane.querySelector('.send_btn').click();",
        serde_json::json!(text)
    );
    browser.eval(&script).await.map(drop)
}

pub(super) async fn sees(browser: &Browser, text: &str) -> Result<()> {
    let script = format!("return document.body.textContent.includes({})", serde_json::json!(text));
    browser.wait_for(text, &script).await.map(drop)
}

async fn two_people_chat(label: &str, one: SocketAddr, other: SocketAddr) -> Result<()> {
    let ann = enter(label, "ann", one).await?;
    let ben = enter(label, "ben", other).await?;
    lists(&ann, "ben").await?;
    lists(&ben, "ann").await?;
    say(&ann, "hello <b>ben</b>").await?;
    sees(&ben, "hello <b>ben</b>").await?;
    say(&ben, "hello yourself").await?;
    sees(&ann, "hello yourself").await?;
    ann.wait_for("her line accepted", "return document.querySelectorAll('.line.own .mark.accepted').length === 1").await?;
    let lines = "return document.querySelectorAll('.display_room:not([hidden]) .line').length";
    assert_eq!((ann.eval(lines).await?, ben.eval(lines).await?), (2.into(), 2.into()), "each line once");

    ann.eval("document.querySelector('#user_ben button').click()").await?;
    ann.wait_for("their room", "return document.querySelector('.room_name')?.textContent === 'ben'").await?;
    say(&ann, "just us").await?;
    sees_in_other_room(&ben, "just us").await?;

    ann.eval(
        "document.getElementById('user-input').value = 'ben';
         document.getElementById('chat-message-input').value = 'ping!';
         document.getElementById('notification-message-submit').click();",
    )
    .await?;
    ann.wait_for("word of it", "return document.getElementById('notification-result').textContent !== ''").await?;
    assert_eq!(ann.eval("return document.getElementById('notification-result').textContent").await?, "Notification sent to ben");
    ben.wait_for("the notification", "return !!document.querySelector('#notifications .list-group-item-primary')").await?;
    sees(&ben, "ping!").await?;
    ann.screenshot("room").await?;
    ben.screenshot("room").await?;
    ben.eval("document.getElementById('clean-seen').click()").await?;
    ben.wait_for("seen", "return !document.querySelector('#notifications .list-group-item-primary')").await?;
    ben.page.refresh().await?;
    ben.wait_for("seen after a reload", "return !!document.querySelector('[id^=notification_].list-group-item')").await?;
    tokio::try_join!(ann.close(), ben.close())?;
    Ok(())
}

/// Without a reload, somebody is among the people to write to.
pub(super) async fn lists(browser: &Browser, user: &str) -> Result<()> {
    let script = format!("return !!document.querySelector('#user_{user} button')");
    browser.wait_for(user, &script).await.map(drop)
}

/// A message of a room that is not open marks the room; opened, it shows the message.
async fn sees_in_other_room(browser: &Browser, text: &str) -> Result<()> {
    browser.wait_for("news of another room", "return !!document.querySelector('.exist_room.has_news')").await?;
    browser.eval("document.querySelector('.exist_room.has_news button').click()").await?;
    sees(browser, text).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_chat_on_our_page_over_two_gateways() -> Result<()> {
    let cluster = Cluster::builder().start().await?;
    two_people_chat("cluster", cluster.gateway(0), cluster.gateway(1)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_chat_on_our_page_over_one_process() -> Result<()> {
    let natter = Standalone::start(&[]).await?;
    two_people_chat("standalone", natter.node.addr, natter.node.addr).await
}
