//! What clients ask for, beside sending.

use std::{collections::BTreeMap, sync::Arc};

use natter_shared::{
    event::{Audience, Data, Ephemeral, Event, Read, Seen, SeenWhat},
    frame::{ErrorCode, GroupState, History, InboxMark, ReplyBody, SeenTo},
    id::{GroupId, GroupRef, Nonce, NotificationId},
    position::Position,
    rpc::{self, FindMembership, FindUser, LeaveGroup, MessageHistory, OpenGroup, ShardPosition},
    subject::Topic,
};
use tokio::time::Instant;

use super::{SessionHandle, open::OpenError, reply::Refusal};
use crate::{app::App, delivery::message_frame, publish::mark, rates::TooFast};

/// Messages in a page of history where the client does not say.
const HISTORY_DEFAULT: u32 = 50;

/// Notifications in one `seen`.
const SEEN_IDS: usize = 1000;

type Outcome = Result<ReplyBody, Refusal>;

impl From<OpenError> for Refusal {
    fn from(error: OpenError) -> Self {
        Self::new(error.code, error.message)
    }
}

impl App {
    pub(super) async fn join(self: &Arc<Self>, session: &Arc<SessionHandle>, group: GroupRef) -> Outcome {
        let open = match group {
            GroupRef::Id(id) => OpenGroup::Id(id),
            GroupRef::Name(name) => OpenGroup::Name(name),
        };
        let group = match session.told_of(open.id()) {
            Some(told) => told,
            None => {
                self.take_look_ups(session, 1)?;
                self.join_open(session, open).await?
            }
        };
        Ok(ReplyBody::Joined { group: Box::new(group) })
    }

    pub(super) async fn leave(&self, session: &SessionHandle, group: GroupId) -> Outcome {
        self.take_look_ups(session, 1)?;
        let since = session.groups.lock().get(&group).map(|live| live.since);
        let left = rpc::call(&*self.broker, LeaveGroup { user: session.user.clone(), group, since }, None).await?.reply;
        // Without one the user never was a member.
        if let Some(until) = left.until {
            self.end_membership(session, group, until).await;
        }
        Ok(ReplyBody::Done {})
    }

    pub(super) async fn resume(self: &Arc<Self>, session: &Arc<SessionHandle>, points: BTreeMap<GroupRef, Position>) -> Outcome {
        let (most, came) = (self.config.limits.groups_per_connection, Instant::now());
        let mut paid = points.len().min(most);
        self.take_look_ups(session, paid)?;
        let resumed = self.resume_all(session, points, came, &mut paid).await;
        self.rates.give_back_look_ups(session.key, u32::try_from(paid).unwrap_or(u32::MAX));
        Ok(ReplyBody::Resumed { groups: resumed? })
    }

    /// Goes on in the groups at these points; those of which nothing has been looked up are left in `paid`.
    async fn resume_all(
        self: &Arc<Self>,
        session: &Arc<SessionHandle>,
        points: BTreeMap<GroupRef, Position>,
        came: Instant,
        paid: &mut usize,
    ) -> Result<Vec<GroupState>, Refusal> {
        let mut groups = Vec::new();
        for (group, position) in points {
            if *paid == 0 {
                // More than it may have: nobody is asked about them.
                self.hub.say_reset(session, group.id());
                continue;
            }
            if session.is_closed() {
                return Err(Refusal::new(ErrorCode::Unavailable, "the session is closing"));
            }
            let group = group.id();
            let topic = Topic::Group(group);
            let shard = self.broker.shards().of(topic);
            let find = || FindMembership { user: session.user.clone(), group };
            *paid -= 1;
            let mut answer = rpc::call(&*self.broker, find(), None).await?;
            if answer.reply.is_none() && position > answer.applied(shard) && self.is_stored(topic, position, came).await? {
                // The client was told of a membership that SQL does not know of yet.
                answer = rpc::call(&*self.broker, find(), Some(ShardPosition { shard: shard.0, position })).await?;
            }
            let applied = answer.applied(shard);
            if let Some(membership) = answer.reply {
                groups.extend(self.one_live(session, membership, applied, Some((position, came))).await?);
            }
        }
        Ok(groups)
    }

