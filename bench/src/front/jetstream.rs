//! A bare publisher: what the streams take of the same events, under the same subjects, headers and ids,
//! from as many lanes as Natter has, each of which waits for its ack. No gateway and no persister run.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_nats::{ConnectOptions, HeaderMap, jetstream};
use bytes::Bytes;
use natter_shared::{
    event::{Event, Message},
    id::{GroupId, MessageId, Nonce, RoomName, SessionId, UserId},
    subject::{self, Shards, Space, Topic},
    timestamp::Timestamp,
};
use natter_tests::cluster::{Cluster, Store};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    natter::{Natter, Sync},
    scenario::{LANES, PUBLISH_SECONDS},
};
use crate::{
    latency::Latency,
    mark::Mark,
    procs::{self, Watched},
    token::user,
};

/// The default (nats.shards).
const SHARDS: u16 = 4;

/// Bytes of a text, as the generator has them.
const BYTES: usize = 128;

/// Runs it, and says what the generator would.
pub(super) async fn run(sync: Sync) -> Result<Value> {
    let mut natter = Natter::start(sync, 1, Store::SyncedPostgres, &[]).await?;
    // The streams are made; nobody else shall work on them.
    for node in natter.cluster.gateways.iter_mut().chain(&mut natter.cluster.persisters) {
        node.process.terminate()?;
    }
    let lanes = (0..LANES).map(|lane| Lane::new(&natter.cluster, lane)).collect::<Result<Vec<_>>>()?;
    let context = connect(&natter.cluster).await?;
    let nats = [Watched { name: "nats".to_owned(), pid: natter.cluster.nats.node(0).pid().context("NATS runs")? }];
    let before = procs::look(&nats);
    let begun = Instant::now();
    let lanes: Vec<_> = lanes.into_iter().map(|lane| tokio::spawn(publish(context.clone(), lane, begun))).collect();
    let (mut accepted, mut replied) = (0, Latency::new()?);
    for lane in lanes {
        let times = lane.await??;
        accepted += times.len() as u64;
        for time in times {
            replied.add(time);
        }
    }
    let took = begun.elapsed().as_secs_f64();
    let costs = procs::costs(&nats, &before, &procs::look(&nats), accepted);
    let replied = replied.quantiles();
    Ok(json!({
        "connected": LANES, "accepted": accepted, "accepted_per_s": accepted as f64 / took, "refused": 0, "unanswered": 0,
        "p50_ms": replied.p50_ms, "p99_ms": replied.p99_ms, "costs": costs,
    }))
}

/// One after another into one group, for as long as it is time; how long each took, in nanoseconds.
async fn publish(context: jetstream::Context, lane: Lane, begun: Instant) -> Result<Vec<u64>> {
    let mut times = Vec::new();
    while begun.elapsed() < Duration::from_secs(PUBLISH_SECONDS) {
        let sent = Instant::now();
        let (headers, payload) = lane.message()?;
        context.publish_with_headers(lane.subject.clone(), headers, payload).await?.await?;
        times.push(sent.elapsed().as_nanos() as u64);
    }
    Ok(times)
}

/// What a gateway may do.
pub(super) async fn connect(cluster: &Cluster) -> Result<jetstream::Context> {
    let options = ConnectOptions::with_nkey(cluster.identities.gateway.seed.clone()).custom_inbox_prefix("_INBOX.gateway.bench");
    Ok(jetstream::new(options.connect(cluster.nats.client_url()).await?))
}

/// What one sender publishes into one group.
pub(super) struct Lane {
    pub(super) subject: String,
    stream: String,
    group: GroupId,
    sender: UserId,
    origin: Option<SessionId>,
}

impl Lane {
    /// The lane of this number, into the streams of `cluster`.
    pub(super) fn new(cluster: &Cluster, number: usize) -> Result<Self> {
        let group = natter_shared::id::open_group(&RoomName::slug(&format!("r{number}"))?);
        let topic = Topic::Group(group);
        let shard = Shards::new(SHARDS).context("a shard")?.of(topic);
        let is_its = |name: &String| subject::parse_stream_name(name).is_some_and(|(of, _)| of == shard);
        Ok(Self {
            subject: subject::subject(Space::Event, shard, topic),
            stream: cluster.nats.stream_names().into_iter().find(is_its).context("the shard's stream")?,
            group,
            sender: UserId::new(&user(number))?,
            origin: Some(SessionId(Uuid::now_v7())),
        })
    }

    /// One more message, as a gateway makes it.
    pub(super) fn message(&self) -> Result<(HeaderMap, Bytes)> {
        let Self { group, sender, origin, .. } = self;
        let nonce = Nonce::now();
        let id = MessageId::derive(sender, nonce);
        let body = Mark { round: 0, sender: 0, number: 1, due: 0 }.body(BYTES);
        let sender = sender.clone();
        let event = Event::Message(Message { id, group: *group, sender, nonce, body, reply_to: None, data: None, origin: *origin });
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", id.0.simple().to_string().as_str());
        headers.insert("Natter-At", Timestamp::now().0.to_string().as_str());
        headers.insert("Nats-Expected-Stream", self.stream.as_str());
        Ok((headers, event.encode()?))
    }
}
