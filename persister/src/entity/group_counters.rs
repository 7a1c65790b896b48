//! How many messages a group has ever had: the ordinal of its last one. Up to the floor, retention has
//! deleted some.

use sea_orm::entity::prelude::*;

/// How many messages a group has ever had: the ordinal of its last one.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "group_counters")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub group_id: Uuid,
    pub messages: i64,
    pub floor_epoch: i64,
    pub floor_seq: i64,
    pub floor_ordinal: i64,
}

/// None: rows name what may come later.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
