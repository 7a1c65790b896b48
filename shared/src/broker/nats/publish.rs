//! Stores events: publishes into the shard's stream and waits for its ack.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    super::{Ack, BrokerError, Outgoing, window::Window},
    api::Api,
    clock::Clock,
    connect::Health,
    envelope::Labels,
    epochs::Epochs,
    exchange::ExchangeError,
    fence::Fence,
    gather::{Entry, Gather},
    stuck::Stuck,
    verdict::Verdict,
};
use crate::{
    position::Epoch,
    subject::{self, Shard, Shards, Space},
};

/// How long to leave the first copy before asking again.
const COPY_PAUSE: Duration = Duration::from_millis(50);
/// After so long it is found out whether the first copy is lost.
const LONG_IN_FLIGHT: Duration = Duration::from_millis(300);
/// How long a publish that was out when a new leader made itself known may take for its ack: it may have gone to the one
/// before, which is dead or cut off and never answers.
const ELECTED: Duration = Duration::from_millis(200);

/// The publishing side.
pub(super) struct Publisher {
    pub(super) gather: Gather,
    pub(super) epochs: Arc<Epochs>,
    pub(super) clock: Arc<Clock>,
    pub(super) health: Arc<Health>,
    pub(super) shards: Shards,
    pub(super) window: Arc<Window>,
    pub(super) stuck: Stuck,
    pub(super) fences: Arc<Vec<Fence>>,
    /// What a leader is asked by.
    pub(super) api: Api,
    pub(super) timeout: Duration,
}

/// What a leader has said of a first copy.
struct InFlight {
    since: Instant,
    /// Which it was: how often there was another one, and of which epoch.
    leader: (u64, Option<Epoch>),
    /// Something is stored that was sent later. If it still says so, the copy is lost.
    is_lost: bool,
}

