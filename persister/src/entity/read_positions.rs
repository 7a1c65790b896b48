//! How far a user has read a group. The ordinal is null while the messages up to there were not all applied.

use sea_orm::entity::prelude::*;

/// How far a user has read a group. The ordinal is null while the messages up to there were not all applied.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "read_positions")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub group_id: Uuid,
    pub epoch: i64,
    pub seq: i64,
    pub ordinal: Option<i64>,
}

/// None: rows name what may come later.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
