//! Messages, and what may be asked again until it has an answer.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, anyhow};
use futures::future::join_all;
use natter_shared::id::{GroupId, GroupRef, MessageId, Nonce, UserId};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Client, RequestError};
use crate::{
    checker::{Content, Fact},
    record::position_of,
};

impl Client {
    /// Sends a message under a nonce.
    pub async fn send_as(&self, nonce: Nonce, group: &str, body: &str) -> Result<Fact, RequestError> {
        let frame = json!({"type": "send", "group": group, "nonce": nonce, "body": body});
        let reply = self.request(frame).await?;
        Ok(self.sent(nonce, group, body, &reply))
    }

    /// What was sent, as the reply says.
    fn sent(&self, nonce: Nonce, group: &str, body: &str, reply: &Value) -> Fact {
        let message: MessageId = reply["message_id"].as_str().and_then(|id| id.parse().ok()).expect("a message's id");
        let position = position_of(&reply["position"]).expect("a position");
        let group = group.parse::<GroupRef>().expect("a group").id();
        assert_eq!(message, self.message_id(nonce), "the id is derived from sender and nonce");
        Fact { message, group, position, content: Content::of(&self.user.id, body) }
    }

    /// Sends a message.
    pub async fn send(&self, group: GroupId, body: &str) -> Result<Fact, RequestError> {
        self.send_as(Nonce::now(), &group.to_string(), body).await
    }

    /// Sends messages one right after the other, without waiting for answers; gives these in the same order, and how long each took.
    pub async fn send_together(&self, group: GroupId, messages: &[(Nonce, String)]) -> Vec<(Duration, Result<Fact, RequestError>)> {
        let (group, began) = (group.to_string(), Instant::now());
        let send = async |nonce, body| {
            let sent = self.send_as(nonce, &group, body).await;
            (began.elapsed(), sent)
        };
        join_all(messages.iter().map(|(nonce, body)| send(*nonce, body))).await
    }

    /// The id that a message of this user has.
    pub fn message_id(&self, nonce: Nonce) -> MessageId {
        MessageId::derive(&UserId::new(&self.user.id).expect("a user's id"), nonce)
    }

    /// Sends until it is accepted: retries with the same nonce, over as many connections as needed.
    pub async fn send_until_accepted(
        &mut self,
        nonce: Nonce,
        group: GroupId,
        body: &str,
        gateways: &[SocketAddr],
        patience: Duration,
    ) -> Result<Fact> {
        let group = group.to_string();
        let frame = json!({"type": "send", "group": group, "nonce": nonce, "body": body});
        let reply = self.ask_until_answered(frame, gateways, patience).await?;
        Ok(self.sent(nonce, &group, body, &reply))
    }

    /// Sends a frame that may be repeated until it has a reply, over as many connections as needed.
    ///
    /// # Errors
    /// [`RequestError::Refused`] where trying again is of no use; whatever it was when time is up.
    pub async fn ask_until_answered(&mut self, frame: Value, gateways: &[SocketAddr], patience: Duration) -> Result<Value> {
        let (began, until) = (Instant::now(), Instant::now() + patience);
        self.tries.clear();
        loop {
            let at = began.elapsed();
            let answer = self.request(frame.clone()).await;
            let said = answer.as_ref().map_or_else(ToString::to_string, |_| "answered".to_owned());
            self.tries.push(format!("{at:.1?} to {:.1?}: {said}", began.elapsed()));
            let error = match answer {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            if Instant::now() > until {
                return Err(anyhow!(error).context("no reply in time"));
            }
            match &error {
                RequestError::Refused(frame) if frame["retryable"] == true => {
                    let pause = frame["retry_after_ms"].as_u64().unwrap_or(100);
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                RequestError::Refused(_) => return Err(error.into()),
                RequestError::Closed(_) | RequestError::Silence(_) => {
                    self.reconnect_to_any(gateways, until.saturating_duration_since(Instant::now())).await?;
                }
            }
        }
    }
}
