//! Sending: serial for each (connection, group), so that one sender's messages keep their order
//! even where one of them must be tried again; groups do not wait for each other.

use std::{
    collections::{VecDeque, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use natter_shared::{
    broker,
    event::{Audience, Data, Event, Message, Notification},
    frame::{ErrorCode, ReplyBody},
    id::{EventId, GroupId, MessageId, Nonce, NotificationId},
    position::Position,
    rpc::{self, FindAccepted, ShardPosition},
    subject::Topic,
    timestamp::Timestamp,
};

use super::{SessionHandle, reply::Refusal};
use crate::{app::App, publish::publish};

/// A send whose nonce is older than this is looked up before it is published: the broker's
/// memory of ids is two minutes long, and a retry must never make a second message.
const OLD_NONCE: Duration = Duration::from_mins(1);

/// A nonce from further ahead than this would count as new when it is old.
const FUTURE_NONCE: Duration = Duration::from_secs(30);

/// A message on its way.
pub(super) struct Outgoing {
    pub(super) id: Option<u32>,
    pub(super) group: GroupId,
    pub(super) nonce: Nonce,
    pub(super) body: String,
    pub(super) reply_to: Option<MessageId>,
    pub(super) data: Option<Data>,
}

impl App {
    /// Queues a message behind the others to its group.
    pub(super) fn send(self: &Arc<Self>, session: &Arc<SessionHandle>, message: Outgoing) {
        if let Err(refusal) = self.check_body(&message.body) {
            return session.answer(message.id, Err(refusal));
        }
        if !session.enter(self.config.limits.in_flight_sends) {
            return session.answer(message.id, Err(Refusal::new(ErrorCode::Busy, "too many requests in flight")));
        }
        let group = message.group;
        let is_first = match session.lanes.lock().entry(group) {
            Entry::Occupied(mut lane) => {
                lane.get_mut().push_back(message);
                None
            }
            Entry::Vacant(lane) => {
                lane.insert(VecDeque::new());
                Some(message)
            }
        };
        if let Some(first) = is_first {
            let (app, session) = (Arc::clone(self), Arc::clone(session));
            self.tasks.spawn(async move { app.run_lane(&session, first).await });
        }
    }

    async fn run_lane(&self, session: &Arc<SessionHandle>, first: Outgoing) {
        let group = first.group;
        let mut next = Some(first);
        while let Some(message) = next {
            let id = message.id;
            let outcome = self.send_one(session, message).await;
            session.leave_flight();
            session.answer(id, outcome);
            let mut lanes = session.lanes.lock();
            next = lanes.get_mut(&group).and_then(VecDeque::pop_front);
            if next.is_none() {
                lanes.remove(&group);
            }
        }
    }

    async fn send_one(&self, session: &Arc<SessionHandle>, message: Outgoing) -> Result<ReplyBody, Refusal> {
        self.live_group(session, message.group).await?;
        let message_id = MessageId::derive(&session.user, message.nonce);
        let event = Event::Message(Message {
            id: message_id,
            group: message.group,
            sender: session.user.clone(),
            nonce: message.nonce,
            body: message.body,
            reply_to: message.reply_to,
            data: message.data,
            origin: Some(session.id),
        });
        let position = self.accept(session, Topic::Group(message.group), message_id.into(), message.nonce, event).await?;
        if let Some(live) = session.groups.lock().get_mut(&message.group) {
            live.sent = live.sent.max(position);
        }
        self.metrics.accepted.inc();
        Ok(ReplyBody::Sent { message_id, position })
    }

    /// Stores a notification to a user or a group.
    pub(super) async fn notify_one(
        &self,
        session: &SessionHandle,
        to: Audience,
        nonce: Nonce,
        body: String,
        data: Option<Data>,
    ) -> Result<ReplyBody, Refusal> {
        self.check_body(&body)?;
        let notification_id = NotificationId::derive(&session.user, nonce);
        let topic = match &to {
            Audience::User(user) => Topic::User(user.key()),
            Audience::Group(group) => Topic::Group(*group),
        };
        let sender = Some(session.user.clone());
        let event = Event::Notification(Notification { id: notification_id, to, sender, nonce, body, data });
        let position = self.accept(session, topic, notification_id.into(), nonce, event).await?;
        Ok(ReplyBody::Notified { notification_id, position })
    }

    /// Whether a body is text that can be kept: not too long, and without NUL, which PostgreSQL's
    /// text cannot hold.
    pub(super) fn check_body(&self, body: &str) -> Result<(), Refusal> {
        if body.len() > self.config.limits.body_bytes {
            return Err(self.body_too_large());
        }
        if body.contains('\0') {
            return Err(Refusal::new(ErrorCode::BadRequest, "a body has no NUL character"));
        }
        Ok(())
    }

    fn body_too_large(&self) -> Refusal {
        Refusal::new(ErrorCode::TooLarge, format!("a body has at most {} bytes", self.config.limits.body_bytes))
    }

    /// Gets an event stored, once under its id whatever happens.
    async fn accept(&self, session: &SessionHandle, topic: Topic, id: EventId, nonce: Nonce, event: Event) -> Result<Position, Refusal> {
        let payload = event.encode().map_err(|error| Refusal::new(ErrorCode::BadRequest, error.to_string()))?;
        if !session.nonces.lock().admit(id, &payload) {
            return Err(nonce_reused());
        }
        let made_at = self.broker.now();
        let sent = Timestamp(nonce.millis());
        if sent.since(made_at) > FUTURE_NONCE {
            return Err(Refusal::new(ErrorCode::BadRequest, "the nonce's time lies ahead; see `time` in ready"));
        }
        if made_at.since(sent) > OLD_NONCE {
            // SQL must have come to where the first copy may stand.
            let shard = self.broker.shards().of(topic);
            let log = self.broker.log_state(shard).await.map_err(rpc::RpcError::from)?;
            let behind = ShardPosition { shard: shard.0, position: Position::new(log.epoch, log.last) };
            let found = rpc::call(&*self.broker, FindAccepted { id }, Some(behind)).await?.reply;
            if let Some(accepted) = found {
                return same(&event, &accepted.event).then_some(accepted.position).ok_or_else(nonce_reused);
            }
        }
        let outgoing = broker::Outgoing { topic, id, made_at, payload };
        let ack = publish(&*self.broker, &outgoing, self.config.limits.send_deadline)
            .await
            .map_err(|error| Refusal::new(error.code(), error.to_string()))?;
        if ack.duplicate { self.check_duplicate(topic, ack.position, &event).await } else { Ok(ack.position) }
    }

    /// The id was stored before: as this very thing, or as another under the same nonce.
    async fn check_duplicate(&self, topic: Topic, position: Position, event: &Event) -> Result<Position, Refusal> {
        let pending = |reason: String| Refusal::new(ErrorCode::Pending, reason);
        let first = self.broker.get(self.broker.shards().of(topic), position).await.map_err(|error| pending(error.to_string()))?;
        let Some(first) = first else { return Err(pending("the first copy is not readable yet".to_owned())) };
        if first.is_void() {
            return Err(pending("the first copy came too late to count; try again in two minutes".to_owned()));
        }
        match Event::decode(&first.payload) {
            Ok(stored) if same(event, &stored) => Ok(position),
            Ok(_) | Err(_) => Err(nonce_reused()),
        }
    }
}

fn nonce_reused() -> Refusal {
    Refusal::new(ErrorCode::NonceReused, "this nonce was used for something else")
}

/// Whether two events under one id say the same, whoever's connection they came over.
fn same(one: &Event, other: &Event) -> bool {
    let text = |data: &Option<Data>| data.as_ref().map(|data| data.get().to_owned());
    match (one, other) {
        (Event::Message(a), Event::Message(b)) => {
            a.group == b.group && a.sender == b.sender && a.body == b.body && a.reply_to == b.reply_to && text(&a.data) == text(&b.data)
        }
        (Event::Notification(a), Event::Notification(b)) => {
            a.to == b.to && a.sender == b.sender && a.body == b.body && text(&a.data) == text(&b.data)
        }
        _ => false,
    }
}
