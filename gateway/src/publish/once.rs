//! Getting a draft stored, once under its id whatever happens: a retry of any age finds what the
//! first try stored.

use std::time::Duration;

use natter_shared::{
    broker::{self, Broker, CLOCKS_DIFFER, CurrentEpoch, DUPLICATE_WINDOW, SENDERS_AHEAD, VOID_AFTER},
    event::{Data, Event},
    frame::ErrorCode,
    id::EventId,
    position::Position,
    rpc::{self, Accepted, FindAccepted, ShardPosition},
    subject::{Shard, Topic},
    timestamp::Timestamp,
};
use tokio::time::Instant;

use super::{Draft, Intake, NotAccepted, PublishError, publish, wait_until_applied};

/// What is sent under a nonce older than this is looked up before it is published: the broker's
/// memory of ids is two minutes long, and a retry must never make a second message.
const OLD_NONCE: Duration = Duration::from_mins(1);

/// What is acked so shortly before it would be void is read back: clocks differ.
const DOUBT: Duration = Duration::from_secs(5);

/// Before a shard's epoch that is not known is asked for again.
const EPOCH_PAUSE: Duration = Duration::from_millis(100);

/// Before a first copy that could not be read is asked for again.
const COPY_PAUSE: Duration = Duration::from_millis(50);

/// A nonce from further ahead than this would count as new when it is old: its first copy would be forgotten by the
/// broker before its last one is void.
const FUTURE_NONCE: Duration = SENDERS_AHEAD;

// A young draft counts as made when its nonce was. So the first of its copies is stored `FUTURE_NONCE` before that at the
// earliest, and the last that counts `VOID_AFTER` after it: as long as the broker remembers an id, and some time to spare for
// clocks. One that was looked up follows on what was stored before; of it the same holds from there on.
const _: () = assert!(FUTURE_NONCE.as_secs() + VOID_AFTER.as_secs() + CLOCKS_DIFFER.as_secs() < DUPLICATE_WINDOW.as_secs());
// And a draft that is just young has time to be stored.
const _: () = assert!(OLD_NONCE.as_secs() + 20 < VOID_AFTER.as_secs());

/// Gets a draft stored, and says where it stands: where it stood already if it is a retry.
///
/// # Errors
/// `nonce_reused` where its id stands for something else; `busy` where it is not taken now; `pending` where it is not known after
/// `patience` whether it is stored: the same draft may be given again, at any time.
pub async fn accept(broker: &dyn Broker, intake: &Intake, draft: Draft, patience: Duration) -> Result<Position, NotAccepted> {
    let Draft { topic, id, nonce, event, payload } = draft;
    let now = broker.now();
    let sent = Timestamp(nonce.millis());
    if sent.since(now) > FUTURE_NONCE {
        return Err(NotAccepted::new(ErrorCode::BadRequest, "the nonce's time lies ahead; see `time` in ready"));
    }
    let (shard, deadline) = (broker.shards().of(topic), Instant::now() + patience);
    let age = now.since(sent);
    let made_at = if age > OLD_NONCE { now } else { sent.min(now) };
    let began = Instant::now().checked_sub(age);
    loop {
        let current = epoch_of(broker, shard, deadline).await?;
        let behind = if age > OLD_NONCE {
            // SQL must have come to where the first copy may stand.
            let log = broker.log_state(shard).await.map_err(rpc::RpcError::from)?;
            Some(Position::new(log.epoch, log.last))
        } else {
            // Or it stands in an earlier epoch, all of which SQL has before the next one begins.
            let is_doubtful = |since: Instant| began.is_none_or(|began| began < since);
            current.since.is_some_and(is_doubtful).then(|| Position::new(current.epoch, 0))
        };
        if let Some(position) = behind
            && let Some(accepted) = look_up(broker, id, ShardPosition { shard: shard.0, position }, deadline).await?
        {
            return same(&event, &accepted.event).then_some(accepted.position).ok_or_else(NotAccepted::nonce_reused);
        }
        let outgoing = broker::Outgoing { topic, id, made_at, epoch: Some(current.epoch), payload: payload.clone() };
        let left = deadline.saturating_duration_since(Instant::now());
        return match publish(broker, intake, &outgoing, left).await {
            // Or it may have been stored too late to count.
            Ok(ack) if ack.duplicate || broker.now().since(made_at) + DOUBT > VOID_AFTER => {
                check_duplicate(broker, topic, ack.position, &event, deadline).await
            }
            Ok(ack) => Ok(ack.position),
            Err(PublishError::OtherEpoch) if Instant::now() < deadline => continue,
            Err(error) => Err(error.into()),
        };
    }
}

