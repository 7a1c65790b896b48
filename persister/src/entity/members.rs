//! Who is, or last was, a member of a group.

use sea_orm::entity::prelude::*;

/// Who is, or last was, a member of a group.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "members")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub group_id: Uuid,
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: String,
    pub role: String,
    pub since_epoch: i64,
    pub since_seq: i64,
    pub since_ordinal: i64,
    pub until_epoch: Option<i64>,
    pub until_seq: Option<i64>,
    pub version: i64,
}

/// None: rows name what may come later.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