    pub(super) async fn history(&self, session: &SessionHandle, asked: History) -> Outcome {
        if asked.before.is_some() && asked.after.is_some() {
            return Err(Refusal::new(ErrorCode::BadRequest, "history takes `before` or `after`, not both"));
        }
        let group = asked.group.id();
        let most = self.config.limits.history_page;
        let limit = asked.limit.unwrap_or(HISTORY_DEFAULT.min(most));
        if limit == 0 || limit > most {
            return Err(Refusal::new(ErrorCode::BadRequest, format!("`limit` is 1 to {most}")));
        }
        // A page costs the database the same over a socket, of which a user may have many.
        self.rates.take_user(session.key).map_err(|too_fast| self.too_fast("pages of history are asked for", too_fast))?;
        let call = MessageHistory { user: Some(session.user.clone()), group, before: asked.before, after: asked.after, limit };
        let shard = self.broker.shards().of(Topic::Group(group));
        // One's own messages are in it.
        let sent = session.group(group).map(|live| live.sent).unwrap_or_default();
        let (_, floor) = self.floor(shard).await?;
        let behind = ShardPosition { position: floor.position.max(sent), ..floor };
        let answer = rpc::call(&*self.broker, call, Some(behind)).await?;
        let position = answer.reply.complete_to(asked.after, answer.applied(shard));
        let more = answer.reply.more;
        let messages = answer.reply.messages.into_iter().filter_map(|m| message_frame(m.event, m.position, m.stored_at)).collect();
        Ok(ReplyBody::History { messages, more, position })
    }

    pub(super) async fn notify(
        self: &Arc<Self>,
        session: &Arc<SessionHandle>,
        to: Audience,
        nonce: Nonce,
        body: String,
        data: Option<Data>,
    ) -> Outcome {
        match &to {
            // Whether its user is a member is asked where it is stored.
            Audience::Group(_) => {
                let taken = self.rates.take_group_notification(session.key);
                taken.map_err(|too_fast| self.too_fast("groups are notified", too_fast))?;
            }
            Audience::User(user) => {
                self.take_look_ups(session, 1)?;
                let found = rpc::call(&*self.broker, FindUser::Id(user.clone()), None).await?.reply;
                if found.is_none() {
                    return Err(Refusal::new(ErrorCode::NotFound, "no such user"));
                }
            }
        }
        self.notify_one(session, to, nonce, body, data).await
    }

    pub(super) async fn read(self: &Arc<Self>, session: &Arc<SessionHandle>, group: GroupId, position: Position) -> Outcome {
        self.live_group(session, group).await?;
        session.forget_told();
        self.mark(session, Event::Read(Read { user: session.user.clone(), group, position })).await
    }

    pub(super) async fn seen(&self, session: &SessionHandle, seen: SeenTo) -> Outcome {
        let what = match (seen.ids, seen.upto) {
            (Some(ids), None) if ids.len() <= SEEN_IDS => SeenWhat::Ids(ids.into_iter().map(NotificationId).collect()),
            (Some(_), None) => return Err(Refusal::new(ErrorCode::TooLarge, format!("`ids` has at most {SEEN_IDS}"))),
            (None, Some(upto)) => SeenWhat::Upto(upto),
            (Some(_), Some(_)) | (None, None) => {
                return Err(Refusal::new(ErrorCode::BadRequest, "`seen` takes `ids` or `upto`"));
            }
        };
        let mark = seen.mark.unwrap_or_default();
        let (read, archived) = (mark >= InboxMark::Read, mark == InboxMark::Archived);
        self.mark(session, Event::Seen(Seen { user: session.user.clone(), what, read, archived })).await
    }

    /// Takes so many look-ups of the user's rate: one account could keep all who answer them busy.
    pub(super) fn take_look_ups(&self, session: &SessionHandle, count: usize) -> Result<(), Refusal> {
        let taken = self.rates.take_look_ups(session.key, u32::try_from(count).unwrap_or(u32::MAX));
        taken.map_err(|too_fast| self.too_fast("what has to be looked up comes", too_fast))
    }

    /// Counts somebody who is faster than a limit allows, and says when to come back.
    pub(super) fn too_fast(&self, what: &str, TooFast { limit, wait }: TooFast) -> Refusal {
        self.metrics.refused(limit);
        let message = format!("{what} faster than limits.{} allows; try again later", limit.key());
        let refusal = Refusal::new(ErrorCode::RateLimited, message);
        // Rounded up.
        Refusal { retry_after_ms: refusal.retry_after_ms.max(Some(wait.as_millis() as u64 + 1)), ..refusal }
    }

    /// Stores a mark of the user's own on the user's topic.
    async fn mark(&self, session: &SessionHandle, event: Event) -> Outcome {
        mark(&*self.broker, &self.intake, session.key, &event, self.config.limits.send_deadline).await?;
        Ok(ReplyBody::Done {})
    }

    pub(super) async fn typing(self: &Arc<Self>, session: &Arc<SessionHandle>, group: GroupId) -> Outcome {
        self.live_group(session, group).await?;
        let frame = Ephemeral::Typing { group, user: session.user.clone() };
        let payload = serde_json::to_vec(&frame).map_err(|error| Refusal::new(ErrorCode::BadRequest, error.to_string()))?;
        // Nobody waits for it, and nobody misses it.
        let _ = self.broker.publish_ephemeral(Topic::Group(group), payload.into()).await;
        Ok(ReplyBody::Done {})
    }
}
