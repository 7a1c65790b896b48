//! The one task that writes: takes what has queued up, gives out positions, commits it all at once,
//! and only then acknowledges and delivers.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tracing::{error, info, warn};

use super::{
    super::{Ack, BrokerError, Outgoing, Stored, window::Room},
    clock::Clock,
    live::Hub,
    log::Logs,
    retention::Applied,
    unavailable,
    writing::{Going, Writing},
};
use crate::{
    id::EventId,
    position::{Epoch, Position},
    subject::{Shard, Shards, Topic},
    timestamp::Timestamp,
};

/// Commands taken at once; their payloads are bounded by the frames they came in.
const GROUP: usize = 2048;
/// How often what is applied and old is forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(2);
/// How soon when a round did not get to the end of it.
const FORGET_MORE: Duration = Duration::from_millis(100);
/// Events after which a log's size is noted anew.
const NOTED_EVERY: u64 = 10_000;
/// Rows of a failed commit that are looked for at once.
const RESYNC: usize = 4096;

/// What the writer is asked.
pub(super) enum Command {
    Publish { event: Outgoing, room: Room, respond: oneshot::Sender<Result<Ack, BrokerError>> },
    OpenEpoch { shard: Shard, epoch: Epoch, respond: oneshot::Sender<Result<(), BrokerError>> },
    Stop,
}

/// The writer's own.
pub(super) struct Writer {
    pub(super) file: Writing,
    pub(super) logs: Arc<Logs>,
    pub(super) hub: Arc<Hub>,
    pub(super) applied: Arc<Applied>,
    pub(super) clock: Arc<Clock>,
    pub(super) shards: Shards,
    pub(super) max_bytes: u64,
    pub(super) max_age: Duration,
    /// Ended epochs that are deleted, piece by piece.
    pub(super) going: VecDeque<(Shard, Epoch)>,
}

/// Who waits for what, and its room in the window until it has it.
type Answer = (Respond, Ack, Room);
type Respond = oneshot::Sender<Result<Ack, BrokerError>>;

/// A group that is about to be committed: by shard, and who waits for what.
#[derive(Default)]
struct Group {
    staged: HashMap<Shard, Staged>,
    answers: Vec<Answer>,
}

struct Staged {
    epoch: Epoch,
    last: u64,
    events: Vec<Stored>,
    ids: HashMap<EventId, Position>,
    last_of: HashMap<Topic, u64>,
}

/// Answers all with `error`; true when one of them was to stop.
fn refuse(commands: &mut Vec<Command>, error: &sea_orm::DbErr) -> bool {
    let mut stop = false;
    for command in commands.drain(..) {
        match command {
            Command::Publish { respond, .. } => drop(respond.send(Err(unavailable(error)))),
            Command::OpenEpoch { respond, .. } => drop(respond.send(Err(unavailable(error)))),
            Command::Stop => stop = true,
        }
    }
    stop
}

impl Writer {
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut commands = Vec::with_capacity(GROUP);
        let mut in_doubt = false;
        let mut forget_at = Instant::now() + FORGET_EVERY;
        loop {
            tokio::select! {
                taken = queue.recv_many(&mut commands, GROUP) => if taken == 0 { break },
                () = tokio::time::sleep_until(forget_at) => {}
            }
            if in_doubt {
                match self.resync().await {
                    Ok(()) => in_doubt = false,
                    Err(error) => {
                        error!(%error, "log_not_readable");
                        if refuse(&mut commands, &error) {
                            break;
                        }
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                }
            }
            let mut group = Group::default();
            let mut stop = false;
            for command in commands.drain(..) {
                match command {
                    Command::Publish { event, room, respond } => self.stage(&mut group, event, room, respond),
                    Command::OpenEpoch { shard, epoch, respond } => {
                        // In the order it was asked.
                        in_doubt |= !self.commit(std::mem::take(&mut group)).await;
                        // The caller may have gone.
                        let _ = respond.send(self.open_epoch(shard, epoch).await);
                    }
                    Command::Stop => stop = true,
                }
            }
            in_doubt |= !self.commit(group).await;
            if stop {
                break;
            }
            if Instant::now() >= forget_at {
                let more = self.forget().await;
                forget_at = Instant::now() + if more { FORGET_MORE } else { FORGET_EVERY };
            }
        }
        self.file.close().await;
    }