impl Publisher {
    pub(super) async fn publish(&self, event: Outgoing) -> Result<Ack, BrokerError> {
        let _room = self.window.enter(event.payload.len())?;
        if !self.gather.is_connected() {
            // Else it would go out on reconnect, however late.
            return Err(BrokerError::Unavailable("not connected".to_owned()));
        }
        if !self.clock.is_sure() {
            // Else it might be void by its stamp, though acknowledged.
            return Err(BrokerError::Unavailable("the broker's time is not known".to_owned()));
        }
        let shard = self.shards.of(event.topic);
        let deadline = Instant::now() + self.timeout;
        let mut status = self.health.watch();
        let mut in_flight: Option<InFlight> = None;
        // Whether a copy may be on its way.
        let mut is_tried = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let overtaken = async {
                Health::new_leader(&mut status).await;
                tokio::time::sleep(ELECTED).await;
            };
            let answer = tokio::select! {
                answer = self.attempt(shard, &event, left) => match answer {
                    Err(error @ (BrokerError::Busy | BrokerError::Refused(_))) if is_tried => {
                        return Err(BrokerError::Unavailable(format!("no ack of the first copy, and then: {error}")));
                    }
                    answer => Some(answer?),
                },
                () = overtaken => None,
            };
            match answer {
                Some(Some(ack)) => return Ok(ack),
                Some(None) => self.doubt(shard, &mut in_flight, deadline).await,
                None => {}
            }
            is_tried = true;
            tracing::debug!(%shard, event = %event.id, "publish_without_ack");
            if left <= COPY_PAUSE {
                return Err(BrokerError::Unavailable("the first copy is still in flight".to_owned()));
            }
            tokio::time::sleep(COPY_PAUSE).await;
        }
    }

    /// The leader says that the first copy is in flight: after a while it is found out whether that is lost, and what
    /// holds it is asked to hand over. A leader stores in the order in which it proposes, so a canary that was
    /// sent later and is stored has overtaken what is not.
    async fn doubt(&self, shard: Shard, in_flight: &mut Option<InFlight>, deadline: Instant) {
        let leader = (self.health.watch().borrow().leaders, self.epochs.known(shard).map(|current| current.epoch));
        match in_flight {
            Some(known) if known.leader == leader && known.is_lost => {
                if let Some(current) = self.epochs.known(shard) {
                    self.stuck.ask_to_step_down(shard, &current.stream, leader.0, &self.api, &self.health);
                }
            }
            Some(known) if known.leader == leader && known.since.elapsed() > LONG_IN_FLIGHT => {
                if let Some(fence) = self.fences.get(usize::from(shard.0)) {
                    known.is_lost = matches!(tokio::time::timeout_at(deadline, fence.wait()).await, Ok(Ok(_)));
                }
            }
            Some(known) if known.leader == leader => {}
            Some(_) | None => *in_flight = Some(InFlight { since: Instant::now(), leader, is_lost: false }),
        }
    }

    /// None: the first copy is in flight.
    async fn attempt(&self, shard: Shard, event: &Outgoing, left: Duration) -> Result<Option<Ack>, BrokerError> {
        let current = self.epochs.current(shard).await?;
        if current.is_due() {
            drop(self.epochs.ask_what_it_takes(Arc::clone(&current)));
        }
        if event.epoch.is_some_and(|only| only != current.epoch) {
            return Err(BrokerError::Epoch { shard, current: current.epoch });
        }
        let subject = subject::subject(Space::Event, shard, event.topic);
        let entry = Entry { subject, labels: Labels::of(event), current, payload: event.payload.clone() };
        let verdict = match self.gather.store(shard, entry, left).await {
            Ok(verdict) => verdict,
            Err(ExchangeError::NoResponders) => {
                // No stream takes the subject, or its leader is away. Who could tell may be away too.
                self.epochs.look_up_soon(shard);
                return Err(BrokerError::Unavailable("no leader answers".to_owned()));
            }
            Err(ExchangeError::Refused(reason)) => return Err(BrokerError::Refused(reason)),
            Err(ExchangeError::Full) => return Err(BrokerError::Busy),
            Err(error @ (ExchangeError::Disconnected | ExchangeError::TimedOut)) => {
                return Err(BrokerError::Unavailable(error.to_string()));
            }
        };
        match verdict {
            Verdict::Stored(ack) => Ok(Some(ack)),
            Verdict::InFlight => Ok(None),
            Verdict::OtherStream => {
                let now = self.epochs.look_up(shard).await?;
                Err(BrokerError::Epoch { shard, current: now.epoch })
            }
            Verdict::Refused(reason) => Err(BrokerError::Refused(reason)),
            Verdict::NotNow(reason) => Err(BrokerError::Unavailable(reason)),
            Verdict::StoredTogether { .. } | Verdict::BatchWithCopy | Verdict::NoBatches => {
                Err(BrokerError::Unavailable("an ack of another's batch".to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpSocket,
        time::sleep,
    };

    use super::*;
    use crate::{
        broker::nats::{NatsBroker, NatsOptions, Role},
        id::{EventId, GroupId, InstanceId},
        subject::Topic,
        timestamp::Timestamp,
    };

    /// What a server has read.
    type Read = Arc<parking_lot::Mutex<Vec<u8>>>;

    /// A broker that knows its epochs, at a server that signs everybody in and acks nothing; it reads what comes, or does not.
    async fn broker(reads: bool, options: NatsOptions) -> (Arc<NatsBroker>, Read) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(16).unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let read = Read::default();
        let all = Arc::clone(&read);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (mut reading, mut writing) = stream.into_split();
                let all = Arc::clone(&all);
                tokio::spawn(async move {
                    let mut some = vec![0; 4096];
                    while reads && let Ok(length @ 1..) = reading.read(&mut some).await {
                        all.lock().extend_from_slice(&some[..length]);
                    }
                    std::future::pending::<()>().await;
                    drop(reading);
                });
                tokio::spawn(async move {
                    let _ = writing.write_all(b"INFO {}\r\nPONG\r\n").await;
                    // It is not left, though it answers nothing.
                    while writing.write_all(b"PING\r\n").await.is_ok() {
                        sleep(Duration::from_millis(200)).await;
                    }
                });
            }
        });
        let broker = NatsBroker::connect(NatsOptions { urls: vec![url], ..options }, Role::Gateway, InstanceId::random()).await.unwrap();
        for shard in broker.shards.iter() {
            broker.epochs.settle(shard, Epoch(1), true).await.unwrap();
        }
        let connected = async {
            while !broker.publisher.gather.is_connected() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), connected).await.unwrap();
        (broker, read)
    }

    fn event(bytes: usize) -> Outgoing {
        let topic = Topic::Group(GroupId(uuid::Uuid::now_v7()));
        Outgoing { topic, id: EventId::random(), made_at: Timestamp::now(), epoch: None, payload: vec![b'x'; bytes].into() }
    }

    fn observe(clock: &Clock) {
        let at = clock.steady();
        clock.observe(at, at, i64::try_from(Timestamp::now().0).unwrap() * 1000);
    }

    #[tokio::test]
    async fn nothing_is_published_while_the_time_is_in_doubt() {
        let (broker, read) = broker(true, NatsOptions { publish_timeout: Duration::from_millis(500), ..NatsOptions::default() }).await;
        let published = || {
            let read = read.lock();
            String::from_utf8_lossy(&read).lines().filter(|line| line.starts_with("HPUB ev.") && line.contains(".g.")).count()
        };
        // At first no canary has come back. Then the machine's clock is set by an hour.
        for round in 0..2 {
            let refused = broker.publisher.publish(event(1)).await;
            assert!(matches!(&refused, Err(BrokerError::Unavailable(reason)) if reason.contains("time is not known")), "{refused:?}");
            assert_eq!(published(), round);
            observe(&broker.clock);
            let unanswered = broker.publisher.publish(event(1)).await;
            assert!(matches!(unanswered, Err(BrokerError::Unavailable(_))), "{unanswered:?}");
            assert_eq!(published(), round + 1, "it was sent");
            broker.clock.set_machine(3_600_000_000);
        }
    }

    #[tokio::test]
    async fn what_finds_no_room_after_a_first_copy_was_sent_is_not_known_to_be_stored_or_not() {
        const LARGE: usize = 900_000;
        let patience = Duration::from_mins(1);
        let options = NatsOptions { max_in_flight_bytes: LARGE, publish_timeout: patience, ..NatsOptions::default() };
        let (broker, _read) = broker(false, options).await;
        observe(&broker.clock);
        // Each leader is sent another copy, until no more may wait to be sent.
        let leaders = async {
            loop {
                broker.health.note_leader();
                sleep(Duration::from_millis(20)).await;
            }
        };
        let told = tokio::select! {
            told = broker.publisher.publish(event(LARGE)) => told,
            () = leaders => return,
        };
        assert!(matches!(&told, Err(BrokerError::Unavailable(reason)) if reason.contains("too much")), "{told:?}");
        let next = broker.publisher.publish(event(1)).await;
        assert!(matches!(next, Err(BrokerError::Busy)), "of this one nothing was sent: {next:?}");
    }
}
