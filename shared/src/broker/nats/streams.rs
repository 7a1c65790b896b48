//! Makes streams: one for each shard and epoch, checked after it is made.

use serde_json::{Map, Value, json};
use tracing::{info, warn};

use super::{
    super::{BrokerError, Control, DUPLICATE_WINDOW},
    NatsBroker,
    api::ApiError,
    options::{NatsOptions, Role},
};
use crate::{
    position::Epoch,
    subject::{self, Shard, Space},
};

/// Bytes that a retired stream may take beside what it holds: copies may count a little differently.
const RETIRED_SLACK: u64 = 1 << 20;

/// Whether a stream takes batches. One of an earlier release does not yet.
const ALLOW_ATOMIC: &str = "allow_atomic";

impl NatsBroker {
    pub(super) async fn open_epoch_now(&self, shard: Shard, epoch: Epoch) -> Result<(), BrokerError> {
        if self.role != Role::Persister {
            return Err(BrokerError::Refused("only the persister creates streams".to_owned()));
        }
        let current = match self.epochs.look_up_now(shard).await {
            Ok(current) => Some(current),
            Err(BrokerError::NoLog(_)) => None,
            Err(error) => return Err(error),
        };
        match current {
            Some(current) if current.epoch > epoch => {
                return Err(BrokerError::Epoch { shard, current: current.epoch });
            }
            Some(current) if current.epoch == epoch => {}
            Some(current) => {
                self.retire(shard, current.epoch, &current.stream).await?;
                self.create(shard, epoch).await?;
            }
            // Also after a crash between retiring and creating.
            None => self.create(shard, epoch).await?,
        }
        self.check(shard, epoch).await?;
        self.epochs.settle(shard, epoch).await?;
        let control = Control::Epoch { shard: shard.0, epoch };
        // Announcing is lossy anyway; who misses it learns from the server's refusals.
        if let Err(error) = self.announce_now(&control).await {
            warn!(%shard, %epoch, %error, "epoch_not_announced");
        }
        Ok(())
    }

    /// Moves the subjects away: nothing is stored there any more, and the next stream may have them. Nor does it keep room for
    /// more: of what the server lets streams have, it would take a whole one's share for ever.
    async fn retire(&self, shard: Shard, epoch: Epoch, stream: &str) -> Result<(), BrokerError> {
        let config = self.api.stream_info(stream).await?.config;
        self.update(stream, config, "subjects", json!([subject::retired(shard, epoch)])).await?;
        if let Err(error) = self.give_room_back(stream).await {
            warn!(%shard, %epoch, %error, "retired_epoch_keeps_its_room");
        }
        info!(%shard, %epoch, "epoch_retired");
        Ok(())
    }

    async fn give_room_back(&self, stream: &str) -> Result<(), ApiError> {
        let info = self.api.stream_info(stream).await?;
        let limit = info.config.get("max_bytes").and_then(Value::as_u64).unwrap_or(u64::MAX);
        let room = info.state.bytes().saturating_add(RETIRED_SLACK).min(limit);
        self.update(stream, info.config, "max_bytes", json!(room)).await
    }

    async fn create(&self, shard: Shard, epoch: Epoch) -> Result<(), BrokerError> {
        let stream = subject::stream_name(shard, epoch);
        let config = Value::Object(config(shard, epoch, &self.options));
        self.api.call::<Value>(&format!("STREAM.CREATE.{stream}"), &config).await?;
        info!(%shard, %epoch, "epoch_opened");
        Ok(())
    }

    /// Reads the stream back: an older server drops what it does not know, without a word.
    async fn check(&self, shard: Shard, epoch: Epoch) -> Result<(), BrokerError> {
        let stream = subject::stream_name(shard, epoch);
        let info = self.api.stream_info(&stream).await?;
        for (field, want) in config(shard, epoch, &self.options) {
            let is = info.config.get(&field);
            if is == Some(&want) {
                continue;
            }
            if field == ALLOW_ATOMIC {
                if info.config.get("num_replicas") == Some(&json!(1)) {
                    self.allow_batches(&stream, info.config.clone()).await;
                }
                continue;
            }
            // What an operator may have changed since, and what a promise rests on.
            if matches!(field.as_str(), "max_bytes" | "max_age" | "num_replicas" | "description") {
                warn!(stream, field, "stream_differs_from_config");
            } else {
                return Err(BrokerError::Refused(format!("stream {stream} has another {field} than it needs")));
            }
        }
        Ok(())
    }

    async fn allow_batches(&self, stream: &str, config: Value) {
        match self.update(stream, config, ALLOW_ATOMIC, json!(true)).await {
            Ok(()) => info!(stream, "batches_allowed"),
            // Each event goes by itself then, as before.
            Err(error) => warn!(stream, %error, "batches_not_allowed"),
        }
    }

    /// Changes one field of a stream's `config`.
    async fn update(&self, stream: &str, mut config: Value, field: &str, value: Value) -> Result<(), ApiError> {
        if let Some(config) = config.as_object_mut() {
            config.insert(field.to_owned(), value);
        }
        self.api.call::<Value>(&format!("STREAM.UPDATE.{stream}"), &config).await.map(drop)
    }
}

/// A shard's stream.
fn config(shard: Shard, epoch: Epoch, options: &NatsOptions) -> Map<String, Value> {
    let nanos = |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let fields = [
        ("name", json!(subject::stream_name(shard, epoch))),
        ("subjects", json!([subject::all_of(Space::Event, shard)])),
        ("retention", json!("limits")),
        ("discard", json!("old")),
        ("storage", json!("file")),
        ("max_consumers", json!(-1)),
        ("max_msgs", json!(-1)),
        ("max_msgs_per_subject", json!(-1)),
        ("max_msg_size", json!(-1)),
        ("max_bytes", json!(options.max_bytes_per_shard)),
        ("max_age", json!(nanos(options.max_age))),
        ("num_replicas", json!(options.replicas)),
        ("duplicate_window", json!(nanos(DUPLICATE_WINDOW.min(options.max_age)))),
        ("allow_direct", json!(true)),
        ("deny_delete", json!(true)),
        ("deny_purge", json!(true)),
        ("republish", json!({ "src": subject::all_of(Space::Event, shard), "dest": subject::all_of(Space::Live, shard) })),
    ];
    // Where there are several copies, what their leader proposes goes together anyway.
    let of_one_copy = (options.replicas == 1).then_some((ALLOW_ATOMIC, json!(true)));
    fields.into_iter().chain(of_one_copy).map(|(name, value)| (name.to_owned(), value)).collect()
}