/// The epoch that `shard` is in, asked until `deadline`.
async fn epoch_of(broker: &dyn Broker, shard: Shard, deadline: Instant) -> Result<CurrentEpoch, NotAccepted> {
    loop {
        let error = match broker.epoch(shard).await {
            Ok(current) => return Ok(current),
            Err(error) => error,
        };
        if Instant::now() + EPOCH_PAUSE >= deadline {
            return Err(PublishError::Pending(error).into());
        }
        tokio::time::sleep(EPOCH_PAUSE).await;
    }
}

/// What SQL has under `id`, once it has come to `behind`.
async fn look_up(broker: &dyn Broker, id: EventId, behind: ShardPosition, deadline: Instant) -> Result<Option<Accepted>, NotAccepted> {
    let found = match rpc::call(broker, FindAccepted { id }, Some(behind)).await {
        // A persister that is behind answers so after a second.
        Err(error) if error.code.is_retryable() => {
            wait_until_applied(broker, behind, deadline.saturating_duration_since(Instant::now())).await?;
            rpc::call(broker, FindAccepted { id }, Some(behind)).await
        }
        answer => answer,
    };
    Ok(found?.reply)
}

/// The id was stored before, or perhaps too late: as this very thing, or as another under the same nonce.
async fn check_duplicate(
    broker: &dyn Broker,
    topic: Topic,
    position: Position,
    event: &Event,
    deadline: Instant,
) -> Result<Position, NotAccepted> {
    let pending = |reason: String| NotAccepted::new(ErrorCode::Pending, reason);
    let first = loop {
        let reason = match broker.get(broker.shards().of(topic), position).await {
            Ok(Some(first)) => break first,
            Ok(None) => "the first copy is not readable yet".to_owned(),
            Err(error) => error.to_string(),
        };
        // Its id is known to be stored there: a replica that lags was asked, or there is no leader just now.
        if Instant::now() + COPY_PAUSE >= deadline {
            return Err(pending(reason));
        }
        tokio::time::sleep(COPY_PAUSE).await;
    };
    if first.is_void() {
        return Err(pending("the first copy came too late to count; try again in two minutes".to_owned()));
    }
    match Event::decode(&first.payload) {
        Ok(stored) if same(event, &stored) => Ok(position),
        Ok(_) | Err(_) => Err(NotAccepted::nonce_reused()),
    }
}

/// Whether two events under one id say the same, whoever's connection they came over.
fn same(one: &Event, other: &Event) -> bool {
    match one {
        Event::Message(a) => matches!(other, Event::Message(b) if a.group == b.group
            && a.sender == b.sender
            && a.body == b.body
            && a.reply_to == b.reply_to
            && same_data(a.data.as_ref(), b.data.as_ref())),
        Event::Notification(a) => matches!(other, Event::Notification(b) if a.to == b.to
            && a.sender == b.sender
            && a.body == b.body
            && same_data(a.data.as_ref(), b.data.as_ref())),
        // Nothing else is drafted under a nonce.
        Event::GroupCreated(_)
        | Event::MemberAdded(_)
        | Event::MemberRemoved(_)
        | Event::GroupRenamed(_)
        | Event::GroupJoined(_)
        | Event::GroupLeft(_)
        | Event::Read(_)
        | Event::Seen(_)
        | Event::Canary => false,
    }
}

fn same_data(one: Option<&Data>, other: Option<&Data>) -> bool {
    one.map(|data| data.get()) == other.map(|data| data.get())
}
