//! Random use of a cluster from a seed: many users who send, reconnect, join and leave, and then
//! the checker's verdict on what they saw and what SQL holds.

use std::{collections::HashSet, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use natter_shared::{
    frame::CloseCode,
    id::{GroupId, MessageId, Nonce, RoomName, open_group},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    checker::{Fact, Observation, Report, check},
    client::{Client, RequestError},
    sql::Sql,
    token::User,
};

/// How long a message may take to be accepted, whatever is killed meanwhile.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(75);

/// How long all may take to arrive after the last one was accepted.
const SETTLED_WITHIN: Duration = Duration::from_mins(1);

/// What happens.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many users, each with one client.
    pub users: usize,
    /// How many open groups.
    pub groups: usize,
    /// How many of them each user joins at first.
    pub groups_per_user: usize,
    /// How many messages in all at most.
    pub messages: usize,
    /// Of a hundred steps so many are a reconnect.
    pub reconnects: u32,
    /// Of a hundred steps so many are a join or a leave.
    pub moves: u32,
    /// Between two steps of a user.
    pub pause: Duration,
    /// Names the users and groups of this run.
    pub label: &'static str,
}

impl Plan {
    /// The name of a group.
    fn group(&self, number: usize) -> String {
        format!("{}-g{number}", self.label)
    }
}

/// The seed: `SEED`, or a fixed one.
pub fn seed() -> u64 {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_122);
    eprintln!("SEED={seed}");
    seed
}

/// One user's side of the run.
struct Person {
    client: Client,
    gateways: Arc<[SocketAddr]>,
    rng: StdRng,
    groups: Vec<GroupId>,
    attempted: Vec<MessageId>,
    accepted: Vec<Fact>,
}

/// The users of a run, connected and members of their first groups.
pub struct Traffic {
    plan: Plan,
    people: Vec<Person>,
    /// The groups of the run.
    ever: HashSet<GroupId>,
}

