//! A person, known by the token's `sub`.

use sea_orm::entity::prelude::*;

/// A person, known by the token's `sub`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "users")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub key: Uuid,
    pub handle: String,
    pub display_name: String,
    pub claimed_handle: Option<String>,
    pub claimed_name: Option<String>,
    pub placeholder: bool,
    pub created_at: i64,
    pub inbox_floor_epoch: i64,
    pub inbox_floor_seq: i64,
    pub erased_at: Option<i64>,
}

/// None: rows name what may come later.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
