//! The connections of our own: whom they sign in as, and what they do with who does not read.

use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;
use natter_shared::{
    broker::{
        Broker, Interest,
        nats::{NatsAuth, NatsBroker, NatsOptions, Role},
    },
    id::InstanceId,
    position::Epoch,
};
use natter_tests::nats::{NatsConfig, NatsServer};
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::fixture::{
    Fixture, Nats, connected, event, eventually, group_in, nats_options, number, publish, publish_stubbornly, shards, take,
};

/// Every connection is up, and an event goes all the way round.
async fn works(server: &NatsServer, auth: NatsAuth) {
    let options = NatsOptions { auth, ..nats_options(server) };
    let broker = NatsBroker::connect(options, Role::Persister, InstanceId::random()).await.expect("options that work");
    connected(&*broker).await;
    for shard in shards() {
        broker.open_epoch(shard, Epoch(1)).await.expect("an epoch to open");
        broker.fence(shard).await.expect("a fence");
    }
}

fn server(extra: String) -> NatsServer {
    NatsServer::start(&NatsConfig { extra, ..NatsConfig::default() }).expect("a server")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_and_a_password_sign_in() {
    let server = server(r#"authorization { user: "natter", password: "secret" }"#.to_owned());
    let auth = NatsAuth::UserPassword { user: "natter".to_owned(), password: "secret".to_owned() };
    works(&server, auth).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_signs_in() {
    let server = server(r#"authorization { token: "a-token" }"#.to_owned());
    works(&server, NatsAuth::Token("a-token".to_owned())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_signs_in() {
    let pair = KeyPair::new_user();
    let server = server(format!("authorization {{ users: [{{ nkey: {} }}] }}", pair.public_key()));
    works(&server, NatsAuth::NkeySeed(pair.seed().expect("a seed"))).await;
}

/// A token of NATS's kind (ADR-14), issued by `issuer` for `subject`.
fn jwt(issuer: &KeyPair, subject: &KeyPair, nats: &Value) -> String {
    let claims = json!({ "jti": subject.public_key(), "iat": 1, "iss": issuer.public_key(), "sub": subject.public_key(), "nats": nats });
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", part(&json!({ "typ": "JWT", "alg": "ed25519-nkey" })), part(&claims));
    let signature = issuer.sign(signed.as_bytes()).expect("a key that signs");
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credentials_file_signs_in() {
    let (operator, account, user) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user());
    let system = KeyPair::new_account();
    let of_operator = jwt(&operator, &operator, &json!({ "type": "operator", "version": 2 }));
    let limits = |storage: i64| {
        json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
            "mem_storage": storage, "disk_storage": storage, "streams": storage, "consumer": storage,
        })
    };
    let of_account = jwt(&operator, &account, &json!({ "type": "account", "version": 2, "limits": limits(-1) }));
    let of_system = jwt(&operator, &system, &json!({ "type": "account", "version": 2, "limits": limits(0) }));
    let of_user =
        jwt(&account, &user, &json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {} }));
    let server = server(format!(
        "operator: {of_operator}\nresolver: MEMORY\nsystem_account: {1}\n\
         resolver_preload: {{ {0}: {of_account}, {1}: {of_system} }}",
        account.public_key(),
        system.public_key()
    ));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("natter.creds");
    let seed = user.seed().expect("a seed");
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{of_user}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    std::fs::write(&path, text).expect("a file");
    works(&server, NatsAuth::CredentialsFile(path)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_keeps_the_capacity_and_the_loss_is_told() {
    const CAPACITY: usize = 16;
    let nats = Nats::start().await;
    let options = NatsOptions { subscription_capacity: CAPACITY, ..nats_options(&nats.server) };
    let broker = NatsBroker::connect(options, Role::Gateway, InstanceId::random()).await.expect("options that work");
    connected(&*broker).await;
    let shard = shards().next().expect("a shard");
    let topic = group_in(&*broker, shard);
    let mut live = broker.subscribe(Interest::Topic(topic)).await.expect("a subscription");
    broker.fence(shard).await.expect("a fence");
    let before = broker.status().borrow().generation;
    let few = CAPACITY as u64;
    for n in 0..few {
        publish(&*broker, topic, n).await;
    }
    // The canary comes after them, so all of them have been taken.
    broker.fence(shard).await.expect("a fence");
    assert_eq!(broker.status().borrow().generation, before, "as many as there is room for");
    publish(&*broker, topic, few).await;
    eventually("the generation rises", async || (broker.status().borrow().generation > before).then_some(())).await;
    let kept: Vec<u64> = take(&mut live, CAPACITY).await.iter().map(number).collect();
    assert_eq!(kept, (0..few).collect::<Vec<_>>());
    publish(&*broker, topic, few + 1).await;
    assert_eq!(number(&take(&mut live, 1).await[0]), few + 1, "the connection has not stopped for one that does not read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_no_nats_is_told_and_another_is_tried() {
    let nats = Nats::start().await;
    let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let foreign = format!("nats://{}", other.local_addr().expect("an address"));
    let asked = Arc::new(tokio::sync::Semaphore::new(0));
    let counted = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = other.accept().await {
            counted.add_permits(1);
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"SSH-2.0-OpenSSH_9.2p1\r\n").await;
        }
    });
    let options = NatsOptions { urls: vec![foreign, nats.server.client_url()], ..nats_options(&nats.server) };
    let brokers =
        futures::future::join_all((0..8).map(|_| NatsBroker::connect(options.clone(), Role::Gateway, InstanceId::random()))).await;
    for broker in brokers {
        let broker = broker.expect("options that work");
        connected(&*broker).await;
        let topic = group_in(&*broker, shards().next().expect("a shard"));
        publish_stubbornly(&*broker, event(&*broker, topic, 1)).await;
    }
    assert!(asked.available_permits() > 0, "of 16 connections some try it first");
}
