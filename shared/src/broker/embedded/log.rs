//! What is kept in memory of each shard's log: where it ends, the last event of each topic, the
//! ids of the last two minutes, and the most recent events themselves.

use std::collections::{BTreeMap, HashMap, VecDeque};

use parking_lot::RwLock;
use sea_orm::DbErr;
use tokio::{sync::watch, time::Instant};

use super::{
    super::{AFTER_CHANGE, BrokerError, CLOCKS_DIFFER, DUPLICATE_WINDOW, LogState, Stored, Tails},
    file::{File, StoredId},
};
use crate::{
    id::EventId,
    position::{Epoch, Position},
    subject::{Shard, Shards, Topic},
    timestamp::Timestamp,
};

/// How many recent events are looked through before the file's index is the cheaper way.
const SCAN: usize = 1024;
/// Rows read at once when a log is loaded.
const LOAD: usize = 10_000;

/// Where an event may be.
pub(super) enum Found {
    Here(Stored),
    InFile,
    Nowhere,
}

/// All shards' logs.
pub(super) struct Logs(Vec<Slot>);

struct Slot {
    log: RwLock<Option<Log>>,
    /// The end of the log, to wait for.
    end: watch::Sender<Option<Position>>,
    /// Ended epochs that are still in the file, and their last sequence.
    ended: RwLock<BTreeMap<Epoch, u64>>,
    tail_bytes: usize,
}

/// The current epoch of a shard.
pub(super) struct Log {
    pub(super) epoch: Epoch,
    /// When it was opened, or found; none if it is the first.
    pub(super) since: Option<Instant>,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) bytes: u64,
    pub(super) stored_at: Timestamp,
    /// From where to where the file has the log's size noted.
    pub(super) noted: (u64, u64),
    last_of: HashMap<Topic, u64>,
    ids: HashMap<EventId, u64>,
    /// The ids in the order they age.
    aging: VecDeque<(Timestamp, EventId)>,
    tail: VecDeque<Stored>,
    tail_bytes: usize,
}

