//! A request to erase a user, and how far it is carried out.

use sea_orm::entity::prelude::*;

/// A request to erase a user, and how far it is carried out.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "erasures")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: String,
    pub requested_at: i64,
    pub stage: String,
    pub after_id: Option<String>,
    pub finished_at: Option<i64>,
    pub messages: i64,
    pub notifications: i64,
}

/// None: rows name what may come later.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
