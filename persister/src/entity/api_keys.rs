//! A key of the server API, known by its hash only.

use sea_orm::entity::prelude::*;

/// A key of the server API, known by its hash only.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "api_keys")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub name: String,
    pub sha256: String,
    pub created_at: i64,
    pub revoked_at: Option<i64>,
}

/// None: rows name what may come later.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