impl Log {
    pub(super) fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            since: None,
            first: 1,
            last: 0,
            bytes: 0,
            stored_at: Timestamp(0),
            noted: (1, 0),
            last_of: HashMap::new(),
            ids: HashMap::new(),
            aging: VecDeque::new(),
            tail: VecDeque::new(),
            tail_bytes: 0,
        }
    }

    /// Reads what memory needs to know: ids that still count, and the last of each topic.
    async fn load(file: &File, shard: Shard, epoch: Epoch) -> Result<Self, DbErr> {
        let mut log = Self { since: Some(Instant::now()), ..Self::new(epoch) };
        (log.first, log.last) = file.bounds(shard, epoch).await?;
        (log.bytes, log.noted) = file.size(shard, epoch, log.first, log.last).await?;
        log.last_of = file.last_of(shard, epoch).await?.into_iter().collect();
        log.load_ids(file, shard).await?;
        Ok(log)
    }

    async fn load_ids(&mut self, file: &File, shard: Shard) -> Result<(), DbErr> {
        let Some(newest) = file.ids(shard, Position::new(self.epoch, self.last), 1).await?.pop() else { return Ok(()) };
        // As they age while the log is open: by its own time, which may be ahead of this machine's.
        let now = Timestamp::now().max(newest.stored_at);
        let since = now.offset_by(-(DUPLICATE_WINDOW.as_millis() as i64));
        let mut young: Vec<StoredId> = Vec::new();
        let mut upto = self.last;
        // Backwards in steps until they are too old to matter.
        loop {
            let rows = file.ids(shard, Position::new(self.epoch, upto), LOAD).await?;
            let read = rows.len();
            let next = rows.last().map_or(0, |oldest| oldest.seq.saturating_sub(1));
            let before = young.len();
            young.extend(rows.into_iter().take_while(|id| id.stored_at >= since));
            if young.len() - before < read || read < LOAD {
                break;
            }
            upto = next;
        }
        self.stored_at = newest.stored_at;
        for id in young.into_iter().rev() {
            self.remember_id(id);
        }
        Ok(())
    }

    fn remember_id(&mut self, StoredId { id, seq, stored_at }: StoredId) {
        self.stored_at = self.stored_at.max(stored_at);
        self.ids.insert(id, seq);
        self.aging.push_back((stored_at, id));
    }

    /// Where an event with this id stands already.
    pub(super) fn position_of(&self, id: EventId) -> Option<Position> {
        self.ids.get(&id).map(|seq| Position::new(self.epoch, *seq))
    }

    /// The last event of a topic that is still stored, 0 if none.
    pub(super) fn previous(&self, topic: Topic) -> u64 {
        self.last_of.get(&topic).copied().filter(|seq| *seq >= self.first).unwrap_or_default()
    }

    /// Enters what has been committed.
    fn append(&mut self, stored: &Stored, keep: usize) {
        self.last = stored.position.seq;
        self.bytes += stored.payload.len() as u64 + 100;
        self.last_of.insert(stored.topic, stored.position.seq);
        self.remember_id(StoredId { id: stored.id, seq: stored.position.seq, stored_at: stored.stored_at });
        self.tail_bytes += stored.payload.len() + size_of::<Stored>();
        self.tail.push_back(stored.clone());
        while self.tail_bytes > keep {
            let Some(oldest) = self.tail.pop_front() else { break };
            self.tail_bytes -= oldest.payload.len() + size_of::<Stored>();
        }
        let window = DUPLICATE_WINDOW;
        while let Some((at, id)) = self.aging.front().copied() {
            if self.stored_at.since(at) <= window {
                break;
            }
            self.aging.pop_front();
            self.ids.remove(&id);
        }
    }

    /// The recent events from `seq` on, if memory has them all.
    fn recent(&self, seq: u64) -> Option<impl Iterator<Item = &Stored>> {
        let floor = self.tail.front()?.position.seq;
        let skip = usize::try_from(seq.checked_sub(floor)?).ok()?;
        Some(self.tail.range(skip.min(self.tail.len())..))
    }
}

impl Logs {
    pub(super) async fn load(file: &File, shards: Shards, tail_bytes: usize) -> Result<Self, DbErr> {
        let kept = file.kept().await?;
        let mut slots = Vec::new();
        for shard in shards.iter() {
            let mut log = None;
            let mut ended = BTreeMap::new();
            let mut epochs: Vec<Epoch> = kept.iter().filter(|k| k.shard == shard).map(|k| k.epoch).collect();
            if let Some(current) = epochs.pop() {
                log = Some(Log::load(file, shard, current).await?);
            }
            for epoch in epochs {
                ended.insert(epoch, file.last(shard, epoch).await?);
            }
            let end = watch::Sender::new(log.as_ref().map(|log| Position::new(log.epoch, log.last)));
            slots.push(Slot { log: RwLock::new(log), end, ended: RwLock::new(ended), tail_bytes });
        }
        Ok(Self(slots))
    }

    fn slot(&self, shard: Shard) -> Result<&Slot, BrokerError> {
        self.0.get(usize::from(shard.0)).ok_or(BrokerError::NoLog(shard))
    }

    /// Looks at a shard's current log.
    pub(super) fn with<T>(&self, shard: Shard, look: impl FnOnce(&Log) -> T) -> Result<T, BrokerError> {
        let log = self.slot(shard)?.log.read();
        log.as_ref().map(look).ok_or(BrokerError::NoLog(shard))
    }

    pub(super) fn state(&self, shard: Shard) -> Result<LogState, BrokerError> {
        self.with(shard, |log| LogState { epoch: log.epoch, first: log.first, last: log.last })
    }

