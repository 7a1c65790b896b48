//! Calls between gateway and persister, announcements, and ephemera: core NATS, nothing is stored.

use std::{sync::Arc, time::Duration};

use async_nats::{Client, PublishErrorKind, connection::State};
use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::sync::{Semaphore, oneshot};
use tracing::warn;

use super::{
    super::{BrokerError, Call, Calls, Control, Controls},
    NatsBroker,
    exchange::ExchangeError,
    link::Publication,
    options::Role,
};
use crate::{
    rpc,
    subject::{self, Space, Topic},
};

/// Servers of calls share them.
const QUEUE_GROUP: &str = "persister";
/// An answer later than this has no caller any more.
const ANSWER_WITHIN: Duration = Duration::from_mins(1);

fn unavailable(error: impl std::fmt::Display) -> BrokerError {
    BrokerError::Unavailable(error.to_string())
}

fn connected(client: &Client) -> Result<&Client, BrokerError> {
    if client.connection_state() == State::Connected { Ok(client) } else { Err(unavailable("not connected")) }
}

impl NatsBroker {
    pub(super) async fn request_now(&self, name: &str, payload: Bytes, timeout: Duration) -> Result<Bytes, BrokerError> {
        match self.calls.call(subject::rpc(name).into(), None, payload, timeout).await {
            Ok(answer) => Ok(answer.payload),
            Err(ExchangeError::NoResponders) => Err(BrokerError::NoResponder),
            Err(ExchangeError::Refused(reason)) => Err(BrokerError::Refused(reason)),
            Err(error @ (ExchangeError::Disconnected | ExchangeError::Full | ExchangeError::TimedOut)) => Err(unavailable(error)),
        }
    }

    pub(super) async fn serve_now(&self) -> Result<Calls, BrokerError> {
        if self.role != Role::Persister {
            return Err(BrokerError::Refused("only the persister answers calls".to_owned()));
        }
        let client = self.connections.calls.clone();
        let messages = client.queue_subscribe(subject::rpc("*"), QUEUE_GROUP.to_owned()).await.map_err(unavailable)?;
        let slots = Arc::new(Semaphore::new(self.options.max_calls));
        let calls = messages.filter_map(move |message| {
            let (client, slots) = (client.clone(), Arc::clone(&slots));
            async move {
                let name = message.subject.strip_prefix("rpc.")?.to_owned();
                let reply = message.reply?;
                // More calls than this wait here, and then in the subscription.
                let slot = slots.acquire_owned().await.ok()?;
                let (respond, answer) = oneshot::channel();
                tokio::spawn(async move {
                    let _slot = slot;
                    let Ok(Ok(answer)) = tokio::time::timeout(ANSWER_WITHIN, answer).await else { return };
                    if let Err(error) = client.publish(reply.clone(), answer).await {
                        warn!(%error, "answer_not_sent");
                        if error.kind() == PublishErrorKind::MaxPayloadExceeded {
                            let _ = client.publish(reply, Bytes::from_static(rpc::TOO_LARGE)).await;
                        }
                    }
                });
                Some(Call { name, payload: message.payload, respond })
            }
        });
        Ok(Box::pin(calls))
    }

    pub(super) async fn announce_now(&self, control: &Control) -> Result<(), BrokerError> {
        let payload = serde_json::to_vec(control).map_err(|error| BrokerError::Refused(error.to_string()))?;
        let client = connected(&self.connections.calls)?;
        let subject = if control.is_of_gateways() { subject::GATEWAYS } else { subject::CONTROL };
        client.publish(subject, Bytes::from(payload)).await.map_err(unavailable)
    }

    pub(super) async fn controls_now(&self) -> Result<Controls, BrokerError> {
        let of_persisters = self.connections.calls.subscribe(subject::CONTROL).await.map_err(unavailable)?;
        let of_gateways = self.connections.calls.subscribe(subject::GATEWAYS).await.map_err(unavailable)?;
        Ok(Box::pin(stream::select(of_persisters, of_gateways).filter_map(|message| {
            let control = serde_json::from_slice::<Control>(&message.payload);
            if let Err(error) = &control {
                warn!(%error, "control_not_understood");
            }
            // Nobody speaks for the others.
            let by_gateway = message.subject.as_str() == subject::GATEWAYS;
            std::future::ready(control.ok().filter(|control| control.is_of_gateways() == by_gateway))
        })))
    }

    pub(super) fn publish_ephemeral_now(&self, topic: Topic, payload: &[u8]) -> Result<(), BrokerError> {
        let subject = subject::subject(Space::Live, self.shards.of(topic), topic);
        let publication = Publication { subject: &subject, reply: None, headers: &[], payload };
        Ok(self.connections.publishing.publish([publication])?)
    }
}
