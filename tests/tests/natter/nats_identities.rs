//! What each identity of deploy/nats.conf may do, and above all what it may not: tried by hand, with
//! its key, on the server that a running cluster uses.

use std::time::Duration;

use anyhow::Result;
use async_nats::{Client, ConnectOptions, Event};
use futures::StreamExt;
use natter_tests::{
    client::Client as User,
    cluster::Cluster,
    nats::{Identities, Identity, NatsServer},
    process::{Folder, Process, binary, free_port},
    token::{SECRET, User as Person},
};
use tokio::sync::mpsc;

use super::chat::wait_until;

/// What the server refuses comes at once, what it allows is answered at once.
const SOON: Duration = Duration::from_secs(5);
/// Long enough to see that nothing comes.
const SILENCE: Duration = Duration::from_millis(500);

/// A connection with an identity of a service, and what the server complains of.
struct Intruder {
    client: Client,
    complaints: mpsc::UnboundedReceiver<String>,
}

impl Intruder {
    async fn of(url: String, identity: &Identity, inbox: &str) -> Result<Self> {
        let (sender, complaints) = mpsc::unbounded_channel();
        let options = ConnectOptions::with_nkey(identity.seed.clone()).custom_inbox_prefix(inbox).event_callback(move |event| {
            if let Event::ServerError(error) = event {
                let _ = sender.send(error.to_string());
            }
            std::future::ready(())
        });
        Ok(Self { client: options.connect(url).await?, complaints })
    }

    /// The server's next complaint.
    async fn complaint(&mut self) -> String {
        tokio::time::timeout(SOON, self.complaints.recv()).await.ok().flatten().unwrap_or_default()
    }

    /// Publishing there is refused.
    async fn may_not_publish(&mut self, subject: &str) -> Result<()> {
        self.client.publish(subject.to_owned(), "{}".into()).await?;
        self.client.flush().await?;
        let complaint = self.complaint().await;
        anyhow::ensure!(
            complaint.to_lowercase().contains("permissions violation for publish") && complaint.contains(subject),
            "publishing to {subject}: {complaint:?}"
        );
        Ok(())
    }

    /// Subscribing there is refused.
    async fn may_not_subscribe(&mut self, subject: &str) -> Result<()> {
        let _subscription = self.client.subscribe(subject.to_owned()).await?;
        self.client.flush().await?;
        let complaint = self.complaint().await;
        anyhow::ensure!(
            complaint.to_lowercase().contains("permissions violation for subscription") && complaint.contains(subject),
            "subscribing to {subject}: {complaint:?}"
        );
        Ok(())
    }

    /// What it is allowed is answered.
    async fn may_ask(&self, subject: &str, body: &str) -> Result<String> {
        let request = self.client.request(subject.to_owned(), body.to_owned().into());
        let answer = tokio::time::timeout(SOON, request).await??;
        Ok(String::from_utf8(answer.payload.to_vec())?)
    }
}

