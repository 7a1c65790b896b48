//! Epochs given out, and where those that ended did.

use sea_orm::entity::prelude::*;

/// Epochs given out, and where those that ended did.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "epochs")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub epoch: i64,
    pub shard: i64,
    pub opened_at: i64,
    pub last_seq: Option<i64>,
}

/// None: rows name what may come later.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
