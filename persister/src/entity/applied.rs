//! The checkpoint of a shard: all of its log up to here is in SQL. Complete after the floor.

use sea_orm::entity::prelude::*;

/// The checkpoint of a shard: all of its log up to here is in SQL. Complete after the floor.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "applied")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub shard: i64,
    pub epoch: i64,
    pub seq: i64,
    pub event_id: Option<Uuid>,
    pub stored_at: i64,
    pub floor_epoch: i64,
    pub floor_seq: i64,
    pub restored: bool,
}

/// None: rows name what may come later.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