/// A JetStream call on each stream of the cluster that changes or removes something.
const DESTRUCTIVE: [&str; 5] = [
    "$JS.API.STREAM.DELETE.EVENTS_0_e1",
    "$JS.API.STREAM.PURGE.EVENTS_0_e1",
    "$JS.API.STREAM.MSG.DELETE.EVENTS_0_e1",
    "$JS.API.STREAM.RESTORE.EVENTS_0_e1",
    "$JS.API.STREAM.SNAPSHOT.EVENTS_0_e1",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_only_publishes_events_and_reads_back() -> Result<()> {
    let cluster = Cluster::builder().gateways(1).start().await?;
    let mut gateway = Intruder::of(cluster.nats.client_url(), &cluster.identities.gateway, "_INBOX.gateway.x").await?;
    for call in DESTRUCTIVE {
        gateway.may_not_publish(call).await?;
    }
    for call in ["$JS.API.STREAM.CREATE.MINE", "$JS.API.STREAM.UPDATE.EVENTS_0_e1", "$JS.API.CONSUMER.CREATE.EVENTS_0_e1.mine"] {
        gateway.may_not_publish(call).await?;
    }
    // Not to forge what persisters say.
    for subject in ["ctl", "live.0.c.0123", "retired.0.e1", "_INBOX.persister.x.1", "_INBOX.gateway.y.1"] {
        gateway.may_not_publish(subject).await?;
    }
    for subject in ["rpc.>", "rpc.*", "_INBOX.persister.>", "_INBOX.>", "ev.>", ">", "$SYS.>"] {
        gateway.may_not_subscribe(subject).await?;
    }
    let names = gateway.may_ask("$JS.API.STREAM.NAMES", "{}").await?;
    assert!(names.contains("EVENTS_0_e"), "{names}");
    // A single server has nobody to hand over to; but it was asked.
    let answer = gateway.may_ask("$JS.API.STREAM.LEADER.STEPDOWN.EVENTS_0_e1", "{}").await?;
    assert!(answer.contains("stream_leader_stepdown_response"), "{answer}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persister_makes_and_reads_streams_but_removes_nothing() -> Result<()> {
    let cluster = Cluster::builder().gateways(1).start().await?;
    let mut persister = Intruder::of(cluster.nats.client_url(), &cluster.identities.persister, "_INBOX.persister.x").await?;
    for call in DESTRUCTIVE {
        persister.may_not_publish(call).await?;
    }
    // Allowed, though never done: what is refused, the server would keep for each event that a persister reads, to see whether it
    // answers it. A complaint would be taken for the next one's.
    persister.client.publish("$JS.ACK.EVENTS_0_e1.x.1.2.3.4.5", "".into()).await?;
    // Answers only where it was asked: nobody's inbox by its name, and no call of its own.
    for subject in ["_INBOX.gateway.x.1", "_INBOX.persister.y.1", "rpc.whoami", "live.0.g.0123", "live.0.c.0123"] {
        persister.may_not_publish(subject).await?;
    }
    for subject in ["_INBOX.gateway.>", "_INBOX.>", "ev.>", "live.0.g.*", "live.0.u.*", "rpc.*", ">", "$SYS.>"] {
        persister.may_not_subscribe(subject).await?;
    }
    let names = persister.may_ask("$JS.API.STREAM.NAMES", "{}").await?;
    assert!(names.contains("EVENTS_0_e"), "{names}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_monitor_sees_nothing_of_what_passes() -> Result<()> {
    let cluster = Cluster::builder().gateways(1).start().await?;
    let mut monitor = Intruder::of(cluster.nats.client_url(), &cluster.identities.monitor, "_INBOX.monitor").await?;
    for subject in ["ev.0.g.0123", "ctl", "rpc.whoami", "$JS.API.STREAM.NAMES", "$SYS.REQ.SERVER.x.RELOAD"] {
        monitor.may_not_publish(subject).await?;
    }
    for subject in [">", "live.>", "ctl", "$SYS.>"] {
        monitor.may_not_subscribe(subject).await?;
    }
    // What it may: every inbox of its own account, where nothing of the others' comes.
    let mut inboxes = monitor.client.subscribe("_INBOX.>").await?;
    monitor.client.flush().await?;
    let ann = User::connect(cluster.gateway(0), &Person::named("ann")).await?;
    let group = ann.join("lobby").await?;
    ann.send(group, "not for the monitor").await?;
    assert!(tokio::time::timeout(SILENCE, inboxes.next()).await.is_err(), "something came");
    let servers = monitor.may_ask("$SYS.REQ.SERVER.PING.STATSZ", "").await?;
    assert!(servers.contains("natter-1"), "{servers}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_known_is_refused() -> Result<()> {
    let nats = NatsServer::start_shipped(Identities::random().env(), &[])?;
    let stranger = Identity::random();
    let ways = [
        ("anonymous", ConnectOptions::new()),
        ("a stranger's key", ConnectOptions::with_nkey(stranger.seed)),
        ("a password", ConnectOptions::with_user_and_password("gateway".into(), "gateway".into())),
        ("a token", ConnectOptions::with_token("gateway".into())),
    ];
    for (way, options) in ways {
        let refused = tokio::time::timeout(SOON, options.connect(nats.client_url())).await?;
        let error = refused.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("authorization violation"), "{way}: {error:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_without_its_identity_says_so_and_waits() -> Result<()> {
    let folder = Folder::new()?;
    let identities = Identities::random();
    let nats = NatsServer::start_shipped(identities.env(), &[])?;
    for (name, seed, hint) in [
        ("none", None, "none is set"),
        ("unknown", Some(Identity::random()), "nkey"),
        // A key that the server knows, of another service. Which subject is refused first, and so
        // named, is chance.
        ("anothers", Some(identities.persister.clone()), "nkey"),
    ] {
        let addr = format!("127.0.0.1:{}", free_port());
        let mut env: Vec<(String, String)> = vec![
            ("NATTER_NATS__URL".into(), nats.client_url()),
            ("NATTER_AUTH__SECRET".into(), SECRET.into()),
            ("NATTER_HTTP__LISTEN".into(), addr.clone()),
        ];
        env.extend(seed.map(|identity| ("NATTER_NATS__NKEY_SEED".into(), identity.seed)));
        let mut process = Process::start(name, &binary("natter-gateway"), &[], &env, folder.path())?;
        let event = if name == "anothers" { "nats_not_allowed" } else { "nats_refused" };
        wait_until("the refusal in the log", async || process.log().contains(event) && process.log().contains(hint)).await;
        let log = process.log();
        for part in [hint, "deploy/nats.conf", "natter-gateway"] {
            assert!(log.contains(part), "{part:?} is not in the log:\n{log}");
        }
        assert!(process.is_running(), "it goes on trying");
        let readyz = format!("http://{addr}/readyz");
        wait_until("its word that it is not ready", async || reqwest::get(&readyz).await.is_ok_and(|answer| answer.status() == 503)).await;
        assert!(log.matches(event).count() < 10, "a line now and then, not for each attempt:\n{log}");
        process.terminate()?;
    }
    Ok(())
}
