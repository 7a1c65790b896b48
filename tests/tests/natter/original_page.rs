//! A page written for the original chat room, a Django template with its script, in Chromium, each user
//! on another gateway: rendered by a customer's Django and served by their own web server, and the very
//! same file from `http.pages_dir`.

use std::{collections::HashMap, net::SocketAddr};

use anyhow::{Context, Result};
use natter_tests::{
    browser::Browser,
    cluster::{Cluster, Store},
    customer::Customer,
    django,
    http::HttpSession,
    process::Folder,
    sql::Sql,
};
use serde_json::{Value, json};

const PAGE: &str = include_str!("../fixtures/original_room.html");
const SCRIPT: &str = include_str!("../fixtures/original_room.js");

/// jQuery, as Debian has it.
fn jquery() -> Result<Vec<u8>> {
    let paths = ["/usr/share/javascript/jquery/jquery.min.js", "/usr/share/nodejs/jquery/dist/jquery.min.js"];
    paths.iter().find_map(|path| std::fs::read(path).ok()).context("jQuery: install libjs-jquery")
}

/// The customer's page for `user`, who may write to `other`, as their Django renders it.
async fn customer(gateway: SocketAddr, user: &str, other: &str) -> Result<Customer> {
    let values = json!({"room": "lobby", "user": {"username": user}, "users": [{"id": other, "username": other}]});
    let files = HashMap::from([
        ("/room/".to_owned(), ("text/html; charset=utf-8", django::render(PAGE, &values)?.into_bytes())),
        ("/static/jquery.min.js".to_owned(), ("text/javascript", jquery()?)),
        ("/static/original_room.js".to_owned(), ("text/javascript", SCRIPT.as_bytes().to_vec())),
    ]);
    Customer::start(gateway, files).await
}

/// A signed-in user at `base`.
async fn signed_in(name: &str, base: &str) -> Result<Browser> {
    let browser = Browser::start(&format!("original-{name}")).await?;
    browser.sign_in(base, name).await?;
    Ok(browser)
}

/// The page, with the socket open.
async fn enter(browser: &Browser, base: &str, page: &str) -> Result<()> {
    browser.goto(&format!("{base}{page}")).await?;
    browser.wait_for("the socket", "return opened").await?;
    Ok(())
}

/// The first frame received that has this message.
async fn frame(browser: &Browser, message: &str) -> Result<Value> {
    let script = format!("return received.find(text => text.includes({})) || null", json!(message));
    let text = browser.wait_for(message, &script).await?;
    Ok(serde_json::from_str(text.as_str().context("a text")?)?)
}

/// All that the page does, by the two of them; returns the notifications' frames to Ann and to Ben.
async fn chat_and_notify(ann: &Browser, ben: &Browser, sql: &Sql) -> Result<(Value, Value)> {
    // Both click on each other at the same moment; each page speaks as soon as it has the group.
    let click = "document.querySelector('.other_user').click()";
    tokio::try_join!(ann.eval(click), ben.eval(click))?;
    let (to_ben, to_ann) = tokio::try_join!(frame(ben, "hello from ann"), frame(ann, "hello from ben"))?;
    let group = to_ben["group_name"].as_str().context("a group")?.to_owned();
    assert_eq!(to_ann["group_name"], json!(group), "one group");
    for (frame, message) in [(&to_ben, "hello from ann"), (&to_ann, "hello from ben")] {
        let display_name = frame["display_name"].as_str().context("a display name")?;
        assert_eq!(*frame, json!({"type": "chat", "message": message, "group_name": group, "display_name": display_name}));
    }
    assert_eq!(sql.count("SELECT COUNT(*) FROM groups WHERE kind = 'single'").await?, 1);

    // Typed into the room's field, as a person does.
    let write = format!(
        "const field = $('#display_room_{group} .type_msg').val('typed <i>text</i>');
         field.trigger($.Event('keyup', {{keyCode: 13}}));"
    );
    ann.eval(&write).await?;
    assert_eq!(frame(ben, "typed <i>text</i>").await?["group_name"], json!(group));
    let drawn = format!("return $('#display_room_{group} .msg_card_body').text().includes('typed <i>text</i>')");
    ben.wait_for("the line", &drawn).await?;
    let own = "return received.filter(text => text.includes('typed')).length === 0";
    ann.wait_for("nothing back to the sender", own).await?;

    // Notifications, one each way.
    for (page, to, message) in [(ann, "ben", "look, ben"), (ben, "ann", "look, ann")] {
        let notify =
            format!("$('#user-input').val('{to}'); $('#chat-message-input').val('{message}'); $('#notification-message-submit').click();");
        page.eval(&notify).await?;
    }
    let (to_ben, to_ann) = tokio::try_join!(frame(ben, "look, ben"), frame(ann, "look, ann"))?;
    let id = to_ben["id"].as_str().context("an id")?.to_owned();
    assert_eq!(to_ben, json!({"type": "notification", "message": "look, ben", "id": id}));
    super::chat::wait_until("the row", async || {
        let rows = sql.rows("SELECT id FROM notifications WHERE recipient = 'ben'").await.unwrap_or_default();
        rows.iter().any(|row| row.try_get::<uuid::Uuid>("", "id").is_ok_and(|row| row.to_string() == id))
    })
    .await;
    Ok((to_ann, to_ben))
}

