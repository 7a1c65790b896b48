//! The dialogs of groups on our own page, two people on two gateways: a group is made, filled,
//! renamed, emptied and left, and each sees at once what the other does.

use anyhow::{Context, Result};
use fantoccini::key::Key;
use natter_shared::id::GroupId;
use natter_tests::{
    browser::Browser,
    client::{ANSWER, Client},
    cluster::Cluster,
    token::User,
};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    api::done,
    own_page::{come_in, lists, say, sees},
};

/// The names of the rooms in the list, in no order that matters.
const ROOMS: &str = "return [...document.querySelectorAll('#exist-rooms .title')].map((title) => title.textContent).sort()";
const HEADER: &str = "return [document.querySelector('.room_name')?.textContent, document.querySelector('.kind')?.textContent]";
const MEMBERS: &str = "return [...document.querySelectorAll('dialog .members li[data-user]')].map((one) => one.dataset.user).sort()";
const NO_DIALOG: &str = "return !document.querySelector('dialog')";
const LINES: &str = "return [...document.querySelectorAll('.msg_card_body .line .text')].map((text) => text.textContent)";

/// Searches somebody in the open dialog, and chooses the one that is found.
async fn choose(browser: &Browser, handle: &str) -> Result<()> {
    browser.fill("#picker-search", handle).await?;
    browser
        .wait_for_value(json!([handle]), "return [...document.querySelectorAll('dialog .results .handle')].map((one) => one.textContent)")
        .await?;
    browser.click("dialog .results button").await?;
    browser.wait_for("the chosen one", "return !!document.querySelector('dialog .chip')").await.map(drop)
}

