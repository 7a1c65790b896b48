//! What must not be told: tokens and texts in logs; and what is not for everybody looks like what is
//! not there.

use anyhow::{Context, Result};
use natter_shared::id::Nonce;
use natter_tests::{
    client::{Client, RequestError},
    cluster::Cluster,
    http::HttpSession,
    token::User,
};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn no_log_has_a_token_or_a_text_however_much_is_logged() -> Result<()> {
    let cluster = Cluster::builder().gateways(1).env("NATTER_TELEMETRY__FILTER", "trace,hyper=trace").start().await?;
    let gateway = cluster.gateway(0);
    let (ann, ben) = (Client::connect(gateway, &User::named("ann")).await?, Client::connect(gateway, &User::named("ben")).await?);
    let group = ann.join("lobby").await?;
    ben.join("lobby").await?;
    ann.send(group, "a-text-that-nobody-logs").await?;
    ben.wait_for_body("a-text-that-nobody-logs").await?;
    let notify = json!({"type": "notify", "to": {"user": "id-ben"}, "nonce": Nonce::now(), "body": "a-notice-that-nobody-logs"});
    ann.request(notify).await?;
    // What goes wrong is logged more than what goes well.
    let forged = format!("{}x", ann.user.token());
    let _ = Client::with_token(&User::named("eve"), forged.clone()).reconnect(gateway).await;
    let _ = ann.request(json!({"type": "send", "group": group, "nonce": "x", "body": "a-mistake-that-nobody-logs"})).await;
    let session = HttpSession::signed_in(gateway, "cleo").await?;
    session.post_form("/chat/lobby/", &[("type", "Clean_Seen"), ("seen_id[]", "a-field-that-nobody-logs")]).await?;
    let key = cluster.api_key("logs")?;
    let _ = reqwest::Client::new().get(format!("http://{gateway}/api/v1/server/users/ann")).bearer_auth(&key).send().await?;
    let cookie = session.cookie.clone().context("a cookie")?;
    let secrets = [
        ann.user.token(),
        forged,
        session.token.clone().context("a token")?,
        cookie.trim_start_matches("natter_session=").to_owned(),
        key,
        natter_tests::token::SECRET.to_owned(),
        "nobody-logs".to_owned(),
    ];
    for (name, log) in [("gateway", cluster.gateways[0].process.log()), ("persister", cluster.persisters[0].process.log())] {
        assert!(log.contains("DEBUG"), "the {name} logs little: {}", log.len());
        for secret in &secrets {
            // A token's signature alone is as good as the token to who has the rest.
            let part = secret.rsplit('.').next().unwrap_or(secret);
            let line = log.lines().find(|line| line.contains(part));
            assert!(line.is_none(), "the {name} logs {part}: {line:?}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_forbidden_looks_like_what_is_not_there() -> Result<()> {
    let cluster = Cluster::builder().gateways(1).start().await?;
    let gateway = cluster.gateway(0);
    let (ann, mallory) = (Client::connect(gateway, &User::named("ann")).await?, Client::connect(gateway, &User::named("mallory")).await?);
    let secret = ann.join("secret-room").await?.to_string();
    let nowhere = uuid::Uuid::now_v7().to_string();
    let refusal = async |frame: Value| match mallory.request(frame).await {
        Err(RequestError::Refused(mut error)) => {
            error["id"] = Value::Null;
            error
        }
        other => panic!("{other:?}"),
    };
    for frame in [
        json!({"type": "send", "nonce": Nonce::now(), "body": "x"}),
        json!({"type": "history"}),
        json!({"type": "read", "position": "1.1"}),
        json!({"type": "notify", "nonce": Nonce::now(), "body": "x"}),
    ] {
        let of = |group: &str| {
            let mut frame = frame.clone();
            let (key, value) = if frame["type"] == "notify" { ("to", json!({"group": group})) } else { ("group", json!(group)) };
            frame[key] = value;
            frame
        };
        assert_eq!(refusal(of(&secret)).await, refusal(of(&nowhere)).await, "{frame}");
    }
    // Over HTTP, too: status, headers but for the time, body.
    let session = HttpSession::signed_in(gateway, "mallory").await?;
    for path in ["", "/members", "/messages"] {
        let look = async |group: &str| -> Result<(u16, String)> {
            let answer = session.get(&format!("/api/v1/groups/{group}{path}")).await?;
            Ok((answer.status().as_u16(), answer.text().await?))
        };
        let (forbidden, absent) = (look(&secret).await?, look(&nowhere).await?);
        assert_eq!(forbidden, absent, "{path}");
        assert_eq!(absent.0, 404, "{path}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sender_time_and_ids_are_the_servers_whatever_a_client_says() -> Result<()> {
    let cluster = Cluster::builder().gateways(1).start().await?;
    let mallory = Client::connect(cluster.gateway(0), &User::named("mallory")).await?;
    let group = mallory.join("lobby").await?;
    let nonce = Nonce::now();
    let frame = json!({
        "type": "send", "group": group, "nonce": nonce, "body": "as somebody else",
        "sender": "id-ann", "sent_at": "2001-01-01T00:00:00.000Z", "message_id": uuid::Uuid::nil(), "position": "9.9", "user": "id-ann",
    });
    let reply = mallory.request(frame).await?;
    let message = mallory.wait_for_body("as somebody else").await?;
    assert_eq!(message["sender"].as_str().or(message["sender"]["id"].as_str()), Some("id-mallory"), "{message}");
    assert!(message["sent_at"].as_str().is_some_and(|at| !at.starts_with("2001")), "{message}");
    assert_eq!(reply["message_id"], json!(mallory.message_id(nonce)));
    assert_ne!(reply["position"], "9.9");
    Ok(())
}
