//! PROTOCOL.md as a reader uses it: every example of a client's frame is sent to a live gateway,
//! which does it and answers as the document says.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use anyhow::{Context, Result, bail};
use futures::{SinkExt, StreamExt};
use natter_shared::id::Nonce;
use natter_tests::{
    chatroom::ChatRoom,
    client::{ANSWER, Client},
    cluster::Cluster,
    socket::upgrade_v1,
    token::User,
};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

const DOC: &str = include_str!("../../../PROTOCOL.md");

/// The lobby and the one-to-one group of the examples.
const LOBBY: &str = "5e0f2c7b-1d3a-8f64-9c1e-7b2a90d4e6f8";
const SINGLE: &str = "0d6a8a1c-6f0b-8d51-9a7e-2f6a2c1f9b11";

const KINDS: [&str; 12] = ["connect", "resume", "join", "leave", "send", "notify", "history", "read", "seen", "typing", "refresh", "pong"];

/// The lines of the fenced blocks marked `json <kind>`, each one frame.
fn examples(kind: &str) -> Vec<Value> {
    let fence = format!("```json {kind}");
    let mut found = Vec::new();
    let mut lines = DOC.lines();
    while let Some(line) = lines.next() {
        if line == fence {
            found.extend(lines.by_ref().take_while(|line| *line != "```").map(|line| serde_json::from_str(line).unwrap()));
        }
    }
    assert!(!found.is_empty(), "no examples of {kind}");
    found
}

fn fields(frame: &Value) -> BTreeSet<&str> {
    frame.as_object().unwrap().keys().map(String::as_str).collect()
}

/// A user as in the examples, where id and handle are the same.
fn user(id: &str, name: &str) -> User {
    User { id: id.to_owned(), handle: id.to_owned(), name: name.to_owned() }
}

/// What really exists where the examples have made-up values.
struct World {
    /// Real ids of groups by the examples'.
    groups: BTreeMap<&'static str, String>,
    /// The positions of each group, by what the examples call it, and of the `inbox`.
    positions: BTreeMap<&'static str, Value>,
    message: Value,
    notification: Value,
    token: String,
}

impl World {
    /// Alice and Bob have talked: in the lobby, by themselves, and Bob has notified her.
    async fn meet(gateway: SocketAddr, alice: &User, bob: &Client) -> Result<Self> {
        let a = Client::connect(gateway, alice).await?;
        let lobby = a.join("lobby").await?;
        bob.join("lobby").await?;
        let form = [("type", "Create_Group_Single"), ("user", bob.user.id.as_str())];
        let post = reqwest::Client::new().post(format!("http://{gateway}/chat/lobby/")).bearer_auth(alice.token()).form(&form);
        let made: Value = serde_json::from_str(&post.send().await?.error_for_status()?.text().await?)?;
        let single = made["id"].as_str().context("the group's id")?.to_owned();
        let said = a.send(lobby, "hello").await?;
        let send = json!({"type": "send", "group": single, "nonce": Nonce::now(), "body": "psst"});
        let whispered = a.request(send).await?;
        let notify = json!({"type": "notify", "to": {"user": alice.id}, "nonce": Nonce::now(), "body": "look"});
        let notified = bob.request(notify).await?;
        // All of it is told by now: who connects next is told none of it.
        for body in ["hello", "psst"] {
            bob.wait_for_body(body).await?;
        }
        a.wait_for("the notification", ANSWER, |push| push["type"] == "notification" && push["body"] == "look").await?;
        let positions = [
            ("lobby", json!(said.position)),
            (LOBBY, json!(said.position)),
            (SINGLE, whispered["position"].clone()),
            ("inbox", notified["position"].clone()),
        ];
        Ok(Self {
            groups: BTreeMap::from([(LOBBY, lobby.to_string()), (SINGLE, single)]),
            positions: positions.into(),
            message: json!(said.message),
            notification: notified["notification_id"].clone(),
            token: alice.token(),
        })
    }

    /// The example with real values.
    fn real(&self, example: &Value) -> Value {
        let mut frame = example.clone();
        let of = match frame["type"].as_str() {
            Some("seen") => "inbox",
            _ => example["group"].as_str().unwrap_or_default(),
        };
        for (key, value) in frame.as_object_mut().unwrap() {
            match key.as_str() {
                "token" => *value = json!(self.token),
                "nonce" => *value = json!(Nonce::now()),
                "reply_to" => *value = self.message.clone(),
                "ids" => *value = json!([self.notification]),
                "before" | "after" | "position" | "upto" => *value = self.positions[of].clone(),
                "resume" => {
                    value["groups"] = self.real_positions(&value["groups"]);
                    value["inbox"] = self.positions["inbox"].clone();
                }
                "groups" => *value = self.real_positions(value),
                _ => {}
            }
        }
        let text = self.groups.iter().fold(frame.to_string(), |text, (example, real)| text.replace(example, real));
        serde_json::from_str(&text).unwrap()
    }

    fn real_positions(&self, groups: &Value) -> Value {
        groups.as_object().unwrap().keys().map(|group| (group.clone(), self.positions[group.as_str()].clone())).collect()
    }
}

/// A connection that sends frames as they are.
struct Connection(WebSocketStream<TcpStream>);

