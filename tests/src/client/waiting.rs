//! Waiting for what comes.

use std::time::Duration;

use anyhow::{Result, bail};
use natter_shared::id::GroupId;
use serde_json::Value;
use tokio::time::Instant;

use super::{ANSWER, Client};
use crate::record::Record;

impl Client {
    /// Waits until a push satisfies `wanted`, those already here included.
    pub async fn wait_for(&self, what: &str, patience: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let found = self.wait_until(what, patience, |record| record.pushes.iter().find(|push| wanted(push)).cloned());
        found.await
    }

    /// Waits until `look` finds something in the record.
    pub async fn wait_until<T>(&self, what: &str, patience: Duration, look: impl Fn(&Record) -> Option<T>) -> Result<T> {
        let mut news = self.news.subscribe();
        let until = Instant::now() + patience;
        loop {
            if let Some(found) = look(&self.record.lock()) {
                return Ok(found);
            }
            if tokio::time::timeout_at(until, news.changed()).await.is_err() {
                let record = self.record.lock();
                let from = record.pushes.len().saturating_sub(10);
                bail!(
                    "{} waited in vain for {what}; closed: {:?}; last pushes: {:#?}",
                    self.user.handle,
                    record.closed,
                    &record.pushes[from..]
                );
            }
        }
    }

    /// Waits until a message with this body has arrived.
    pub async fn wait_for_body(&self, body: &str) -> Result<Value> {
        self.wait_for(body, ANSWER, |push| push["type"] == "message" && push["body"] == body).await
    }

    /// Waits until the connection is closed; returns code and reason.
    pub async fn wait_for_close(&self, patience: Duration) -> Result<(u16, String)> {
        self.wait_until("a close", patience, |record| record.closed.clone()).await
    }

    /// The bodies of a group's messages in the order they came.
    pub fn bodies(&self, group: GroupId) -> Vec<String> {
        let group = group.to_string();
        let is_its = |push: &&Value| push["type"] == "message" && push["group"] == group.as_str();
        let body = |push: &Value| push["body"].as_str().unwrap_or_default().to_owned();
        self.record.lock().pushes.iter().filter(is_its).map(body).collect()
    }
}
