//! docs/django-example against the real Natter: Django signs its users in, they chat in Chromium,
//! and a Django view notifies one of them. Beside the standalone process, on two ports; and with a
//! cluster behind one host.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use natter_tests::{
    browser::Browser,
    cluster::{Cluster, Store},
    django::{self, Django},
    nginx,
    node::Node,
    process::{Folder, binary, command, free_port},
    sql::Sql,
    standalone::Standalone,
    token::SECRET,
};
use serde_json::{Value, json};

const IS_OPEN: &str = "return chatSocket !== null && chatSocket.readyState === 1";

async fn say(browser: &Browser, text: &str) -> Result<()> {
    let say = format!(
        "document.querySelector('#chat-message-input').value = '{text}';
         document.querySelector('#chat-message-submit').click();"
    );
    browser.eval(&say).await.map(drop)
}

async fn sees(browser: &Browser, text: &str) -> Result<()> {
    browser.wait_for(text, &format!("return document.querySelector('#chat-log').value.includes('{text}')")).await.map(drop)
}

/// Both say something that the other one sees.
async fn chat(ann: &Browser, ben: &Browser) -> Result<()> {
    for (from, to, text) in [(ann, ben, "hello ben"), (ben, ann, "hello ann")] {
        say(from, text).await?;
        sees(to, text).await?;
    }
    Ok(())
}

/// Posts to a view of Django's as its page would; the status, once redirects are followed.
async fn post(browser: &Browser, path: &str) -> Result<Value> {
    let post = format!(
        "const done = arguments[0];
        const csrf = document.cookie.split('; ').find(one => one.startsWith('django_csrftoken=')).split('=')[1];
        fetch('{path}', {{method: 'POST', headers: {{'X-CSRFToken': csrf}}}}).then(a => done(a.status), e => done(String(e)));"
    );
    Ok(browser.page.execute_async(&post, Vec::new()).await?)
}