    /// Gives the event its position, or finds the one it has.
    fn stage(&self, group: &mut Group, event: Outgoing, room: Room, respond: Respond) {
        let shard = self.shards.of(event.topic);
        let staged = group.staged.get(&shard);
        let known = self.logs.with(shard, |log| {
            let duplicate = staged.and_then(|staged| staged.ids.get(&event.id).copied());
            let previous = staged.and_then(|staged| staged.last_of.get(&event.topic).copied());
            let clock = self.clock.now().max(log.stored_at);
            (
                duplicate.or_else(|| log.position_of(event.id)),
                previous.unwrap_or_else(|| log.previous(event.topic)),
                (log.epoch, log.last, clock),
            )
        });
        let (duplicate, previous, (epoch, last, stored_at)) = match known {
            Ok(known) => known,
            // The caller may have gone.
            Err(error) => return drop(respond.send(Err(error))),
        };
        if event.epoch.is_some_and(|only| only != epoch) {
            return drop(respond.send(Err(BrokerError::Epoch { shard, current: epoch })));
        }
        if let Some(position) = duplicate {
            group.answers.push((respond, Ack { position, duplicate: true }, room));
            return;
        }
        let staged = group.staged.entry(shard).or_insert_with(|| Staged {
            epoch,
            last,
            events: Vec::new(),
            ids: HashMap::new(),
            last_of: HashMap::new(),
        });
        staged.last += 1;
        let position = Position::new(epoch, staged.last);
        let Outgoing { topic, id, made_at, payload, .. } = event;
        staged.ids.insert(id, position);
        staged.last_of.insert(topic, position.seq);
        staged.events.push(Stored { topic, position, previous, id, made_at, stored_at, payload });
        group.answers.push((respond, Ack { position, duplicate: false }, room));
    }

    /// Commits, acknowledges, delivers. False when what is in the file is in doubt.
    async fn commit(&self, group: Group) -> bool {
        let Group { staged, answers } = group;
        let groups: Vec<_> = staged.into_iter().map(|(shard, staged)| (shard, staged.epoch, staged.events)).collect();
        if !groups.is_empty()
            && let Err(error) = self.file.commit(&groups).await
        {
            error!(%error, events = answers.len(), "log_not_written");
            for (respond, ..) in answers {
                drop(respond.send(Err(unavailable(&error))));
            }
            return false;
        }
        for (shard, _, events) in &groups {
            self.logs.append(*shard, events);
        }
        for (respond, ack, _) in answers {
            drop(respond.send(Ok(ack)));
        }
        let events = groups.into_iter().flat_map(|(shard, _, events)| events.into_iter().map(move |e| (shard, e)));
        self.hub.deliver(events);
        true
    }

    /// After a failed commit: what the file has after all is taken over, so that no sequence is
    /// given out twice. (A sync may fail after the pages were written.)
    async fn resync(&self) -> Result<(), sea_orm::DbErr> {
        let file = self.file.as_file();
        for shard in self.shards.iter() {
            let Ok(state) = self.logs.state(shard) else { continue };
            let mut from = Position::new(state.epoch, state.last + 1);
            loop {
                let mut events = file.from(shard, from, RESYNC).await?;
                let Some(last) = events.last().map(|last| last.position.seq) else { break };
                warn!(%shard, events = events.len(), "log_had_more");
                for stored in &mut events {
                    let before = self.logs.with(shard, |log| log.previous(stored.topic));
                    stored.previous = before.unwrap_or_default();
                    self.logs.append(shard, std::slice::from_ref(stored));
                }
                self.hub.deliver(events.into_iter().map(|stored| (shard, stored)));
                from.seq = last + 1;
            }
        }
        Ok(())
    }

    async fn open_epoch(&self, shard: Shard, epoch: Epoch) -> Result<(), BrokerError> {
        if shard.0 >= self.shards.count() {
            return Err(BrokerError::NoLog(shard));
        }
        match self.logs.state(shard) {
            Ok(state) if state.epoch == epoch => return Ok(()),
            Ok(state) if state.epoch > epoch => return Err(BrokerError::Epoch { shard, current: state.epoch }),
            Ok(_) | Err(_) => {}
        }
        self.file.create(shard, epoch).await.map_err(unavailable)?;
        self.logs.open(shard, epoch);
        info!(%shard, %epoch, "epoch_opened");
        Ok(())
    }

    /// Forgets what is applied and too old or too much, a bounded piece; true when there is more.
    async fn forget(&mut self) -> bool {
        let (mut more, mut unsure) = (false, Vec::new());
        for shard in self.shards.iter() {
            let Some(applied) = self.applied.get(shard) else { continue };
            match self.forget_of(shard, applied).await {
                Ok(forgot) => more |= forgot,
                Err(error) => {
                    warn!(%shard, %error, "log_not_trimmed");
                    // Memory may have forgotten what the file still has.
                    unsure.push(shard);
                }
            }
        }
        more |= self.drop_piece().await;
        for shard in self.shards.iter().filter(|shard| !unsure.contains(shard)) {
            if let Err(error) = self.note_size(shard).await {
                warn!(%shard, %error, "log_size_not_noted");
            }
        }
        more
    }