/// Opens a room from the list, once it is there.
pub(super) async fn open_room(browser: &Browser, title: &str) -> Result<()> {
    let found = format!("[...document.querySelectorAll('#exist-rooms .title')].find((one) => one.textContent === {})", json!(title));
    browser.wait_for(title, &format!("return !!{found}")).await?;
    browser.eval(&format!("{found}.closest('button').click()")).await?;
    browser.wait_for_value(json!(title), "return document.querySelector('.room_name')?.textContent").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_made_filled_renamed_and_left_in_dialogs() -> Result<()> {
    let cluster = Cluster::builder().start().await?;
    let cora = Client::connect(cluster.gateway(1), &User::named("cora")).await?;
    let (ann, ben) = tokio::try_join!(Browser::start("groups-ann"), Browser::start("groups-ben"))?;
    tokio::try_join!(come_in(&ann, "ann", cluster.gateway(0)), come_in(&ben, "ben", cluster.gateway(1)))?;

    // Made, with Ben in it: it is on his page without a reload.
    ann.click("#new-group").await?;
    ann.wait_for("the name to be written", "return document.activeElement?.id === 'group-name'").await?;
    ann.type_text("Launch").await?;
    choose(&ann, "ben").await?;
    ann.click("dialog footer .primary").await?;
    ann.wait_for("no dialog", NO_DIALOG).await?;
    ann.wait_for_value(json!(["Launch", "2 members"]), HEADER).await?;
    ben.wait_for_value(json!(["Launch", "lobby"]), ROOMS).await?;
    open_room(&ben, "Launch").await?;
    say(&ann, "welcome").await?;
    ben.wait_for_value(json!(["welcome"]), LINES).await?;
    ben.wait_for_value(json!(["Launch", "2 members"]), HEADER).await?;

    // Cora is added: both headers count her, and she hears what is said.
    ann.click("#room-details").await?;
    ann.click("dialog .actions button:not(.danger)").await?;
    choose(&ann, "cora").await?;
    ann.click("dialog footer .primary").await?;
    ann.wait_for("no dialog", NO_DIALOG).await?;
    for page in [&ann, &ben] {
        page.wait_for_value(json!(["Launch", "3 members"]), HEADER).await?;
    }
    say(&ann, "hello cora").await?;
    let heard = cora.wait_for_body("hello cora").await?;
    let group: GroupId = serde_json::from_value(heard["group"].clone())?;

    // A name that cannot be is refused with words; a good one is everywhere.
    ann.click("#room-details").await?;
    ann.fill("#new-name", " ").await?;
    ann.click("dialog .rename button").await?;
    ann.wait_for("why not", "return document.querySelector('dialog .error').textContent.startsWith('A group')").await?;
    ann.fill("#new-name", "Liftoff").await?;
    ann.press(Key::Enter).await?;
    for page in [&ann, &ben] {
        page.wait_for_value(json!(["Liftoff", "3 members"]), HEADER).await?;
        page.wait_for_value(json!(["Liftoff", "lobby"]), ROOMS).await?;
        let inside = "return [document.querySelector('.beginning').textContent, document.querySelector('.type_msg').placeholder]";
        page.wait_for_value(json!(["This is the beginning of Liftoff.", "Message Liftoff"]), inside).await?;
    }
    ann.wait_for_value(json!("Liftoff"), "return document.querySelector('dialog h2').textContent").await?;

    // Cora is removed: gone from the list and the headers, and she hears no more.
    ann.wait_for_value(json!(["ann", "ben", "id-cora"]), MEMBERS).await?;
    ann.click("dialog .members li[data-user='id-cora'] button").await?;
    ann.wait_for_value(json!(["ann", "ben"]), MEMBERS).await?;
    ann.press(Key::Escape).await?;
    ann.wait_for("no dialog", NO_DIALOG).await?;
    for page in [&ann, &ben] {
        page.wait_for_value(json!(["Liftoff", "2 members"]), HEADER).await?;
    }
    let is_out = |frame: &Value| frame["type"] == "group" && frame["change"] == "left";
    cora.wait_for("the end of her membership", ANSWER, is_out).await?;
    say(&ann, "without cora").await?;
    sees(&ben, "without cora").await?;

    // A member may leave, and nothing more; only who is sure leaves.
    ben.click("#room-details").await?;
    ben.wait_for("members", "return document.querySelectorAll('dialog .members li[data-user]').length === 2").await?;
    let offered = ben.eval("return [...document.querySelectorAll('dialog button')].filter((one) => one.offsetParent).map((one) => one.textContent || one.title)").await?;
    assert_eq!(offered, json!(["Close", "Leave group"]));
    ben.click("dialog .actions .danger").await?;
    ben.click("dialog .sure button:not(.danger)").await?;
    ben.click("dialog .actions .danger").await?;
    ben.click("#leave-sure").await?;
    ben.wait_for("no dialog", NO_DIALOG).await?;
    sees(&ben, "You are no longer in Liftoff").await?;
    ben.wait_for_value(json!(["lobby"]), ROOMS).await?;
    ann.wait_for_value(json!(["Liftoff", "1 member"]), HEADER).await?;
    say(&ann, "all alone").await?;
    ann.wait_for("it accepted", "return document.querySelectorAll('.line.own .mark.accepted').length === 4").await?;
    ben.page.refresh().await?;
    sees(&ben, "does not exist, or you are not a member").await?;
    ben.wait_for_value(json!(["lobby"]), ROOMS).await?;
    for unheard in ["without cora", "all alone"] {
        assert!(!cora.bodies(group).iter().any(|body| body == unheard), "cora hears {unheard:?}");
        assert!(!ben.eval("return document.body.textContent").await?.to_string().contains(unheard), "ben sees {unheard:?}");
    }
    tokio::try_join!(ann.close(), ben.close())?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_one_was_removed_from_while_away_is_not_listed_any_more() -> Result<()> {
    let mut cluster = Cluster::builder().start().await?;
    let ben = Browser::start("removed-ben").await?;
    come_in(&ben, "ben", cluster.gateway(1)).await?;
    let ann = User::named("ann").token();
    let made = done(&cluster, 0, &ann, Method::POST, "groups", json!({"display_name": "Launch", "members": ["ben"]})).await?;
    let group = made["id"].as_str().context("an id")?;
    open_room(&ben, "Launch").await?;
    cluster.gateways[1].process.kill()?;
    ben.wait_for("that it is away", "return document.body.dataset.state !== 'ready'").await?;
    done(&cluster, 0, &ann, Method::DELETE, &format!("groups/{group}/members/ben"), json!({})).await?;
    cluster.gateways[1].process.start_again()?;
    cluster.wait_ready().await?;
    ben.eval("document.getElementById('reconnect').click()").await?;
    sees(&ben, "You are no longer in Launch").await?;
    ben.wait_for_value(json!(["lobby"]), ROOMS).await?;
    ben.close().await
}

/// Keeps back what the API answers to what asks for a room.
const HOLD: &str = "window.held = [];
    window.taken = 0;
    const real = window.fetch;
    window.fetch = async (path, how) => {
        const answer = await real(path, how);
        if (how.method === 'POST') {
            await new Promise((go) => window.held.push(go));
            const json = answer.json.bind(answer);
            answer.json = async () => {
                const taken = await json();
                // Once the page has done with it what it does.
                setTimeout(() => { window.taken += 1; }, 50);
                return taken;
            };
        }
        return answer;
    };";

#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_is_answered_late_does_not_take_the_place_of_one_asked_for_since() -> Result<()> {
    let cluster = Cluster::builder().gateways(1).start().await?;
    let (cora, dora) = (User::named("cora"), User::named("dora"));
    let _both = tokio::try_join!(Client::connect(cluster.gateway(0), &cora), Client::connect(cluster.gateway(0), &dora))?;
    let ann = Browser::start("late-ann").await?;
    come_in(&ann, "ann", cluster.gateway(0)).await?;
    tokio::try_join!(lists(&ann, "id-cora"), lists(&ann, "id-dora"))?;
    ann.eval(HOLD).await?;
    for (user, asked) in [("cora", 1), ("dora", 2)] {
        ann.eval(&format!("document.querySelector('#user_id-{user} button').click()")).await?;
        ann.wait_for_value(json!(asked), "return window.held.length").await?;
    }
    // The later one is answered first, and stays.
    ann.eval("window.held.pop()()").await?;
    ann.wait_for_value(json!("Dora"), "return document.querySelector('.room_name')?.textContent").await?;
    ann.eval("window.held.pop()()").await?;
    ann.wait_for_value(json!(2), "return window.taken").await?;
    ann.wait_for_value(json!(["Cora", "Dora", "lobby"]), ROOMS).await?;
    assert_eq!(ann.eval("return document.querySelector('.room_name')?.textContent").await?, "Dora");
    ann.close().await
}