impl Traffic {
    /// Connects all users, evenly over the gateways, and lets them join their first groups.
    pub async fn begin(plan: Plan, gateways: &[SocketAddr]) -> Result<Self> {
        let gateways: Arc<[SocketAddr]> = gateways.into();
        let seed = seed();
        let mut starting = JoinSet::new();
        for number in 0..plan.users {
            let (plan, gateways) = (plan.clone(), gateways.clone());
            starting.spawn(async move {
                let rng = StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(number as u64));
                let user = User::named(&format!("{}-{number}", plan.label));
                let mut client = Client::connect(gateways[number % gateways.len()], &user).await?;
                client.insist_for = ACCEPTED_WITHIN;
                let groups = Vec::new();
                let mut person = Person { client, gateways, rng, groups, attempted: Vec::new(), accepted: Vec::new() };
                while person.groups.len() < plan.groups_per_user.min(plan.groups) {
                    person.join_another(&plan).await?;
                }
                anyhow::Ok((number, person))
            });
        }
        let mut people = Vec::new();
        while let Some(person) = starting.join_next().await {
            people.push(person??);
        }
        people.sort_by_key(|(number, _)| *number);
        let ever = (0..plan.groups).map(|number| RoomName::slug(&plan.group(number)).map(|name| open_group(&name)));
        let ever = ever.collect::<Result<_, _>>()?;
        Ok(Self { plan, people: people.into_iter().map(|(_, person)| person).collect(), ever })
    }

    /// The client of a user.
    pub fn client(&self, number: usize) -> &Client {
        &self.people[number].client
    }

    /// Lets all users act at the same time, until each has sent its share or `stop` says so.
    pub async fn run(&mut self, stop: &CancellationToken) -> Result<()> {
        let share = self.plan.messages.div_ceil(self.plan.users);
        let mut acting = JoinSet::new();
        for (number, mut person) in self.people.drain(..).enumerate() {
            person.client.record_lean();
            let (plan, stop) = (self.plan.clone(), stop.clone());
            acting.spawn(async move {
                for step in 0..share {
                    if stop.is_cancelled() {
                        break;
                    }
                    person.step(&plan, step).await.with_context(|| format!("user {number}, step {step}"))?;
                    if !plan.pause.is_zero() {
                        tokio::time::sleep(plan.pause).await;
                    }
                }
                anyhow::Ok((number, person))
            });
        }
        let mut people = Vec::new();
        while let Some(person) = acting.join_next().await {
            people.push(person??);
        }
        people.sort_by_key(|(number, _)| *number);
        self.people = people.into_iter().map(|(_, person)| person).collect();
        Ok(())
    }

    /// How many messages were accepted so far.
    pub fn accepted(&self) -> usize {
        self.people.iter().map(|person| person.accepted.len()).sum()
    }

    /// Waits until every member has the last message of each of its groups and SQL has all, then
    /// lets the checker judge.
    pub async fn settle(mut self, sql: &Sql) -> Result<Report> {
        self.send_last_words().await?;
        let until = Instant::now() + SETTLED_WITHIN;
        let accepted: Vec<Fact> = self.people.iter().flat_map(|person| person.accepted.iter().copied()).collect();
        for person in &mut self.people {
            person.catch_up(&accepted, until).await?;
        }
        let mine = |row: &Fact, seen: &Observation| seen.attempted.contains(&row.message);
        let mut seen = Observation { accepted, ..Observation::default() };
        for person in &self.people {
            seen.attempted.extend(&person.attempted);
            seen.clients.push((person.client.user.handle.clone(), person.client.take_entries()));
        }
        loop {
            seen.rows = self.rows(sql).await?;
            let stored = seen.rows.iter().filter(|row| mine(row, &seen)).count();
            if stored >= seen.accepted.len() || Instant::now() > until {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(check(&seen))
    }

    /// The rows of groups of this run.
    async fn rows(&self, sql: &Sql) -> Result<Vec<Fact>> {
        let mut rows = sql.messages().await?;
        rows.retain(|row| self.ever.contains(&row.group));
        Ok(rows)
    }

    /// One more message in each group, so that every earlier one has an end to be waited for.
    async fn send_last_words(&mut self) -> Result<()> {
        let mut done = Vec::new();
        for person in &mut self.people {
            for group in person.groups.clone() {
                if !done.contains(&group) {
                    done.push(group);
                    person.say(group, "last words").await?;
                }
            }
        }
        Ok(())
    }
}

impl Person {
    async fn step(&mut self, plan: &Plan, step: usize) -> Result<()> {
        let dice = self.rng.random_range(0..100);
        if dice < plan.reconnects {
            let gateway = self.gateways[self.rng.random_range(0..self.gateways.len())];
            self.client.disconnect();
            if self.client.reconnect(gateway).await.is_err() {
                self.client.reconnect_to_any(&self.gateways, ACCEPTED_WITHIN).await?;
            }
        } else if dice < plan.reconnects + plan.moves {
            if self.groups.len() > 1 && self.rng.random_bool(0.5) {
                self.leave_one().await?;
            } else if self.groups.len() < plan.groups {
                self.join_another(plan).await?;
            }
        }
        let group = self.groups[self.rng.random_range(0..self.groups.len())];
        self.say(group, &format!("{}: {step}", self.client.user.handle)).await
    }

    async fn say(&mut self, group: GroupId, body: &str) -> Result<()> {
        let nonce = Nonce::now();
        self.attempted.push(self.client.message_id(nonce));
        let gateways = self.gateways.clone();
        let accepted = self.client.send_until_accepted(nonce, group, body, &gateways, ACCEPTED_WITHIN).await?;
        self.accepted.push(accepted);
        Ok(())
    }

    async fn join_another(&mut self, plan: &Plan) -> Result<()> {
        let name = plan.group(self.rng.random_range(0..plan.groups));
        let group = match self.client.join(&name).await {
            // Told to come back, as a client under load may be: it does, and asks again.
            Err(RequestError::Closed(Some((code, _)))) if code == CloseCode::TryAgain.number() => {
                self.client.reconnect_to_any(&self.gateways, ACCEPTED_WITHIN).await?;
                self.client.join(&name).await
            }
            answer => answer,
        };
        let group = group.with_context(|| format!("joining {name}"))?;
        if !self.groups.contains(&group) {
            self.groups.push(group);
        }
        Ok(())
    }

    async fn leave_one(&mut self) -> Result<()> {
        let group = self.groups.swap_remove(self.rng.random_range(0..self.groups.len()));
        self.client.leave(group).await.with_context(|| format!("leaving {group}"))?;
        let gone = |record: &crate::record::Record| record.position(group).is_none().then_some(());
        self.client.wait_until("the end of a membership", crate::client::ANSWER, gone).await
    }

    /// Waits for the last message of each group; what does not come is the checker's to report.
    async fn catch_up(&mut self, accepted: &[Fact], until: Instant) -> Result<()> {
        if self.client.record(|record| record.closed.is_some()) {
            self.client.reconnect_to_any(&self.gateways, ACCEPTED_WITHIN).await?;
        }
        for group in self.groups.clone() {
            let last = accepted.iter().filter(|fact| fact.group == group).map(|fact| fact.position).max();
            let Some(last) = last else { continue };
            let patience = until.saturating_duration_since(Instant::now());
            let here = |record: &crate::record::Record| (record.position(group) >= Some(last)).then_some(());
            let _ = self.client.wait_until("the last message", patience, here).await;
        }
        Ok(())
    }
}
