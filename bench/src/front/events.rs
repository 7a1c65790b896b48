//! Events under the subjects, headers and ids that Natter gives them, published into its own streams past its gateways.

use anyhow::{Context as _, Result};
use async_nats::{ConnectOptions, HeaderMap, jetstream};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use natter_shared::{
    event::{Event, GroupCreated, GroupKind, Message, Role},
    id::{GroupId, MessageId, Nonce, RoomName, SessionId, UserId, derived_event, open_group},
    subject::{self, Shards, Space, Topic},
    timestamp::Timestamp,
};
use natter_tests::cluster::Cluster;
use uuid::Uuid;

use crate::{mark::Mark, token::user};

/// The default (nats.shards).
const SHARDS: u16 = 4;

/// Bytes of a text, as the generator has them.
const BYTES: usize = 128;

/// Events on their way to the streams at once.
const IN_FLIGHT: usize = 2000;

/// The streams, as a gateway may publish into them.
#[derive(Clone)]
pub(super) struct Events {
    context: jetstream::Context,
    shards: Shards,
    /// The name of each shard's stream.
    streams: Vec<String>,
}

/// What one sender publishes into one group.
pub(super) struct Lane {
    subject: String,
    stream: String,
    group: GroupId,
    sender: UserId,
    origin: Option<SessionId>,
}

/// What is published.
pub(super) struct Publication {
    subject: String,
    headers: HeaderMap,
    payload: Bytes,
}

impl Events {
    /// Into the streams of `cluster`, which have been made.
    pub(super) async fn connect(cluster: &Cluster) -> Result<Self> {
        let options = ConnectOptions::with_nkey(cluster.identities.gateway.seed.clone()).custom_inbox_prefix("_INBOX.gateway.bench");
        let context = jetstream::new(options.connect(cluster.nats.client_url()).await?);
        let names = cluster.nats.stream_names();
        let of_shard = |shard: u16| {
            let is_its = |name: &&String| subject::parse_stream_name(name).is_some_and(|(of, _)| of.0 == shard);
            names.iter().find(is_its).cloned().with_context(|| format!("the stream of shard {shard}"))
        };
        let streams = (0..SHARDS).map(of_shard).collect::<Result<Vec<_>>>()?;
        Ok(Self { context, shards: Shards::new(SHARDS).context("a shard")?, streams })
    }

    /// The last event of each stream, added up: how many have ever been stored, where no epoch has ended.
    pub(super) async fn stored(&self) -> Result<i64> {
        let mut stored = 0;
        for stream in &self.streams {
            let last = self.context.get_stream(stream).await?.cached_info().state.last_sequence;
            stored += i64::try_from(last)?;
        }
        Ok(stored)
    }

    /// The lane of this number: its user's, into the open group that the generator calls r and the number.
    pub(super) fn lane(&self, number: usize) -> Result<Lane> {
        let group = open_group(&RoomName::slug(&format!("r{number}"))?);
        let (subject, stream) = self.of(group)?;
        Ok(Lane { subject, stream, group, sender: UserId::new(&user(number))?, origin: Some(SessionId(Uuid::now_v7())) })
    }

    /// An open group with members from the beginning.
    pub(super) fn group(&self, name: &str, members: impl Iterator<Item = usize>) -> Result<Publication> {
        let room = RoomName::slug(name)?;
        let group = open_group(&room);
        let (subject, stream) = self.of(group)?;
        let members = members.map(|number| Ok((UserId::new(&user(number))?, Role::Member))).collect::<Result<Vec<_>>>()?;
        let created = GroupCreated { group, kind: GroupKind::Open, name: Some(room), display_name: name.to_owned(), members };
        let id = derived_event("group_created", &[group.0.as_bytes()]).0;
        Publication::new(subject, &stream, id, &Event::GroupCreated(created))
    }

    fn of(&self, group: GroupId) -> Result<(String, String)> {
        let topic = Topic::Group(group);
        let shard = self.shards.of(topic);
        let stream = self.streams.get(usize::from(shard.0)).context("the shard's stream")?;
        Ok((subject::subject(Space::Event, shard, topic), stream.clone()))
    }

    /// Publishes it, and waits until it is stored.
    pub(super) async fn publish(&self, publication: Publication) -> Result<()> {
        let Publication { subject, headers, payload } = publication;
        self.context.publish_with_headers(subject, headers, payload).await?.await?;
        Ok(())
    }

    /// Publishes all, many at a time, and waits until they are stored.
    pub(super) async fn publish_all(&self, publications: impl Iterator<Item = Result<Publication>>) -> Result<()> {
        let acks = stream::iter(publications).map(|publication| async { self.publish(publication?).await });
        acks.buffer_unordered(IN_FLIGHT).try_for_each(|()| std::future::ready(Ok(()))).await
    }
}

impl Lane {
    /// One more message, as a gateway makes it.
    pub(super) fn message(&self) -> Result<Publication> {
        let Self { subject, stream, group, sender, origin } = self;
        let nonce = Nonce::now();
        let id = MessageId::derive(sender, nonce);
        let body = Mark { round: 0, sender: 0, number: 1, due: 0 }.body(BYTES);
        let sender = sender.clone();
        let message = Message { id, group: *group, sender, nonce, body, reply_to: None, data: None, origin: *origin };
        Publication::new(subject.clone(), stream, id.0, &Event::Message(message))
    }
}

impl Publication {
    fn new(subject: String, stream: &str, id: Uuid, event: &Event) -> Result<Self> {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", id.simple().to_string().as_str());
        headers.insert("Natter-At", Timestamp::now().0.to_string().as_str());
        headers.insert("Nats-Expected-Stream", stream);
        Ok(Self { subject, headers, payload: event.encode()? })
    }
}
