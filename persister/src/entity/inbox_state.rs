//! What a recipient did with a notification; may come before the notification.

use sea_orm::entity::prelude::*;

/// What a recipient did with a notification; may come before the notification.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "inbox_state")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub recipient: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub notification: Uuid,
    pub seen: bool,
    pub is_read: bool,
    pub archived: bool,
}

/// None: rows name what may come later.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
