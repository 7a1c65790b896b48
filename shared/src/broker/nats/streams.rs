//! Makes streams, one for each shard and epoch, and sees whether those that are there are fit.

use serde_json::{Map, Value, json};
use tracing::{info, warn};

use super::{
    super::{BrokerError, Control, DUPLICATE_WINDOW},
    NatsBroker,
    api::{ALLOW_ATOMIC, ApiError, StreamInfo},
    options::{NatsOptions, Role},
};
use crate::{
    position::Epoch,
    subject::{self, Shard, Space},
};

/// Bytes that a retired stream may take beside what it holds: copies may count a little differently.
const RETIRED_SLACK: u64 = 1 << 20;

/// What an operator may change of a stream: no guarantee rests on it.
const FREE: [&str; 4] = ["max_bytes", "max_age", "num_replicas", "description"];

/// What no stream of ours has, for a guarantee would not hold: it would ack nothing or too early, hold what nobody published to it,
/// store under other subjects, or nothing any more.
const NEVER: [&str; 6] = ["no_ack", "persist_mode", "mirror", "sources", "subject_transform", "sealed"];

impl NatsBroker {
    fn only_persisters(&self) -> Result<(), BrokerError> {
        match self.role {
            Role::Persister => Ok(()),
            Role::Gateway => Err(BrokerError::Refused("only the persister makes streams and changes them".to_owned())),
        }
    }

    pub(super) async fn open_epoch_now(&self, shard: Shard, epoch: Epoch) -> Result<(), BrokerError> {
        self.only_persisters()?;
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
        let takes_batches = self.fit_stream(shard, epoch).await?;
        self.epochs.settle(shard, epoch, takes_batches).await?;
        self.announce_epoch(shard, epoch).await;
        Ok(())
    }

    pub(super) async fn fit_now(&self, shard: Shard) -> Result<(), BrokerError> {
        self.only_persisters()?;
        let known = self.epochs.known(shard).map(|current| (current.epoch, self.api.exchange.connects()));
        if known.is_some() && self.fit.lock().get(&shard).copied() == known {
            return Ok(());
        }
        let current = self.epochs.look_up_now(shard).await?;
        let known = current.takes_batches();
        let takes_batches = self.fit_stream(shard, current.epoch).await?;
        current.tell(Some(takes_batches));
        if takes_batches != known {
            // Gateways look at the stream once more.
            self.announce_epoch(shard, current.epoch).await;
        }
        Ok(())
    }

    async fn announce_epoch(&self, shard: Shard, epoch: Epoch) {
        // Announcing is lossy anyway; who misses it learns from the server's refusals.
        if let Err(error) = self.announce_now(&Control::Epoch { shard: shard.0, epoch }).await {
            warn!(%shard, %epoch, %error, "epoch_not_announced");
        }
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
        self.update(stream, info.config, "max_bytes", json!(room)).await.map(drop)
    }

    async fn create(&self, shard: Shard, epoch: Epoch) -> Result<(), BrokerError> {
        let stream = subject::stream_name(shard, epoch);
        let config = Value::Object(config(shard, epoch, &self.options));
        self.api.call::<Value>(&format!("STREAM.CREATE.{stream}"), &config).await?;
        info!(%shard, %epoch, "epoch_opened");
        Ok(())
    }

    /// Whether the stream takes batches; refused where a guarantee does not hold of it. An older server drops what it does not
    /// know, without a word, and an operator may have changed it.
    async fn fit_stream(&self, shard: Shard, epoch: Epoch) -> Result<bool, BrokerError> {
        let seen = (epoch, self.api.exchange.connects());
        let stream = subject::stream_name(shard, epoch);
        let info = match self.api.stream_info(&stream).await {
            Ok(info) => info,
            // Who was asked for its name has it. Whether the log is lost others find out.
            Err(error) if error.is_no_stream() => return Err(BrokerError::Unavailable(error.to_string())),
            Err(error) => return Err(error.into()),
        };
        let null = Value::Null;
        let is_set = |value: &&Value| !(value.is_null() || **value == json!(false) || **value == json!([]) || **value == json!("default"));
        let set = NEVER.iter().find_map(|field| Some((field, info.config.get(field).filter(is_set)?)));
        if let Some((field, is)) = set {
            return Err(BrokerError::Refused(format!(
                "stream {stream} has {field}: {is}, which may not be set: change it with NATS's tools (docs/operations.md, Streams)"
            )));
        }
        let wanted = config(shard, epoch, &self.options);
        let differs: Vec<(&str, &Value, &Value)> = wanted
            .iter()
            .map(|(field, want)| (field.as_str(), info.config.get(field).unwrap_or(&null), want))
            .filter(|(field, is, want)| is != want && *field != ALLOW_ATOMIC)
            .collect();
        if let Some((field, is, want)) = differs.iter().find(|(field, ..)| !FREE.contains(field)) {
            return Err(BrokerError::Refused(format!(
                "stream {stream} has {field}: {is}, which has to be {want}: change it with NATS's tools (docs/operations.md, Streams)"
            )));
        }
        let takes_batches = match self.allow_batches(&stream, &info).await {
            Ok(takes_batches) => takes_batches,
            Err(error) => {
                warn!(stream, %error, "batches_not_allowed");
                if !matches!(error, ApiError::Server { .. }) {
                    // Each event goes by itself until this is asked again.
                    return Ok(false);
                }
                false
            }
        };
        if self.fit.lock().insert(shard, seen) != Some(seen) {
            for (field, is, want) in differs {
                warn!(stream, field, %is, config = %want, "stream_differs_from_config");
            }
        }
        Ok(takes_batches)
    }

    /// Lets a stream of one copy take batches, as one of an earlier release does not yet. Whether it does.
    async fn allow_batches(&self, stream: &str, info: &StreamInfo) -> Result<bool, ApiError> {
        if self.options.replicas > 1 || info.has_copies() || info.takes_batches() {
            return Ok(info.takes_batches());
        }
        let info = self.update(stream, info.config.clone(), ALLOW_ATOMIC, json!(true)).await?;
        if info.takes_batches() {
            info!(stream, "batches_allowed");
        }
        Ok(info.takes_batches())
    }

    /// Changes one field of a stream's `config`. How the stream is then.
    async fn update(&self, stream: &str, mut config: Value, field: &str, value: Value) -> Result<StreamInfo, ApiError> {
        if let Some(config) = config.as_object_mut() {
            config.insert(field.to_owned(), value);
        }
        self.api.call(&format!("STREAM.UPDATE.{stream}"), &config).await
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
        ("duplicate_window", json!(nanos(DUPLICATE_WINDOW))),
        ("allow_direct", json!(true)),
        ("deny_delete", json!(true)),
        ("deny_purge", json!(true)),
        ("republish", json!({ "src": subject::all_of(Space::Event, shard), "dest": subject::all_of(Space::Live, shard) })),
    ];
    // Where there are several copies, what their leader proposes goes together anyway.
    let of_one_copy = (options.replicas == 1).then_some((ALLOW_ATOMIC, json!(true)));
    fields.into_iter().chain(of_one_copy).map(|(name, value)| (name.to_owned(), value)).collect()
}
