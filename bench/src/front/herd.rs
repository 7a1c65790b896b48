//! A herd: the memberships are there before anybody comes, made by the groups' first events, for joining one by one is
//! not what is measured.

use anyhow::{Context as _, Result};
use natter_tests::cluster::Store;
use serde_json::Value;

use super::{
    events::Events,
    generator,
    natter::{Natter, Sync},
    projection::Projection,
    scenario::{HERD, HERD_CLIENTS, HERD_GROUPS, HERD_MEMBERS},
};
use crate::load::group_name;

/// Runs it over so many gateways; each client comes back to the one that it was at.
pub(super) async fn run(sync: Sync, gateways: usize) -> Result<Value> {
    let natter = Natter::start(sync, gateways, Store::SyncedPostgres, &[]).await?;
    let (events, projection) = (Events::connect(&natter.cluster).await?, Projection::of(&natter).await?);
    let rooms = HERD_CLIENTS / HERD_MEMBERS;
    let numbers = (0..rooms * HERD_GROUPS).map(|number| (number / HERD_GROUPS, number % HERD_GROUPS));
    // Each membership is followed by a hint to its user.
    let until = projection.applied().await? + i64::try_from(rooms * HERD_GROUPS + HERD_CLIENTS * HERD_GROUPS)?;
    events.publish_all(numbers.map(|(room, group)| events.group(&group_name(room, group), (room..HERD_CLIENTS).step_by(rooms)))).await?;
    projection.reach(&natter, until).await.context("memberships")?;
    generator(HERD.load, natter.args()?).await
}
