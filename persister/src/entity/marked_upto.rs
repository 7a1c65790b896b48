//! Up to where a recipient has marked all of the inbox, for each kind of mark (`seen`, `read`, `archived`).

use sea_orm::entity::prelude::*;

/// Up to where a recipient has marked all of the inbox, for each kind of mark (`seen`, `read`, `archived`).
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "marked_upto")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub recipient: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub mark: String,
    pub epoch: i64,
    pub seq: i64,
}

/// None: rows name what may come later.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
