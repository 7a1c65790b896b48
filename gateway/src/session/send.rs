//! Sending: serial for each (connection, group), so that one sender's messages keep their order
//! even where one of them must be tried again; groups do not wait for each other. Where one has to be
//! sent again by its client, what waits behind it has to be as well: accepted first, it would overtake.

use std::{
    collections::{VecDeque, hash_map::Entry},
    sync::Arc,
};

use natter_shared::{
    event::{Audience, Data},
    frame::{ErrorCode, ReplyBody},
    id::{GroupId, MessageId, Nonce},
    position::Position,
};

use super::{SessionHandle, reply::Refusal};
use crate::{
    app::App,
    limit::Limit,
    metrics::Busy,
    publish::{Draft, NotAccepted, Said, accept, check_body},
};

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
        if let Err(refusal) = check_body(&self.config.limits, &message.body) {
            return session.answer(message.id, Err(refusal.into()));
        }
        if !session.enter(self.config.limits.in_flight_sends) {
            self.metrics.refused(Limit::InFlightSends);
            self.metrics.busy(Busy::Connection);
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
            let retried = outcome.as_ref().err().filter(|refusal| refusal.code.is_retryable()).and_then(|refusal| refusal.retry_after_ms);
            session.answer(id, outcome);
            let mut behind = VecDeque::new();
            {
                let mut lanes = session.lanes.lock();
                let lane = lanes.get_mut(&group);
                next = lane.and_then(|lane| {
                    if retried.is_some() {
                        behind = std::mem::take(lane);
                        None
                    } else {
                        lane.pop_front()
                    }
                });
                if next.is_none() {
                    lanes.remove(&group);
                }
            }
            for message in behind {
                session.leave_flight();
                self.metrics.busy(Busy::Order);
                let refusal = Refusal::new(ErrorCode::Busy, "an earlier message to this group has to be sent again first");
                session.answer(message.id, Err(Refusal { retry_after_ms: retried, ..refusal }));
            }
        }
    }

    async fn send_one(&self, session: &Arc<SessionHandle>, message: Outgoing) -> Result<ReplyBody, Refusal> {
        self.live_group(session, message.group).await?;
        let Outgoing { group, nonce, body, reply_to, data, .. } = message;
        let said = Said { body, reply_to, data };
        let (message_id, draft) = Draft::message(&self.config.limits, &session.user, group, nonce, said, Some(session.id))?;
        let position = self.accept(session, draft).await?;
        if let Some(live) = session.groups.lock().get_mut(&group) {
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
        let (notification_id, draft) = Draft::notification(&self.config.limits, Some(&session.user), to, nonce, body, data)?;
        let position = self.accept(session, draft).await?;
        Ok(ReplyBody::Notified { notification_id, position })
    }

    /// Gets a draft stored. The stream refuses a second event under one id within a shard only; that
    /// this connection used the nonce for another one shows here.
    async fn accept(&self, session: &SessionHandle, draft: Draft) -> Result<Position, NotAccepted> {
        if !session.nonces.lock().admit(draft.id(), draft.payload()) {
            return Err(NotAccepted::nonce_reused());
        }
        accept(&*self.broker, &self.intake, draft, self.config.limits.send_deadline).await
    }
}
