//! What services announce to each other.

use std::time::Duration;

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::{Broker, Unapplied};
use crate::{
    id::InstanceId,
    position::{Epoch, Position},
};

/// What services announce to each other; lossy, repeated by whoever announces.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Control {
    /// A persister has projected `shard` up to `position`.
    Applied {
        /// Which shard.
        shard: u16,
        /// Up to where.
        position: Position,
        /// What is left, where it was measured.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unapplied: Option<Unapplied>,
    },
    /// `shard` goes on in a new epoch.
    Epoch {
        /// Which shard.
        shard: u16,
        /// The new one.
        epoch: Epoch,
    },
    /// A persister has read that the list of users' standings is at `version`.
    Standings {
        /// Of the last change.
        version: u64,
    },
    /// A gateway is there, and keeps to the standings up to `standings`.
    Gateway {
        /// Which one.
        instance: InstanceId,
        /// The version of the list that it keeps to.
        standings: u64,
    },
}

impl Control {
    /// Whether gateways say it, and persisters do not.
    pub(crate) fn is_of_gateways(&self) -> bool {
        match self {
            Self::Gateway { .. } => true,
            Self::Applied { .. } | Self::Epoch { .. } | Self::Standings { .. } => false,
        }
    }
}

/// Before announcements that have ended, or could not be had, are listened to again.
const RETRY: Duration = Duration::from_millis(500);

/// Calls `on` with all that is announced, and listens again where that ends: for as long as it is awaited.
pub async fn hear(broker: &dyn Broker, mut on: impl FnMut(Control)) {
    loop {
        match broker.controls().await {
            Ok(mut controls) => {
                while let Some(control) = controls.next().await {
                    on(control);
                }
            }
            Err(error) => tracing::debug!(%error, "controls_unavailable"),
        }
        sleep(RETRY).await;
    }
}