    /// When the last event of all was stored; 0 if there is none.
    pub(super) fn latest(&self) -> Timestamp {
        let of = |slot: &Slot| slot.log.read().as_ref().map(|log| log.stored_at);
        self.0.iter().filter_map(of).max().unwrap_or_default()
    }

    /// The same with the bytes.
    pub(super) fn size(&self, shard: Shard) -> Result<(LogState, u64), BrokerError> {
        self.with(shard, |log| (LogState { epoch: log.epoch, first: log.first, last: log.last }, log.bytes))
    }

    /// The end of the log, to wait for.
    pub(super) fn end(&self, shard: Shard) -> Result<watch::Receiver<Option<Position>>, BrokerError> {
        Ok(self.slot(shard)?.end.subscribe())
    }

    /// The last sequence of an ended epoch that is still in the file.
    pub(super) fn ended(&self, shard: Shard, epoch: Epoch) -> Option<u64> {
        self.slot(shard).ok()?.ended.read().get(&epoch).copied()
    }

    pub(super) fn ended_before(&self, shard: Shard, epoch: Epoch) -> Vec<Epoch> {
        self.slot(shard).map(|slot| slot.ended.read().range(..epoch).map(|(epoch, _)| *epoch).collect()).unwrap_or_default()
    }

    pub(super) fn dropped(&self, shard: Shard, epoch: Epoch) {
        if let Ok(slot) = self.slot(shard) {
            slot.ended.write().remove(&epoch);
        }
    }

    /// Enters committed events, in order; then readers see them.
    pub(super) fn append(&self, shard: Shard, events: &[Stored]) {
        let Ok(slot) = self.slot(shard) else { return };
        let end = {
            let mut log = slot.log.write();
            let Some(log) = log.as_mut() else { return };
            for stored in events {
                log.append(stored, slot.tail_bytes);
            }
            Position::new(log.epoch, log.last)
        };
        slot.end.send_replace(Some(end));
    }

    /// Goes on as `epoch`.
    pub(super) fn open(&self, shard: Shard, epoch: Epoch) {
        let Ok(slot) = self.slot(shard) else { return };
        {
            let mut log = slot.log.write();
            let is_first = log.is_none() && epoch == Epoch(1);
            // Where there was none before, it may be that of a new installation, all of whose sends would be looked up.
            let slack = if log.is_some() { AFTER_CHANGE } else { CLOCKS_DIFFER };
            let since = (!is_first).then(|| Instant::now() + slack);
            if let Some(old) = log.replace(Log { since, ..Log::new(epoch) }) {
                slot.ended.write().insert(old.epoch, old.last);
            }
        }
        slot.end.send_replace(Some(Position::new(epoch, 0)));
    }

    /// What is before `first` goes: nobody is told of it any more.
    pub(super) fn forget(&self, shard: Shard, first: u64) {
        let Ok(slot) = self.slot(shard) else { return };
        let mut log = slot.log.write();
        if let Some(log) = log.as_mut() {
            log.first = first;
            log.last_of.retain(|_, seq| *seq >= first);
        }
    }

    /// So many bytes have gone from the file, whose noted size holds no more.
    pub(super) fn freed(&self, shard: Shard, bytes: u64) {
        let Ok(slot) = self.slot(shard) else { return };
        if let Some(log) = slot.log.write().as_mut() {
            log.bytes = log.bytes.saturating_sub(bytes);
            log.noted = (0, 0);
        }
    }

    /// The file has the size of the log between these ends noted.
    pub(super) fn noted(&self, shard: Shard, ends: (u64, u64)) {
        let Ok(slot) = self.slot(shard) else { return };
        if let Some(log) = slot.log.write().as_mut() {
            log.noted = ends;
        }
    }

    pub(super) fn get(&self, shard: Shard, position: Position) -> Found {
        if self.ended(shard, position.epoch).is_some_and(|last| position.seq <= last) {
            return Found::InFile;
        }
        let found = self.with(shard, |log| {
            if position.epoch != log.epoch || !(log.first..=log.last).contains(&position.seq) {
                return Found::Nowhere;
            }
            log.recent(position.seq).and_then(|mut tail| tail.next()).map_or(Found::InFile, |s| Found::Here(s.clone()))
        });
        found.unwrap_or(Found::Nowhere)
    }