impl Connection {
    async fn open(gateway: SocketAddr, user: &User) -> Result<Self> {
        let bearer = format!("Bearer {}", user.token());
        Ok(Self(upgrade_v1(gateway, &[("Authorization", &bearer)]).await?))
    }

    async fn send(&mut self, frame: &Value) -> Result<()> {
        Ok(self.0.send(Message::text(frame.to_string())).await?)
    }

    /// Sends a frame and waits for the answer with its id; an error without one is a mistake too.
    async fn ask(&mut self, frame: &Value) -> Result<Value> {
        self.send(frame).await?;
        loop {
            let message = timeout(ANSWER, self.0.next()).await.with_context(|| format!("no answer to {frame}"))?;
            let message = message.with_context(|| format!("the end after {frame}"))??;
            if let Message::Close(close) = &message {
                bail!("{close:?} after {frame}");
            }
            let answer: Value = serde_json::from_str(message.to_text()?)?;
            match answer["type"].as_str() {
                Some("error") => bail!("{answer} after {frame}"),
                Some("reply" | "ready") if answer["id"] == frame["id"] => return Ok(answer),
                _ => {}
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_of_a_clients_frame_is_done_and_answered_as_shown() -> Result<()> {
    let cluster = Cluster::builder().gateways(1).start().await?;
    let gateway = cluster.gateway(0);
    let alice = user("alice", "Alice");
    let bob = Client::connect(gateway, &user("bob", "Bob")).await?;
    let world = World::meet(gateway, &alice, &bob).await?;
    let shown = examples("server");
    let shown_answer = |kind: &str, id: &Value| shown.iter().find(|answer| answer["type"] == kind && answer["id"] == *id);
    let mut connection = Connection::open(gateway, &alice).await?;
    connection.ask(&json!({"type": "connect", "id": 0})).await?;
    let mut run = BTreeSet::new();
    let mut compared = 0;
    for example in examples("client") {
        let kind = example["type"].as_str().context("a type")?.to_owned();
        let frame = world.real(&example);
        let answer = if kind == "connect" {
            let ready = Connection::open(gateway, &alice).await?.ask(&frame).await?;
            assert_eq!(ready["type"], "ready", "{ready}");
            Some(ready)
        } else {
            // One example leaves it.
            let lobby = json!({"type": "join", "id": 1000, "group": "lobby"});
            connection.ask(&lobby).await?;
            let answer = if frame.get("id").is_some() {
                Some(connection.ask(&frame).await?)
            } else {
                connection.send(&frame).await?;
                None
            };
            // What has no id of its own may have one, so that a mistake shows.
            if answer.is_none() && !["pong", "typing"].contains(&kind.as_str()) {
                let mut with_id = world.real(&example);
                with_id["id"] = json!(1001);
                connection.ask(&with_id).await?;
            }
            connection.ask(&lobby).await?;
            answer
        };
        if let Some(answer) = answer {
            let shown = shown_answer(answer["type"].as_str().unwrap_or_default(), &example["id"]);
            if let Some(shown) = shown {
                assert_eq!(fields(&answer), fields(shown), "{answer} to {frame}");
                compared += 1;
            }
        }
        run.insert(kind);
    }
    assert_eq!(run, KINDS.map(str::to_owned).into());
    assert!(compared >= 7, "only {compared} answers are shown in the document");
    let typing = |push: &Value| push["type"] == "typing" && push["user"] == "alice";
    bob.wait_for("typing", ANSWER, typing).await?;
    for body in ["Good morning", "Morning!"] {
        bob.wait_for_body(body).await?;
    }
    for body in ["Lunch at noon?", "The lobby moves on Monday"] {
        bob.wait_for(body, ANSWER, |push| push["type"] == "notification" && push["body"] == body).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_of_a_chat_rooms_page_is_done() -> Result<()> {
    let cluster = Cluster::builder().gateways(1).start().await?;
    let gateway = cluster.gateway(0);
    let alice = user("alice", "Alice");
    let bob = Client::connect(gateway, &user("bob", "Bob")).await?;
    let world = World::meet(gateway, &alice, &bob).await?;
    let mut alices = ChatRoom::open(gateway, &alice, "lobby").await?;
    let mut bobs = ChatRoom::open(gateway, &bob.user, "lobby").await?;
    let shown = examples("chat-server");
    for example in examples("chat-client") {
        alices.send_text(&world.real(&example).to_string()).await?;
        let heard = bobs.next(ANSWER).await?;
        assert_eq!((&heard["type"], &heard["message"]), (&example["type"], &example["message"]), "{heard}");
        let shown = shown.iter().find(|frame| frame["type"] == heard["type"]).context("an example of it")?;
        assert_eq!(fields(&heard), fields(shown), "{heard}");
    }
    bobs.chat(None, "that is all").await?;
    // She is told of no mistake meanwhile, and of nothing of her own.
    let next = alices.next(ANSWER).await?;
    assert_eq!((&next["type"], &next["message"]), (&json!("chat"), &json!("that is all")));
    // One that cannot be done is told, as shown.
    alices.notify("nobody at all", "hello?").await?;
    let error = alices.next(ANSWER).await?;
    let shown = shown.iter().find(|frame| frame["type"] == "error").context("an example of an error")?;
    assert_eq!((&error["code"], fields(&error)), (&shown["code"], fields(shown)), "{error}");
    Ok(())
}
