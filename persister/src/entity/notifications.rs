//! A notification for one recipient. What went to a group has its body in `group_events`.

use sea_orm::entity::prelude::*;

/// A notification for one recipient. What went to a group has its body in `group_events`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "notifications")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub recipient: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub epoch: i64,
    pub seq: i64,
    pub group_id: Option<Uuid>,
    pub sender: Option<String>,
    pub nonce: Uuid,
    pub body: Option<String>,
    pub data: Option<String>,
    pub sent_at: i64,
}

/// None: rows name what may come later.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
