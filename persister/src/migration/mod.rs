//! The schema, as it came to be. Migrations are only ever added, and only add: release N and N−1
//! run side by side.

mod m20261122_000001_first;
mod m20261124_000002_inboxes_keys_erasures;
mod m20261124_000003_standings;
mod m20261130_000004_installation;
mod m20261130_000006_marked_upto;

use sea_orm_migration::{MigrationTrait, MigratorTrait};

/// All migrations, in order.
pub struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261122_000001_first::Migration),
            Box::new(m20261124_000002_inboxes_keys_erasures::Migration),
            Box::new(m20261124_000003_standings::Migration),
            Box::new(m20261130_000004_installation::Migration),
            Box::new(m20261130_000006_marked_upto::Migration),
        ]
    }
}
