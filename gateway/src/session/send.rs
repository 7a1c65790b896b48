//! Sending: serial for each (connection, group), so that one sender's messages keep their order
//! even where one of them must be tried again; groups do not wait for each other. Where one has to be
//! sent again by its client, what waits behind it has to be as well: accepted first, it would overtake.

use std::{
    collections::{VecDeque, hash_map::Entry},
    sync::Arc,
    time::{Duration, Instant},
};

use natter_shared::{
    event::{Audience, Data},
    failpoint,
    frame::{ErrorCode, ReplyBody},
    id::{GroupId, MessageId, Nonce},
    position::Position,
};

use super::{SessionHandle, reply::Refusal, work::Work};
use crate::{
    app::App,
    metrics::Busy,
    publish::{Draft, NotAccepted, Said, accept, check_body},
};

/// How long one try may go on, before it is asked again whether its sender is a member.
const TRY: Duration = Duration::from_secs(4);

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
        let (id, group) = (message.id, message.group);
        let begun = {
            // Begun within: where a lane was given up by a defect, nothing goes ahead of what waited in it.
            let mut lanes = session.lanes.lock();
            session.begin(self).map(|work| match lanes.entry(group) {
                Entry::Occupied(mut lane) => {
                    lane.get_mut().push_back((message, work));
                    None
                }
                Entry::Vacant(lane) => {
                    lane.insert(VecDeque::new());
                    Some((message, work))
                }
            })
        };
        match begun {
            Ok(Some(first)) => {
                let (app, session) = (Arc::clone(self), Arc::clone(session));
                self.tasks.spawn(async move { app.run_lane(&session, first).await });
            }
            Ok(None) => {}
            Err(refusal) => session.answer(id, Err(refusal)),
        }
    }

    async fn run_lane(self: &Arc<Self>, session: &Arc<SessionHandle>, first: (Outgoing, Work)) {
        let group = first.0.group;
        if session.or_close(self.work_off(session, first)).await.is_none() {
            // Else whatever is sent to the group would wait for nobody.
            let behind = session.lanes.lock().remove(&group);
            drop(behind);
        }
    }

    async fn work_off(self: &Arc<Self>, session: &Arc<SessionHandle>, first: (Outgoing, Work)) {
        let group = first.0.group;
        let mut next = Some(first);
        while let Some((message, work)) = next {
            let id = message.id;
            let outcome = self.send_one(session, message).await;
            let retried = outcome.as_ref().err().filter(|refusal| refusal.code.is_retryable()).and_then(|refusal| refusal.retry_after_ms);
            work.answer(id, outcome);
            let mut behind = VecDeque::new();
            {
                let mut lanes = session.lanes.lock();
                let lane = lanes.get_mut(&group);
                next = lane.and_then(|lane| {
                    if retried.is_some() {
                        behind = std::mem::take(lane);
                        None
                    } else if failpoint::hit("unordered") {
                        lane.pop_back()
                    } else {
                        lane.pop_front()
                    }
                });
                if next.is_none() {
                    lanes.remove(&group);
                }
            }
            for (message, work) in behind {
                self.metrics.busy(Busy::Order);
                let refusal = Refusal::new(ErrorCode::Busy, "an earlier message to this group has to be sent again first");
                work.answer(message.id, Err(Refusal { retry_after_ms: retried, ..refusal }));
            }
        }
    }

    async fn send_one(self: &Arc<Self>, session: &Arc<SessionHandle>, message: Outgoing) -> Result<ReplyBody, Refusal> {
        let Outgoing { group, nonce, body, reply_to, data, .. } = message;
        let said = Said { body, reply_to, data };
        let (message_id, draft) = Draft::message(&self.config.limits, &session.user, group, nonce, said, Some(session.id))?;
        let position = self.accept_of_member(session, group, draft).await?;
        if let Some(live) = session.groups.lock().get_mut(&group) {
            live.sent = live.sent.max(position);
        }
        self.metrics.accepted.inc();
        Ok(ReplyBody::Sent { message_id, position })
    }

    /// Gets a member's draft stored. Who is a member is asked again between tries, which may go on for
    /// longer than that may be old.
    async fn accept_of_member(self: &Arc<Self>, session: &Arc<SessionHandle>, group: GroupId, draft: Draft) -> Result<Position, Refusal> {
        let deadline = Instant::now() + self.config.limits.send_deadline;
        // From the first try on that ended in doubt: it may be stored all the same, whatever a later one says.
        let mut in_doubt = None;
        loop {
            if let Err(refusal) = self.authorise(session, group, deadline).await {
                return Err(in_doubt.unwrap_or(refusal));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.accept(session, draft.clone(), left.min(TRY)).await {
                Ok(position) => return Ok(position),
                Err(error) if error.code == ErrorCode::Pending && left > TRY => in_doubt = Some(error.into()),
                Err(error) => return Err(in_doubt.unwrap_or_else(|| error.into())),
            }
        }
    }

    /// Stores a notification to a user or a group.
    pub(super) async fn notify_one(
        self: &Arc<Self>,
        session: &Arc<SessionHandle>,
        to: Audience,
        nonce: Nonce,
        body: String,
        data: Option<Data>,
    ) -> Result<ReplyBody, Refusal> {
        let (notification_id, draft) = Draft::notification(&self.config.limits, Some(&session.user), to.clone(), nonce, body, data)?;
        let position = match to {
            Audience::Group(group) => self.accept_of_member(session, group, draft).await?,
            Audience::User(_) => self.accept(session, draft, self.config.limits.send_deadline).await?,
        };
        Ok(ReplyBody::Notified { notification_id, position })
    }

    /// Gets a draft stored. The stream refuses a second event under one id within a shard only; that
    /// this connection used the nonce for another one shows here.
    async fn accept(&self, session: &SessionHandle, draft: Draft, patience: Duration) -> Result<Position, NotAccepted> {
        if !session.admit(draft.id(), draft.payload()) {
            return Err(NotAccepted::nonce_reused());
        }
        accept(&*self.broker, &self.intake, draft, patience).await
    }
}
