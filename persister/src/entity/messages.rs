//! A message. It is also its own event: `group_events` holds all the others.

use sea_orm::entity::prelude::*;

/// A message. It is also its own event: `group_events` holds all the others.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "messages")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub group_id: Uuid,
    pub epoch: i64,
    pub seq: i64,
    pub ordinal: i64,
    pub sender: String,
    pub nonce: Uuid,
    pub body: String,
    pub reply_to: Option<Uuid>,
    pub data: Option<String>,
    pub sent_at: i64,
}

/// None: rows name what may come later.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
