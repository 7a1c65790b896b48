//! How a user stands who was ever blocked, or whose tokens were revoked.

use sea_orm::entity::prelude::*;

/// How a user stands who was ever blocked, or whose tokens were revoked.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "standings")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: String,
    pub blocked_at: Option<i64>,
    pub void_before: i64,
    pub version: i64,
}

/// None: rows name what may come later.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
