//! Epochs: one counter for all shards, in SQL, never reused.

use natter_shared::{
    broker::{Broker, BrokerError},
    position::{Epoch, Position},
    rpc::ShardPosition,
    subject::Shard,
};
use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::{
    database::{Store, answered},
    entity::epochs,
    error::Error,
    error::is_taken,
};

/// Gives out the next epoch, to `shard`. It is above everything SQL or any log knows of, so that a
/// database restored from a backup does not give one out twice.
pub(crate) async fn allocate(store: &Store, broker: &dyn Broker, shard: Shard) -> Result<Epoch, Error> {
    let mut seen = 0;
    for other in broker.shards().iter() {
        match broker.log_state(other).await {
            Ok(state) => seen = seen.max(state.epoch.0),
            Err(BrokerError::NoLog(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    loop {
        let last = epochs::Entity::find().select_only().column_as(epochs::Column::Epoch.max(), "last").into_tuple();
        let last: Option<Option<i64>> = answered(last.one(store.database())).await?;
        let next = last.flatten().unwrap_or_default().max(i64::from(seen)) + 1;
        // The primary key is the compare-and-set: of two persisters one takes the number.
        match record(store, shard, next).await {
            Ok(true) => return Ok(Epoch(u32::try_from(next).unwrap_or(u32::MAX))),
            Ok(false) => {}
            Err(error) if is_taken(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

async fn record(store: &Store, shard: Shard, epoch: i64) -> Result<bool, DbErr> {
    let sql = format!("INSERT INTO epochs (epoch, shard, opened_at) VALUES (?, ?, {}) ON CONFLICT DO NOTHING", store.clock());
    Ok(store.execute(&sql, [epoch.into(), i64::from(shard.0).into()]).await? == 1)
}

/// Whether SQL knows of an epoch.
pub(crate) async fn knows(store: &Store, epoch: Epoch) -> Result<bool, DbErr> {
    Ok(answered(epochs::Entity::find_by_id(i64::from(epoch.0)).one(store.database())).await?.is_some())
}

/// Notes an epoch that a log is in, should SQL not know of it. True when it did not.
pub(crate) async fn learn(store: &Store, shard: Shard, epoch: Epoch) -> Result<bool, DbErr> {
    record(store, shard, i64::from(epoch.0)).await
}

/// The epochs before `epoch` that SQL knows of for `shard`.
pub(crate) async fn before(store: &Store, shard: Shard, epoch: Epoch) -> Result<Vec<Epoch>, DbErr> {
    let older = epochs::Entity::find()
        .filter(epochs::Column::Shard.eq(i64::from(shard.0)))
        .filter(epochs::Column::Epoch.lt(i64::from(epoch.0)))
        .order_by_asc(epochs::Column::Epoch);
    let rows = answered(older.all(store.database())).await?;
    Ok(rows.into_iter().map(|row| Epoch(row.epoch as u32)).collect())
}

/// Where SQL left the epochs that it is in no more.
pub(crate) async fn left(store: &Store) -> Result<Vec<ShardPosition>, DbErr> {
    let left = epochs::Entity::find().filter(epochs::Column::LastSeq.is_not_null()).all(store.database()).await?;
    let at = |row: epochs::Model| ShardPosition {
        shard: row.shard as u16,
        position: Position::new(Epoch(row.epoch as u32), row.last_seq.unwrap_or_default() as u64),
    };
    Ok(left.into_iter().map(at).collect())
}

/// The last event of `epoch` that SQL had when it left that; none while it has not, or never was in it.
pub(crate) async fn last_seq(store: &Store, epoch: Epoch) -> Result<Option<u64>, DbErr> {
    let row = answered(epochs::Entity::find_by_id(i64::from(epoch.0)).one(store.database())).await?;
    Ok(row.and_then(|row| row.last_seq).map(|seq| seq as u64))
}

/// The first epoch SQL knows of for `shard`.
pub(crate) async fn first(store: &Store, shard: Shard) -> Result<Option<Epoch>, DbErr> {
    let first = epochs::Entity::find().filter(epochs::Column::Shard.eq(i64::from(shard.0))).order_by_asc(epochs::Column::Epoch);
    let row = answered(first.one(store.database())).await?;
    Ok(row.map(|row| Epoch(row.epoch as u32)))
}