    /// The next event of a topic, or the position in the current epoch after which to look.
    pub(super) fn next_of(&self, shard: Shard, topic: Topic, after: Position) -> Result<(Position, Found), BrokerError> {
        self.with(shard, |log| {
            if after.epoch > log.epoch {
                return Err(BrokerError::Epoch { shard, current: log.epoch });
            }
            let seq = if after.epoch < log.epoch { 0 } else { after.seq };
            let after = Position::new(log.epoch, seq);
            if log.previous(topic) <= seq {
                return Ok((after, Found::Nowhere));
            }
            let Some(tail) = log.recent(seq + 1) else { return Ok((after, Found::InFile)) };
            let near = tail.take(SCAN).find(|stored| stored.topic == topic);
            Ok((after, near.map_or(Found::InFile, |stored| Found::Here(stored.clone()))))
        })?
    }

    pub(super) fn tails(&self, shard: Shard, topics: &[Topic], after: Position, at_least: Position) -> Result<Tails, BrokerError> {
        self.with(shard, |log| {
            if at_least.epoch != log.epoch {
                return Err(BrokerError::Epoch { shard, current: log.epoch });
            }
            if at_least.seq > log.last {
                return Err(BrokerError::Unavailable("not that far yet".to_owned()));
            }
            let after = if after.epoch == log.epoch { after.seq } else { 0 };
            let tail = |topic: &Topic| Some((*topic, log.previous(*topic))).filter(|(_, seq)| *seq > after);
            let changed = topics.iter().filter_map(tail).collect();
            Ok(Tails { upto: Position::new(log.epoch, log.last), changed })
        })?
    }

    /// Recent events from `from` on, if memory has them.
    pub(super) fn recent(&self, shard: Shard, from: Position, max: usize) -> Option<Vec<Stored>> {
        self.with(shard, |log| {
            if from.epoch != log.epoch {
                return None;
            }
            Some(log.recent(from.seq)?.take(max).cloned().collect::<Vec<_>>()).filter(|events| !events.is_empty())
        })
        .ok()?
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use bytes::Bytes;
    use uuid::Uuid;

    use super::{super::EmbeddedOptions, *};
    use crate::id::InstanceId;

    #[tokio::test]
    async fn a_log_ahead_of_the_clock_is_remembered_for_its_last_two_minutes_only() {
        let directory = tempfile::tempdir().unwrap();
        let (file, writing) = File::open(&directory.path().join("log.db"), &EmbeddedOptions::default()).await.unwrap();
        let (shard, epoch) = (Shard(0), Epoch(1));
        writing.create(shard, epoch).await.unwrap();
        let begin = Timestamp::now();
        // One each second, for an hour.
        let stored = |seq: u64| Stored {
            topic: Topic::Canary(InstanceId(Uuid::nil())),
            position: Position::new(epoch, seq),
            previous: 0,
            id: EventId(Uuid::from_u128(seq.into())),
            made_at: begin,
            stored_at: begin.offset_by(seq as i64 * 1000),
            payload: Bytes::from_static(b"x"),
        };
        writing.commit(&[(shard, epoch, (1..=3600).map(stored).collect())]).await.unwrap();
        let log = Log::load(&file, shard, epoch).await.unwrap();
        assert_eq!(log.stored_at, stored(3600).stored_at);
        assert_eq!((log.ids.len(), log.aging.len()), (121, 121));
        assert!(log.position_of(stored(3480).id).is_some() && log.position_of(stored(3479).id).is_none());
        assert_eq!(log.aging.front().map(|(at, _)| *at), Some(stored(3480).stored_at), "the oldest first");
    }
}
