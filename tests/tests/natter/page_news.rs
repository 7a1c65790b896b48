//! What our own page tells of others and of one's own messages as it happens, two people on two
//! gateways: typing, marks, who is new, unread counts, the bell.

use anyhow::{Context, Result};
use fantoccini::key::Key;
use natter_tests::{browser::Browser, client::Client, cluster::Cluster, token::User};
use serde_json::{Value, json};

use super::{
    own_page::{come_in, lists, say, sees},
    page_groups::open_room,
};

async fn two_people(label: &str, cluster: &Cluster) -> Result<(Browser, Browser)> {
    let (ann, ben) = (format!("{label}-ann"), format!("{label}-ben"));
    let (ann, ben) = tokio::try_join!(Browser::start(&ann), Browser::start(&ben))?;
    tokio::try_join!(come_in(&ann, "ann", cluster.gateway(0)), come_in(&ben, "ben", cluster.gateway(1)))?;
    Ok((ann, ben))
}

/// Puts itself between the page and its socket: `held` keeps messages of one's own back, `spoilt`
/// sends the next one to a group that is not there. All that were sent are in `sent`.
const MEDDLE: &str = "
    window.sent = [];
    window.held = null;
    window.spoilt = false;
    const send = WebSocket.prototype.send;
    WebSocket.prototype.send = function (text) {
        const frame = JSON.parse(text);
        if (frame.type !== 'send') return send.call(this, text);
        window.sent.push(frame);
        if (window.spoilt) {
            window.spoilt = false;
            return send.call(this, JSON.stringify({...frame, group: '01920000-0000-7000-8000-000000000000'}));
        }
        if (window.held) return void window.held.push(() => send.call(this, text));
        return send.call(this, text);
    };";

/// The mark of the last line of one's own: its class, and what a screen reader says.
const MARK: &str = "const mark = [...document.querySelectorAll('.line.own .mark')].pop();
    return mark ? [mark.className, mark.getAttribute('aria-label') ?? mark.textContent.trim()] : null";
const TYPING: &str = "return document.querySelector('.typing').textContent";

#[tokio::test(flavor = "multi_thread")]
async fn who_types_is_shown_and_own_messages_are_marked_from_sending_to_accepted_or_failed() -> Result<()> {
    let cluster = Cluster::builder().start().await?;
    let (ann, ben) = two_people("marks", &cluster).await?;

    // Typing: told to the other one only, over with the message, and over by itself.
    ann.click(".type_msg").await?;
    ann.type_text("h").await?;
    ben.wait_for_value(json!("ann is typing…"), TYPING).await?;
    assert_eq!(ann.eval(TYPING).await?, "");
    ann.type_text("ello").await?;
    ann.press(Key::Enter).await?;
    sees(&ben, "hello").await?;
    assert_eq!(ben.eval(TYPING).await?, "", "over with the message");
    ann.wait_for_value(json!(["mark accepted", "Delivered to the server"]), MARK).await?;
    ann.type_text("and").await?;
    ben.wait_for_value(json!("ann is typing…"), TYPING).await?;

    // Waiting, then accepted.
    ann.eval(&format!("{MEDDLE} window.held = [];")).await?;
    say(&ann, "on its way").await?;
    ann.wait_for_value(json!(["mark pending", "Sending…"]), MARK).await?;
    ann.eval("window.held.forEach((go) => go()); window.held = null;").await?;
    ann.wait_for_value(json!(["mark accepted", "Delivered to the server"]), MARK).await?;
    sees(&ben, "on its way").await?;

    // Refused for good, tried again under the same nonce, and there once.
    ann.eval("window.spoilt = true").await?;
    say(&ann, "second try").await?;
    let failed = "Not sent. That is not there any more, or not for you to see. Try again · Discard";
    ann.wait_for_value(json!(["mark failed", failed]), MARK).await?;
    say(&ann, "not held up by it").await?;
    sees(&ben, "not held up by it").await?;
    assert_eq!(ben.eval("return document.body.textContent.includes('second try')").await?, false);
    ann.click(".mark.failed .link").await?;
    sees(&ben, "second try").await?;
    ann.wait_for("no failure", "return !document.querySelector('.mark.failed')").await?;
    let tries = ann.eval("return window.sent.filter((frame) => frame.body === 'second try').map((frame) => frame.nonce)").await?;
    let tries = tries.as_array().context("nonces")?;
    assert!(tries.len() == 2 && tries[0] == tries[1] && tries[0].is_string(), "the same nonce: {tries:?}");

    // Too long for any try: given up, and gone.
    ann.eval("document.querySelector('.type_msg').value = 'long '.repeat(8000); document.querySelector('.send_btn').click()").await?;
    ann.wait_for_value(json!(["mark failed", "Not sent. That is too long. Try again · Discard"]), MARK).await?;
    ann.click(".mark.failed .link:last-child").await?;
    ann.wait_for("it gone", "return !document.querySelector('.mark.failed')").await?;
    let lines = "return [...document.querySelectorAll('.line .text')].map((text) => text.textContent)";
    let expected = json!(["hello", "on its way", "not held up by it", "second try"]);
    for page in [&ann, &ben] {
        page.wait_for_value(expected.clone(), lines).await?;
    }
    ben.wait_for_value(json!(""), TYPING).await?;

    // Whom one hears of is among the people.
    let cora = Client::connect(cluster.gateway(0), &User::named("cora")).await?;
    let lobby = cora.join("lobby").await?;
    cora.send(lobby, "I am new").await?;
    tokio::try_join!(lists(&ann, "id-cora"), lists(&ben, "id-cora"))?;
    tokio::try_join!(ann.close(), ben.close())?;
    Ok(())
}

