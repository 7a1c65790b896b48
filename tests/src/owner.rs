//! The owner's side of a group of people: it removes members and adds them again, and keeps what it was answered.

use anyhow::{Context, Result, ensure};
use natter_shared::{id::GroupId, position::Position};
use rand::RngExt;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    client::ANSWER,
    person::{ACCEPTED_WITHIN, Person},
    record::{Record, position_of},
};

/// A group of people, to its owner.
pub(crate) struct Owned {
    group: GroupId,
    /// The other members, which it removes and adds again.
    others: Vec<Other>,
}

/// Another member of a group of people, to its owner.
struct Other {
    user: String,
    /// What was answered last.
    is_member: bool,
    /// When a call failed, which may have been done or be done still; none after the call that followed when all was over.
    failed: Option<Instant>,
    /// Where its memberships began, as it was answered, with an answered removal between each two.
    began: Vec<Position>,
}

impl Person {
    /// Makes a group of people with `others` in it.
    pub(crate) async fn found(&mut self, others: &[String]) -> Result<()> {
        let made = self.call(Method::POST, "groups", json!({"display_name": "people", "members": others})).await?;
        let group = made["id"].as_str().context("a group's id")?.parse()?;
        let here = |record: &Record| record.position(group);
        let at = self.client.wait_until("one's own group", ANSWER, here).await?;
        let other = |user: &String| Other { user: user.clone(), is_member: true, failed: None, began: vec![at] };
        self.owned = Some(Owned { group, others: others.iter().map(other).collect() });
        Ok(())
    }

    /// The group of people that it made.
    pub(crate) fn owns(&self) -> Option<GroupId> {
        self.owned.as_ref().map(|owned| owned.group)
    }

    /// Of its group: whom it was told to have added and removed, and whether each is a member by that.
    pub(crate) fn commanded(&self) -> impl Iterator<Item = (GroupId, String, bool)> {
        let known = |other: &&Other| other.failed.is_none();
        let of = move |owned: &Owned| -> Vec<_> {
            owned.others.iter().filter(known).map(|other| (owned.group, other.user.clone(), other.is_member)).collect()
        };
        self.owned.iter().flat_map(of)
    }

    /// Of its group: where the memberships of others began, as it was told, and removed each before it added it again.
    pub(crate) fn added(&self) -> impl Iterator<Item = (GroupId, String, Vec<Position>)> {
        let of =
            |owned: &Owned| -> Vec<_> { owned.others.iter().map(|other| (owned.group, other.user.clone(), other.began.clone())).collect() };
        self.owned.iter().flat_map(of)
    }

    /// Removes a member of its group or adds one again. What fails is left: it may have happened, or happen later, and the
    /// group's own order says so.
    pub(crate) async fn remove_or_add(&mut self) {
        let Some(owned) = &self.owned else { return };
        let which = self.rng.random_range(0..owned.others.len());
        let _ = self.command(which).await;
    }

    /// Removes or adds once more whoever a call about failed, until that is answered: what is answered now holds, for nothing
    /// that failed is under way any more.
    pub(crate) async fn command_again(&mut self) -> Result<()> {
        let others = self.owned.as_ref().map_or(0, |owned| owned.others.len());
        for which in 0..others {
            let Some(failed) = self.other(which).and_then(|other| other.failed) else { continue };
            tokio::time::sleep_until(failed + ANSWER).await;
            let until = Instant::now() + ACCEPTED_WITHIN;
            while let Err(error) = self.command(which).await {
                ensure!(Instant::now() < until, "a removal or addition is not answered when the trouble is over: {error:#}");
                tokio::time::sleep(ANSWER / 30).await;
            }
            if let Some(other) = self.other(which) {
                other.failed = None;
            }
        }
        Ok(())
    }

    fn other(&mut self, which: usize) -> Option<&mut Other> {
        self.owned.as_mut()?.others.get_mut(which)
    }

    async fn command(&mut self, which: usize) -> Result<()> {
        let group = self.owns().context("a group of its own")?;
        let Other { user, is_member, .. } = self.other(which).context("another member")?;
        let (path, is_member) = (format!("groups/{group}/members/{user}"), *is_member);
        let done = if is_member {
            self.call(Method::DELETE, &path, Value::Null).await.map(|_| None)
        } else {
            let added = self.call(Method::PUT, &path, json!({})).await;
            added.and_then(|answer| position_of(&answer["position"]).context("a position")).map(Some)
        };
        let other = self.other(which).context("another member")?;
        match done {
            Ok(began) => {
                other.is_member = !is_member;
                other.began.extend(began);
                Ok(())
            }
            Err(error) => {
                other.failed = Some(Instant::now());
                Err(error)
            }
        }
    }
}