/// Nothing went wrong that only the page saw.
async fn assert_no_mistakes(browsers: [&Browser; 2]) -> Result<()> {
    for browser in browsers {
        let errors = browser.eval("return received.filter(text => !text.startsWith('{') || text.includes('\"error\"'))").await?;
        assert_eq!(errors, json!([]), "no mistakes");
        browser.screenshot("end").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_original_page_works_unchanged_on_two_gateways() -> Result<()> {
    let cluster = Cluster::builder().store(Store::Postgres).start().await?;
    let at_ann = customer(cluster.gateway(0), "ann", "ben").await?;
    let at_ben = customer(cluster.gateway(1), "ben", "ann").await?;
    let [base_ann, base_ben] = [&at_ann, &at_ben].map(|customer| format!("http://{}", customer.addr));
    let (ann, ben) = tokio::try_join!(signed_in("ann", &base_ann), signed_in("ben", &base_ben))?;
    tokio::try_join!(enter(&ann, &base_ann, "/room/"), enter(&ben, &base_ben, "/room/"))?;
    let (to_ann, to_ben) = chat_and_notify(&ann, &ben, &cluster.sql().await?).await?;

    // Ann marks hers seen, and tries Ben's too.
    let clean = format!("cleanSeen([{}, {}])", to_ann["id"], to_ben["id"]);
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

    assert_no_mistakes([&ann, &ben]).await?;
    tokio::try_join!(ann.close(), ben.close())?;
    Ok(())
}

/// The same file, where a team puts it for the gateways to serve.
#[tokio::test(flavor = "multi_thread")]
async fn the_very_same_file_works_from_the_folder_of_pages() -> Result<()> {
    let folder = Folder::new()?;
    std::fs::create_dir(folder.path().join("static"))?;
    let files = [
        ("chat.html", PAGE.as_bytes().to_vec()),
        ("static/original_room.js", SCRIPT.as_bytes().to_vec()),
        ("static/jquery.min.js", jquery()?),
    ];
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content)?;
    }
    let dir = folder.path().display().to_string();
    let cluster = Cluster::builder().store(Store::Postgres).env("NATTER_HTTP__PAGES_DIR", &dir).start().await?;
    let [base_ann, base_ben] = [0, 1].map(|gateway| format!("http://{}", cluster.gateway(gateway)));
    // Both are known before either's page lists the others.
    let (ann, ben) = tokio::try_join!(signed_in("ann", &base_ann), signed_in("ben", &base_ben))?;
    tokio::try_join!(enter(&ann, &base_ann, "/chat/lobby/"), enter(&ben, &base_ben, "/chat/lobby/"))?;
    for browser in [&ann, &ben] {
        // Whoever came first may have been listed before the other one was in SQL.
        if browser.eval("return document.querySelector('.other_user')").await?.is_null() {
            browser.page.refresh().await?;
            browser.wait_for("the other user", "return opened && document.querySelector('.other_user')").await?;
        }
    }
    let sql = cluster.sql().await?;
    let (to_ann, _) = chat_and_notify(&ann, &ben, &sql).await?;
    ann.eval("$('#clean-seen').click()").await?;
    let gone = format!("return $('#notification_{}').is('.list-group-item-primary') === false", to_ann["id"].as_str().context("an id")?);
    ann.wait_for("Clean_Seen's success", &gone).await?;
    let seen = "SELECT COUNT(*) FROM inbox_state WHERE recipient = 'ann' AND seen";
    super::chat::wait_until("the mark", async || sql.count(seen).await.is_ok_and(|count| count == 1)).await;
    assert_no_mistakes([&ann, &ben]).await?;
    tokio::try_join!(ann.close(), ben.close())?;
    Ok(())
}