    /// A piece of one of the ended epochs that go, each in its turn; true when there is more.
    async fn drop_piece(&mut self) -> bool {
        let Some((shard, epoch)) = self.going.pop_front() else { return false };
        match self.file.drop_piece(shard, epoch).await {
            Ok(true) => {
                info!(%shard, %epoch, "epoch_forgotten");
                !self.going.is_empty()
            }
            Ok(false) => {
                self.going.push_back((shard, epoch));
                true
            }
            Err(error) => {
                warn!(%shard, %epoch, %error, "log_not_trimmed");
                self.going.push_back((shard, epoch));
                false
            }
        }
    }

    /// Where much has changed since it was noted last.
    async fn note_size(&self, shard: Shard) -> Result<(), sea_orm::DbErr> {
        let size = self.logs.with(shard, |log| {
            let is_due = log.first != log.noted.0 || log.last >= log.noted.1 + NOTED_EVERY;
            is_due.then_some((log.epoch, (log.first, log.last), log.bytes))
        });
        let Ok(Some((epoch, ends, bytes))) = size else { return Ok(()) };
        self.file.note_size(shard, epoch, ends, bytes).await?;
        self.logs.noted(shard, ends);
        Ok(())
    }

    async fn forget_of(&mut self, shard: Shard, applied: Position) -> Result<bool, sea_orm::DbErr> {
        for epoch in self.logs.ended_before(shard, applied.epoch) {
            // First memory, then the file: what is left of it the next start finds.
            self.logs.dropped(shard, epoch);
            self.going.push_back((shard, epoch));
        }
        let Ok((state, bytes)) = self.logs.with(shard, |log| (Position::new(log.epoch, log.last), log.bytes)) else {
            return Ok(false);
        };
        if applied.epoch != state.epoch || state.seq == 0 {
            return Ok(false);
        }
        // The last event stays: it says where the log ends.
        let upto = Position::new(state.epoch, applied.seq.min(state.seq - 1));
        let before = Timestamp(Timestamp::now().0.saturating_sub(self.max_age.as_millis() as u64));
        let too_much = bytes.saturating_sub(self.max_bytes);
        let Some(Going { seq, bytes, more }) = self.file.oldest(shard, upto, before, too_much).await? else { return Ok(false) };
        // First memory, then the file: nobody is told of an event that has gone.
        self.logs.forget(shard, seq + 1);
        self.file.forget(shard, Position::new(upto.epoch, seq)).await?;
        self.logs.freed(shard, bytes);
        Ok(more)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use bytes::Bytes;
    use sea_orm::ConnectionTrait;
    use tokio::sync::watch;
    use uuid::Uuid;

    use super::{
        super::{
            super::BrokerStatus,
            EmbeddedOptions,
            file::{self, File},
        },
        *,
    };
    use crate::id::InstanceId;

    #[tokio::test]
    async fn a_size_is_noted_only_with_what_the_file_has_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log.db");
        let (file, writing) = File::open(&path, &EmbeddedOptions::default()).await.unwrap();
        let (shard, epoch, shards) = (Shard(0), Epoch(1), Shards::new(1).unwrap());
        writing.create(shard, epoch).await.unwrap();
        let stored = |seq| Stored {
            topic: Topic::Canary(InstanceId(Uuid::nil())),
            position: Position::new(epoch, seq),
            previous: 0,
            id: EventId(Uuid::from_u128(seq.into())),
            made_at: Timestamp(0),
            stored_at: Timestamp::now(),
            payload: Bytes::from_static(b"x"),
        };
        writing.commit(&[(shard, epoch, (1..=10).map(stored).collect())]).await.unwrap();
        let (logs, applied) = (Arc::new(Logs::load(&file, shards, 0).await.unwrap()), Arc::new(Applied::default()));
        applied.set(shard, Position::new(epoch, 10));
        let status = Arc::new(watch::Sender::new(BrokerStatus { connected: true, generation: 0, elections: 0, leaders: 0 }));
        let mut writer = Writer {
            file: writing,
            hub: Arc::new(Hub::new(status, 1)),
            clock: Arc::new(Clock::after(logs.latest())),
            logs,
            applied,
            shards,
            max_bytes: 303,
            max_age: Duration::from_hours(1),
            going: VecDeque::new(),
        };
        let other = file::connect(&path, false, 1).await.unwrap();
        let refuse = "CREATE TRIGGER refuse BEFORE DELETE ON events_0_1 BEGIN SELECT RAISE(ABORT, 'refused'); END";
        other.execute_unprepared(refuse).await.unwrap();
        writer.forget().await;
        assert_eq!(file.bounds(shard, epoch).await.unwrap(), (1, 10), "refused");
        other.execute_unprepared("DROP TRIGGER refuse").await.unwrap();
        writer.forget().await;
        assert_eq!(file.bounds(shard, epoch).await.unwrap(), (8, 10));
        let again = Logs::load(&file, shards, 0).await.unwrap();
        assert_eq!(again.with(shard, |log| log.bytes).unwrap(), 303);
    }
}
