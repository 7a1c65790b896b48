//! A page written for the original chat room, in Chromium, behind a customer's own web server, each
//! user on another gateway.

use std::{collections::HashMap, net::SocketAddr};

use anyhow::{Context, Result};
use natter_tests::{
    browser::Browser,
    cluster::{Cluster, Store},
    customer::Customer,
    http::HttpSession,
};
use serde_json::{Value, json};

const PAGE: &str = include_str!("../fixtures/original_room.html");
const SCRIPT: &str = include_str!("../fixtures/original_room.js");

/// The customer's page for a user who may write to `other`.
async fn customer(gateway: SocketAddr, other: &str, greeting: &str) -> Result<Customer> {
    let jquery = ["/usr/share/javascript/jquery/jquery.min.js", "/usr/share/nodejs/jquery/dist/jquery.min.js"];
    let jquery = jquery.iter().find_map(|path| std::fs::read(path).ok()).context("jQuery: install libjs-jquery")?;
    let users = format!(r#"<li id="user_{other}" class="other_user" data-greeting="{greeting}">{other}</li>"#);
    let page = PAGE.replace("{{users}}", &users).replace("{{room}}", "lobby");
    let files = HashMap::from([
        ("/room/".to_owned(), ("text/html; charset=utf-8", page.into_bytes())),
        ("/static/jquery.min.js".to_owned(), ("text/javascript", jquery)),
        ("/static/original_room.js".to_owned(), ("text/javascript", SCRIPT.as_bytes().to_vec())),
    ]);
    Customer::start(gateway, files).await
}

/// A signed-in user on the customer's page, with the socket open.
async fn enter(name: &str, customer: &Customer) -> Result<Browser> {
    let browser = Browser::start(&format!("original-{name}")).await?;
    let base = format!("http://{}", customer.addr);
    browser.sign_in(&base, name).await?;
    browser.goto(&format!("{base}/room/")).await?;
    browser.wait_for("the socket", "return opened").await?;
    Ok(browser)
}

/// The first frame received that has this message.
async fn frame(browser: &Browser, message: &str) -> Result<Value> {
    let script = format!("return received.find(text => text.includes({})) || null", json!(message));
    let text = browser.wait_for(message, &script).await?;
    Ok(serde_json::from_str(text.as_str().context("a text")?)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_original_page_works_unchanged_on_two_gateways() -> Result<()> {
    let cluster = Cluster::builder().store(Store::Postgres).start().await?;
    let at_ann = customer(cluster.gateway(0), "ben", "hello from ann").await?;
    let at_ben = customer(cluster.gateway(1), "ann", "hello from ben").await?;
    let (ann, ben) = tokio::try_join!(enter("ann", &at_ann), enter("ben", &at_ben))?;

    // Both click on each other at the same moment; each page speaks as soon as it has the group.
    let click = "document.querySelector('.other_user').click()";
    tokio::try_join!(ann.eval(click), ben.eval(click))?;
    let (to_ben, to_ann) = tokio::try_join!(frame(&ben, "hello from ann"), frame(&ann, "hello from ben"))?;
    let group = to_ben["group_name"].as_str().context("a group")?.to_owned();
    assert_eq!(to_ann["group_name"], json!(group), "one group");
    for (frame, message) in [(&to_ben, "hello from ann"), (&to_ann, "hello from ben")] {
        let display_name = frame["display_name"].as_str().context("a display name")?;
        assert_eq!(*frame, json!({"type": "chat", "message": message, "group_name": group, "display_name": display_name}));
    }
    let sql = cluster.sql().await?;
    assert_eq!(sql.count("SELECT COUNT(*) FROM groups WHERE kind = 'single'").await?, 1);

    // Typed into the room's field, as a person does.
    let write = format!(
        "const field = $('#display_room_{group} .type_msg').val('typed <i>text</i>');
         field.trigger($.Event('keyup', {{keyCode: 13}}));"
    );
    ann.eval(&write).await?;
    assert_eq!(frame(&ben, "typed <i>text</i>").await?["group_name"], json!(group));
    let drawn = format!("return $('#display_room_{group} .msg_card_body').text().includes('typed <i>text</i>')");
    ben.wait_for("the line", &drawn).await?;
    let own = "return received.filter(text => text.includes('typed')).length === 0";
    ann.wait_for("nothing back to the sender", own).await?;

    // Notifications, one each way.
    for (page, to, message) in [(&ann, "ben", "look, ben"), (&ben, "ann", "look, ann")] {
        let notify =
            format!("$('#user-input').val('{to}'); $('#chat-message-input').val('{message}'); $('#notification-message-submit').click();");
        page.eval(&notify).await?;
    }
    let (to_ben, to_ann) = tokio::try_join!(frame(&ben, "look, ben"), frame(&ann, "look, ann"))?;
    let id = to_ben["id"].as_str().context("an id")?.to_owned();
    assert_eq!(to_ben, json!({"type": "notification", "message": "look, ben", "id": id}));
    super::chat::wait_until("the row", async || {
        let rows = sql.rows("SELECT id FROM notifications WHERE recipient = 'ben'").await.unwrap_or_default();
        rows.iter().any(|row| row.try_get::<uuid::Uuid>("", "id").is_ok_and(|row| row.to_string() == id))
    })
    .await;

    // Ann marks hers seen, and tries Ben's too.
    let clean = format!("cleanSeen([{}, {}])", to_ann["id"], json!(id));
    ann.eval(&clean).await?;
    let gone = format!("return $('#notification_{}').is('.list-group-item-primary') === false", to_ann["id"].as_str().context("an id")?);
    ann.wait_for("Clean_Seen's success", &gone).await?;
    let is_unseen = async |gateway, name: &str, id: &Value| -> Result<bool> {
        let page = HttpSession::signed_in(gateway, name).await?.page("/chat/lobby/").await?;
        let item = page.split('<').find(|tag| tag.contains(&format!("notification_{}", id.as_str().unwrap_or_default())));
        Ok(item.context("on the page")?.contains("list-group-item-primary"))
    };
    assert!(!is_unseen(cluster.gateway(0), "ann", &to_ann["id"]).await?, "seen on the next page");
    assert!(is_unseen(cluster.gateway(1), "ben", &to_ben["id"]).await?, "Ben's own is his");
    ben.eval("$('#clean-seen').click()").await?;
    ben.wait_for("his own Clean_Seen", "return $('.list-group-item-primary').length === 0").await?;
    assert!(!is_unseen(cluster.gateway(1), "ben", &to_ben["id"]).await?);

    for browser in [&ann, &ben] {
        let errors = browser.eval("return received.filter(text => !text.startsWith('{') || text.includes('\"error\"'))").await?;
        assert_eq!(errors, json!([]), "no mistakes");
        browser.screenshot("end").await?;
    }
    tokio::try_join!(ann.close(), ben.close())?;
    Ok(())
}