/// A view of Django's tells Ben something: live, and in his inbox.
async fn greet(ann: &Browser, ben: &Browser, django: &Django, sql: &Sql) -> Result<()> {
    assert_eq!(post(ann, "/greet/ben/").await?, json!(200), "{}", django.process.log());
    ben.wait_for("the notification", "return document.querySelector('#notification-list').textContent.includes('ann says hello')").await?;
    super::chat::wait_until("the inbox", async || {
        sql.count("SELECT COUNT(*) FROM notifications WHERE recipient = 'django-2'").await.is_ok_and(|count| count == 1)
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_django_users_chat_and_are_notified() -> Result<()> {
    // Django has to know Natter's address, and Natter Django's: Django's is given out first.
    let port = free_port();
    let origin = format!("http://127.0.0.1:{port}");
    let env = [("NATTER_AUTH__SECRET", SECRET), ("NATTER_AUTH__DEV_LOGIN", "false"), ("NATTER_HTTP__ALLOWED_ORIGINS", &origin)];
    let mut natter = Standalone::start(&env).await?;
    let url = format!("http://{}", natter.node.addr);
    let key = api_key(&natter)?;
    let django = Django::start(port, &url, &url, &key).await?;
    django.change("ben", "user.first_name, user.last_name = 'Ben', 'Bernard'; user.save()")?;
    let (ann, ben) = tokio::try_join!(django::enter("ann", &origin), django::enter("ben", &origin))?;
    chat(&ann, &ben).await?;
    let sql = natter.sql().await?;
    greet(&ann, &ben, &django, &sql).await?;
    // Whatever names Django allows; and what the token said stays.
    let long = "x".repeat(100);
    django.change(&long, "pass")?;
    assert_eq!(post(&ann, &format!("/greet/{long}/")).await?, json!(200), "{}", django.process.log());
    for (id, handle, name) in [("django-2", "ben", "Ben Bernard"), ("django-3", "django-3", &long[..64])] {
        let wanted = format!("SELECT COUNT(*) FROM users WHERE id = '{id}' AND handle = '{handle}' AND display_name = '{name}'");
        assert_eq!(sql.count(&wanted).await?, 1, "{wanted}");
    }
    drop(sql);

    // What cannot be sent does not look as if it were, and goes when the page is back.
    natter.node.process.kill()?;
    ann.wait_for("the end of the socket", "return chatSocket.readyState === 3").await?;
    say(&ann, "once more").await?;
    let kept =
        "return [document.querySelector('#chat-message-input').value, document.querySelector('#chat-log').value.includes('once more')]";
    assert_eq!(ann.eval(kept).await?, json!(["once more", false]));
    // A page that is loaded meanwhile signs in once it can.
    ben.goto(&format!("{origin}/room/lobby/")).await?;
    ben.eval("window.isSame = true").await?;
    natter.node.process.start_again()?;
    natter.node.wait_ready().await?;
    for browser in [&ann, &ben] {
        browser.wait_for("the socket", IS_OPEN).await?;
    }
    ann.eval("document.querySelector('#chat-message-submit').click()").await?;
    sees(&ben, "once more").await?;
    assert_eq!(ben.eval(IS_SAME).await?, json!(true));
    ben.screenshot("end").await?;

    ben.eval(NOTE_CLOSE).await?;
    django.change("ben", "user.is_active = False; user.save()")?;
    ben.wait_for_value(json!(4403), "return window.closedWith").await?;
    // A stale copy of him is saved as Django does when somebody signs in.
    django.change("ben", "user.is_active = True; user.save(update_fields=['last_login'])")?;
    ben.goto(&format!("{origin}/room/lobby/")).await?;
    ben.wait_for_value(json!("/accounts/login/"), "return location.pathname").await?;
    assert_eq!(blocked(&natter).await?, 1);
    django.change("ben", "user.is_active = True; user.save()")?;
    ben.goto(&format!("{origin}/room/lobby/")).await?;
    ben.wait_for("the socket", IS_OPEN).await?;
    // Who signs up, and confirms later, by a change that is rolled back first.
    django.change("eve", "user.delete(); user = type(user)(username='cleo', is_active=False); user.save()")?;
    django.change("cleo", "user.is_active = True; user.save()")?;
    let rolled_back = "from django.db import transaction
with transaction.atomic():
    user.is_active = False; user.save()
    transaction.set_rollback(True)";
    django.change("cleo", rolled_back)?;
    assert_eq!(blocked(&natter).await?, 1, "eve, who is deleted");
    // Through a proxy of the user model, as an application may have one.
    let by_proxy = |change: &str| {
        format!(
            "Meta = type('Meta', (), {{'proxy': True, 'app_label': 'chatsite'}})
Staff = type('Staff', (type(user),), {{'__module__': 'chatsite', 'Meta': Meta}})
user = Staff.objects.get(pk=user.pk)
{change}"
        )
    };
    for (change, wanted) in [("user.is_active = False; user.save()", 2), ("user.is_active = True; user.save()", 1), ("user.delete()", 2)] {
        django.change("cleo", &by_proxy(change))?;
        assert_eq!(blocked(&natter).await?, wanted, "by a proxy: {change}");
    }

    ben.eval(NOTE_CLOSE).await?;
    django.change("ben", "user.delete()")?;
    ben.wait_for_value(json!(4403), "return window.closedWith").await?;
    stays(&ann, &origin, &natter, &key).await?;
    tokio::try_join!(ann.close(), ben.close())?;
    Ok(())
}

/// How many are blocked.
async fn blocked(natter: &Standalone) -> Result<i64> {
    natter.sql().await?.count("SELECT COUNT(*) FROM standings WHERE blocked_at IS NOT NULL").await
}

/// Ann is blocked, by others than Django: her page says so, and does not load itself again and again.
async fn stays(ann: &Browser, origin: &str, natter: &Standalone, key: &str) -> Result<()> {
    let block = format!("http://{}/api/v1/server/users/django-1/block", natter.node.addr);
    let answer = reqwest::Client::new().post(block).bearer_auth(key).header("Idempotency-Key", "block").json(&json!({})).send().await?;
    ensure!(answer.status().is_success(), "{answer:?}");
    ann.goto(&format!("{origin}/room/lobby/")).await?;
    ann.eval("window.isSame = true").await?;
    sees(ann, "does not let you in: 403").await?;
    // Longer than the longest pause before it did.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(ann.eval(IS_SAME).await?, json!(true));
    Ok(())
}

/// Whether the page has not been loaded again.
const IS_SAME: &str = "return window.isSame === true";

/// Has the page remember what its socket is closed with.
const NOTE_CLOSE: &str = "chatSocket.addEventListener('close', event => { window.closedWith = event.code; })";

/// A key of the server API, made as an operator does.
fn api_key(natter: &Standalone) -> Result<String> {
    let mut made = command(&binary("natter"));
    let output = made.args(["apikey", "create", "--name", "django"]).env("NATTER_DATA_DIR", &natter.data).output()?;
    ensure!(output.status.success(), "apikey: {}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout)?;
    Ok(said.split_whitespace().find(|word| word.starts_with("ntr_")).context("a key")?.to_owned())
}

/// How many sockets a gateway has now.
async fn sockets(gateway: &Node) -> Result<u64> {
    let now = gateway.metric("natter_gateway_connections").await?;
    Ok(now.context("natter_gateway_connections")? as u64)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_works_with_a_cluster_behind_one_host() -> Result<()> {
    let folder = Folder::new()?;
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let site = format!("http://{addr}");
    let cluster = Cluster::builder()
        .store(Store::Postgres)
        .env("NATTER_HTTP__PUBLIC_URL", &site)
        .env("NATTER_HTTP__TRUSTED_PROXIES", "127.0.0.0/8")
        .env("NATTER_AUTH__DEV_LOGIN", "false")
        // What the example's tokens are of, as by default.
        .env("NATTER_AUTH__ISSUER", "natter")
        .env("NATTER_AUTH__AUDIENCE", "natter")
        .start()
        .await?;
    // Django's server asks a gateway, its users' browsers the one host.
    let api = format!("http://{}", cluster.gateway(1));
    let django = Django::start(free_port(), &site, &api, &cluster.api_key("django")?).await?;
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/django-example/nginx.conf");
    let places = [
        ("gateway-1:8080", cluster.gateway(0).to_string()),
        ("gateway-2:8080", cluster.gateway(1).to_string()),
        ("django:8000", django.url.replace("http://", "")),
    ];
    let proxy = Node::new(nginx::start(&config, folder.path(), addr, &places)?, addr);
    super::chat::wait_until("the proxy", async || proxy.status("/accounts/login/").await == Some(200)).await;
    assert_eq!(proxy.status("/api/v1/server/groups").await, Some(404), "the server API is not for everybody");
    assert_eq!(proxy.status("/metrics").await, Some(404), "Django has none, and Natter's are for who is inside");

    let (ann, ben) = tokio::try_join!(django::enter("ann", &site), django::enter("ben", &site))?;
    assert_eq!([sockets(&cluster.gateways[0]).await?, sockets(&cluster.gateways[1]).await?], [1, 1], "each on another gateway");
    chat(&ann, &ben).await?;
    greet(&ann, &ben, &django, &cluster.sql().await?).await?;
    ben.screenshot("cluster").await?;

    // Whom Django signed in, Natter's own page on the same host knows, with what was said.
    ann.goto(&format!("{site}/chat/lobby/")).await?;
    ann.wait_for("Natter's page", "return document.body.innerText.includes('hello ann')").await?;
    ann.screenshot("natters-page").await?;
    // And Django's forms still work beside Natter's cookies.
    ann.goto(&format!("{site}/room/lobby/")).await?;
    ann.wait_for("the socket", IS_OPEN).await?;
    chat(&ben, &ann).await?;
    // Who signs out of Django is signed out of Natter.
    ann.eval(NOTE_CLOSE).await?;
    assert_eq!(post(&ann, "/accounts/logout/").await?, json!(200), "{}", django.process.log());
    ann.wait_for_value(json!(4401), "return window.closedWith").await?;
    ann.goto(&format!("{site}/chat/lobby/")).await?;
    ann.wait_for_value(json!("/sign-in"), "return location.pathname").await?;
    tokio::try_join!(ann.close(), ben.close())?;
    Ok(())
}