const UNREAD: &str =
    "return [document.title, [...document.querySelectorAll('#exist-rooms .badge')].map((badge) => badge.firstChild.textContent)]";
const BELL: &str = "const count = document.getElementById('unseen-count');
    return [count.hidden ? '' : count.textContent, document.getElementById('bell').getAttribute('aria-label')]";
const LIST: &str = "return [...document.querySelectorAll('#notifications li')].map((one) =>
    [one.querySelector('.text').textContent, one.className === 'list-group-item-primary'])";

/// Counts the read marks that the page tells.
const COUNT_MARKS: &str = "window.marks = 0;
    window.since = Date.now();
    const send = WebSocket.prototype.send;
    WebSocket.prototype.send = function (text) {
        if (JSON.parse(text).type === 'read') window.marks += 1;
        return send.call(this, text);
    };";

/// Has a script hold in both windows of a browser.
async fn both_show(browser: &Browser, value: Value, script: &str) -> Result<()> {
    for window in browser.page.windows().await? {
        browser.page.switch_to_window(window).await?;
        browser.wait_for_value(value.clone(), script).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_rooms_and_the_bell_agree_in_all_windows_of_a_user() -> Result<()> {
    let cluster = Cluster::builder().start().await?;
    let (ann, ben) = two_people("news", &cluster).await?;
    // Ben has a second window, on the other gateway.
    let first = ben.page.window().await?;
    let second = ben.page.new_window(false).await?.handle;
    ben.page.switch_to_window(second).await?;
    ben.goto(&format!("http://{}/chat/lobby/", cluster.gateway(0))).await?;
    super::own_page::is_up(&ben).await?;

    // Three lines to Ben alone: counted in both windows, read in one, and read in both.
    ann.eval("document.getElementById('people-search').focus()").await?;
    ann.click("#user_ben button").await?;
    ann.wait_for_value(json!("ben"), "return document.querySelector('.room_name').textContent").await?;
    for line in ["one", "two", "three"] {
        say(&ann, line).await?;
    }
    both_show(&ben, json!(["(3) lobby · Natter", ["3"]]), UNREAD).await?;
    ben.page.switch_to_window(first.clone()).await?;
    open_room(&ben, "ann").await?;
    let new = "const divider = document.querySelector('.divider.new'); return divider && [divider.textContent, divider.nextElementSibling.querySelector('.text').textContent]";
    ben.wait_for_value(json!(["New messages", "one"]), new).await?;
    ben.wait_for_value(json!(["ann · Natter", []]), UNREAD).await?;
    for window in ben.page.windows().await? {
        ben.page.switch_to_window(window).await?;
        ben.wait_for_value(json!([]), &format!("{UNREAD}[1]")).await?;
    }
    ben.page.refresh().await?;
    super::own_page::is_up(&ben).await?;
    assert_eq!(ben.eval(UNREAD).await?[1], json!([]), "read after a reload");

    // Looking on while others talk is not a mark for each line.
    open_room(&ben, "ann").await?;
    ben.eval(COUNT_MARKS).await?;
    for number in 0..30 {
        ann.eval(&format!("document.querySelector('.type_msg').value = 'line {number}'; document.querySelector('.send_btn').click()"))
            .await?;
        sees(&ben, &format!("line {number}")).await?;
    }
    let seconds = ben.eval("return (Date.now() - window.since) / 1000").await?.as_f64().context("a time")?;
    let marks = ben.eval("return window.marks").await?.as_f64().context("a count")?;
    assert!(marks >= 1.0 && marks <= 2.0 + seconds / 3.0, "{marks} marks in {seconds} s");
    // The last one is told: another window shows nothing unread.
    let shown = ben.page.window().await?;
    for window in ben.page.windows().await? {
        ben.page.switch_to_window(window).await?;
        ben.wait_for_value(json!([]), &format!("{UNREAD}[1]")).await?;
    }
    ben.page.switch_to_window(shown).await?;

    // The bell: red, in both windows.
    let cora = Client::connect(cluster.gateway(0), &User::named("cora")).await?;
    let notify = async |text: &str| {
        let frame = json!({"type": "notify", "to": {"user": "ben"}, "body": text, "nonce": uuid::Uuid::now_v7()});
        cora.request(frame).await
    };
    for text in ["first", "second", "third"] {
        notify(text).await?;
    }
    both_show(&ben, json!(["3", "Notifications, 3 unseen"]), BELL).await?;
    let red = ben.eval("return getComputedStyle(document.getElementById('unseen-count')).backgroundColor").await?;
    assert_eq!(red, "rgb(194, 38, 28)");
    ben.click("#bell").await?;
    ben.wait_for_value(json!([["third", true], ["second", true], ["first", true]]), LIST).await?;
    assert_eq!(ben.eval("return document.querySelector('#notifications b').textContent").await?, "Cora");
    ben.click("#notifications li:nth-child(2) .mark-seen").await?;
    ben.wait_for_value(json!([["third", true], ["second", false], ["first", true]]), LIST).await?;
    both_show(&ben, json!(["2", "Notifications, 2 unseen"]), BELL).await?;
    ben.page.switch_to_window(first).await?;
    ben.eval("document.getElementById('notification-panel').hidden && document.getElementById('bell').click()").await?;
    ben.click("#clean-seen").await?;
    both_show(&ben, json!(["", "Notifications"]), BELL).await?;

    // Archived: out of the list, into the other one, and so after a reload.
    ben.page.refresh().await?;
    super::own_page::is_up(&ben).await?;
    ben.click("#bell").await?;
    ben.wait_for_value(json!([["third", false], ["second", false], ["first", false]]), LIST).await?;
    ben.click("#notifications li:first-child .archive").await?;
    ben.wait_for_value(json!([["second", false], ["first", false]]), LIST).await?;
    ben.click("#show-archived").await?;
    ben.wait_for_value(json!([["third", false]]), LIST).await?;
    ben.page.refresh().await?;
    super::own_page::is_up(&ben).await?;
    ben.click("#bell").await?;
    ben.wait_for_value(json!([["second", false], ["first", false]]), LIST).await?;

    // More than there is room for.
    for number in 0..100 {
        notify(&format!("many {number}")).await?;
    }
    both_show(&ben, json!(["99+", "Notifications, 100 unseen"]), BELL).await?;
    tokio::try_join!(ann.close(), ben.close())?;
    Ok(())
}

/// What one writes is never said in the name of who has signed in in another window.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_whose_user_has_changed_begins_anew() -> Result<()> {
    let mut cluster = Cluster::builder().gateways(1).start().await?;
    let browser = Browser::start("changed").await?;
    come_in(&browser, "ann", cluster.gateway(0)).await?;
    let script = "fetch('/api/v1/dev/login', {method: 'POST', headers: {'Content-Type': 'application/json'}, body: '{\"name\":\"zoe\"}'})
        .then((answer) => arguments[0](answer.status))";
    assert_eq!(browser.page.execute_async(script, Vec::new()).await?, 200);
    assert_eq!(browser.eval("return document.body.dataset.userId").await?, "ann");
    cluster.gateways[0].process.kill_and_start()?;
    cluster.gateways[0].wait_ready().await?;
    browser.wait_for_value(json!("zoe"), "return document.body.dataset.userId").await?;
    super::own_page::is_up(&browser).await?;
    browser.close().await?;
    Ok(())
}
