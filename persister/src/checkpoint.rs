//! The checkpoint of each shard: how far its log is in SQL. It is advanced by compare-and-set in
//! the transaction that writes the rows; that, not the lease, is what keeps two persisters from
//! applying the same events.

use natter_shared::{
    broker::Stored,
    id::EventId,
    position::{Epoch, Position},
    rpc::ShardPosition,
    subject::Shard,
    timestamp::Timestamp,
};
use sea_orm::{ConnectionTrait, DbErr, EntityTrait, QueryOrder, Value};

use crate::{database::Store, entity::applied};

/// How far a shard's log is in SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// The last event applied.
    pub(crate) position: Position,
    /// Its id; none before the first event of an epoch.
    pub(crate) event: Option<EventId>,
    /// When it was stored.
    pub(crate) stored_at: Timestamp,
    /// Everything after this is in SQL (up to `position`); before it something may be missing.
    pub(crate) floor: Position,
    /// It comes from a backup: events after it were seen by clients and may not be in the log.
    pub(crate) restored: bool,
}

impl Checkpoint {
    /// Before the first event of `epoch`.
    pub(crate) fn before(epoch: Epoch, floor: Position) -> Self {
        Self { position: Position::new(epoch, 0), event: None, stored_at: Timestamp::default(), floor, restored: false }
    }

    /// At `stored`, which comes after this.
    pub(crate) fn at(self, stored: &Stored) -> Self {
        Self { position: stored.position, event: Some(stored.id), stored_at: stored.stored_at, floor: self.floor, restored: self.restored }
    }
}

/// A position as SQL's two signed integers.
pub(crate) fn sql(position: Position) -> (i64, i64) {
    (i64::from(position.epoch.0), position.seq as i64)
}

/// A position from SQL's two signed integers.
pub(crate) fn position(epoch: i64, seq: i64) -> Position {
    Position::new(Epoch(u32::try_from(epoch).unwrap_or_default()), u64::try_from(seq).unwrap_or_default())
}

/// How far SQL has come in every shard.
pub(crate) async fn positions(database: &impl ConnectionTrait) -> Result<Vec<ShardPosition>, DbErr> {
    let rows = applied::Entity::find().order_by_asc(applied::Column::Shard).all(database).await?;
    Ok(rows.into_iter().map(|row| ShardPosition { shard: row.shard as u16, position: position(row.epoch, row.seq) }).collect())
}

/// The checkpoint of `shard`, if it has one.
pub(crate) async fn load(database: &impl ConnectionTrait, shard: Shard) -> Result<Option<Checkpoint>, DbErr> {
    let row = applied::Entity::find_by_id(i64::from(shard.0)).one(database).await?;
    Ok(row.map(|row| Checkpoint {
        position: position(row.epoch, row.seq),
        event: row.event_id.map(EventId),
        stored_at: Timestamp(row.stored_at as u64),
        floor: position(row.floor_epoch, row.floor_seq),
        restored: row.restored,
    }))
}

/// The statement that moves the checkpoint of `shard`, if it is at `from`, with its parameters.
pub(crate) fn advancing(shard: Shard, from: Position, to: &Checkpoint) -> (&'static str, Vec<Value>) {
    let (shard, from) = (i64::from(shard.0), sql(from));
    let text = "UPDATE applied SET epoch = ?, seq = ?, event_id = ?, stored_at = ?, floor_epoch = ?, floor_seq = ?, restored = FALSE \
                WHERE shard = ? AND epoch = ? AND seq = ?";
    (text, values(to).into_iter().chain([shard.into(), from.0.into(), from.1.into()]).collect())
}

fn values(to: &Checkpoint) -> [Value; 6] {
    let ((epoch, seq), floor) = (sql(to.position), sql(to.floor));
    let event = to.event.map(|id| id.0);
    [epoch.into(), seq.into(), event.into(), (to.stored_at.0 as i64).into(), floor.0.into(), floor.1.into()]
}

/// Moves the checkpoint of `shard` from where it is thought to be. False when it is elsewhere:
/// somebody else has applied those events.
pub(crate) async fn advance(
    store: &Store,
    database: &impl ConnectionTrait,
    shard: Shard,
    from: Option<Position>,
    to: &Checkpoint,
) -> Result<bool, DbErr> {
    let (text, values) = if let Some(from) = from {
        advancing(shard, from, to)
    } else {
        let text = "INSERT INTO applied (epoch, seq, event_id, stored_at, floor_epoch, floor_seq, shard) \
                    VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING";
        (text, values(to).into_iter().chain([i64::from(shard.0).into()]).collect())
    };
    Ok(database.execute_raw(store.statement(text, values)).await?.rows_affected() == 1)
}
