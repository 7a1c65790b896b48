//! Random use of a cluster from a seed: many users who send, reconnect, join and leave, and then
//! the checker's verdict on what they saw and what SQL holds. What one of them does: `person`.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use natter_shared::{id::GroupId, position::Position};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    checker::{Fact, Observation, Report, Violation, check, check_commanded, check_following},
    client::{ANSWER, Client},
    inboxes::{self, InboxViolation, Inboxes, Told},
    person::{Person, Wait, open_groups},
    record::Record,
    sql::Sql,
};

/// How long all may take to arrive after the last one was accepted.
pub const SETTLED_WITHIN: Duration = Duration::from_mins(1);

/// How long clients may take at the end to be told what they are members of.
const TOLD_WITHIN: Duration = Duration::from_secs(5);

/// So often something more is said to who was told last that something is missing.
const SAID_AGAIN: usize = 3;

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
    pub(crate) fn group(&self, number: usize) -> String {
        format!("{}-g{number}", self.label)
    }
}

/// What happens beside messages in open groups.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extras {
    /// From which the dice roll; none: [`seed()`].
    pub seed: Option<u64>,
    /// Groups of people: their owners remove members and add them again.
    pub private_groups: usize,
    /// Of a hundred steps so many are a notification, to a user or a group, or a mark that all is seen.
    pub notifications: u32,
    /// Of a hundred steps of an owner so many are a removal or an addition.
    pub removals: u32,
    /// Of a hundred messages to open groups so many are several at once.
    pub bursts: u32,
    /// So many users have a second connection, which only listens.
    pub tabs: usize,
    /// Those second connections stop reading now and then.
    pub slow_tabs: bool,
    /// Messages are made so many bytes longer.
    pub padding: usize,
}

/// The seed: `SEED`, or a fixed one.
pub fn seed() -> u64 {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_122);
    eprintln!("SEED={seed}");
    seed
}

/// The users of a run, connected and members of their first groups.
pub struct Traffic {
    plan: Plan,
    extras: Extras,
    people: Vec<Person>,
    /// The groups of the run.
    ever: HashSet<GroupId>,
}

impl Traffic {
    /// Connects all users, evenly over the gateways, and lets them join their first groups.
    pub async fn begin(plan: Plan, gateways: &[SocketAddr]) -> Result<Self> {
        Self::begin_with(plan, Extras::default(), gateways).await
    }

    /// The same, with more than messages in open groups.
    pub async fn begin_with(plan: Plan, extras: Extras, gateways: &[SocketAddr]) -> Result<Self> {
        let gateways: Arc<[SocketAddr]> = gateways.into();
        let seed = extras.seed.unwrap_or_else(seed);
        let mut starting = JoinSet::new();
        for number in 0..plan.users {
            let (plan, gateways) = (plan.clone(), gateways.clone());
            starting.spawn(async move { anyhow::Ok((number, Person::begin(number, &plan, extras, seed, gateways).await?)) });
        }
        let mut people = in_order(starting).await?;
        let mut ever: HashSet<GroupId> = open_groups(&plan)?.into_iter().collect();
        for owner in 0..extras.private_groups.min(plan.users) {
            // The next few, in a circle.
            let others: Vec<String> = (1..=5).map(|step| people[(owner + step * 3) % plan.users].client.user.id.clone()).collect();
            people[owner].found(&others).await?;
            ever.extend(people[owner].owns());
        }
        Ok(Self { plan, extras, people, ever })
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
            person.clients().for_each(|(_, client)| client.record_lean());
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
        self.people = in_order(acting).await?;
        Ok(())
    }

    /// How many messages were accepted so far.
    pub fn accepted(&self) -> usize {
        self.people.iter().map(|person| person.accepted.len()).sum()
    }

    /// The longest that any message took to be accepted.
    pub fn longest_wait(&self) -> Wait {
        let waits = self.people.iter().map(|person| &person.longest);
        waits.max_by_key(|wait| wait.lasted).cloned().unwrap_or_default()
    }

    /// Waits until every member has the last message of each of its groups and SQL has all, then
    /// lets the checkers judge.
    pub async fn settle(self, sql: &Sql) -> Result<Report> {
        self.settle_within(sql, SETTLED_WITHIN).await
    }

    /// The same, with less patience or more.
    pub async fn settle_within(mut self, sql: &Sql, within: Duration) -> Result<Report> {
        self.send_last_words().await?;
        let until = Instant::now() + within;
        let mut accepted = self.catch_up(until).await?;
        for _ in 0..SAID_AGAIN {
            let silent: HashSet<GroupId> = self.people.iter().flat_map(Person::silent).collect();
            if silent.is_empty() {
                break;
            }
            // What was declared to be missing may have been all of it.
            self.say_in(&silent, "one more word").await?;
            accepted = self.catch_up(until.max(Instant::now() + ANSWER.min(within))).await?;
        }
        for person in &mut self.people {
            person.command_again().await?;
        }
        let inboxes = self.inboxes(sql, until).await?;
        let mut seen = Observation { accepted, ..Observation::default() };
        for person in &self.people {
            seen.commanded.extend(person.commanded());
            seen.added.extend(person.added());
            seen.attempted.extend(&person.attempted);
            let in_order = person.accepted.iter().filter(|fact| !person.overtaking.contains(&fact.message)).copied();
            seen.sent.push((person.client.user.handle.clone(), in_order.collect()));
            seen.users.extend(person.clients().map(|(name, client)| (name, client.user.id.clone())));
        }
        // Whoever was waited for in vain has had a moment since to be told what it is a member of.
        let until = until.max(Instant::now() + TOLD_WITHIN);
        loop {
            for person in &mut self.people {
                person.come_back().await?;
            }
            self.read(sql, &mut seen).await?;
            let stored = seen.rows.iter().filter(|row| seen.attempted.contains(&row.message)).count();
            let is_all =
                stored + seen.dead.len() >= seen.accepted.len() && check_following(&seen).is_empty() && check_commanded(&seen).is_empty();
            if is_all || Instant::now() > until {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let mut recovered = 0;
        for (name, client) in self.people.iter().flat_map(Person::clients) {
            seen.clients.push((name, client.take_entries()));
            recovered += client.record(|record| record.recovered);
        }
        // What clients have been told of by now is stored by now.
        self.read(sql, &mut seen).await?;
        seen.in_vain = self.people.iter().flat_map(|person| person.in_vain.iter().cloned()).collect();
        let mut report = check(&seen);
        report.recovered = recovered;
        report.together = self.people.iter().map(|person| person.together).sum();
        report.unjudged = self.people.iter().map(|person| person.overtaking.len()).sum();
        report.stored += inboxes.rows.len();
        report.accepted += inboxes.accepted.len();
        report.resets += inboxes::resets(&inboxes);
        report.violations.extend(inboxes::check(&inboxes).into_iter().map(Violation::Inbox));
        Ok(report)
    }

    /// Waits until everybody has the last message of each group; gives all that was accepted.
    async fn catch_up(&mut self, until: Instant) -> Result<Vec<Fact>> {
        let accepted: Vec<Fact> = self.people.iter().flat_map(|person| person.accepted.iter().copied()).collect();
        for person in &mut self.people {
            person.catch_up(&accepted, until).await?;
        }
        Ok(accepted)
    }

    /// What SQL has of this run, and what clients follow.
    async fn read(&self, sql: &Sql, seen: &mut Observation) -> Result<()> {
        let mut memberships = sql.memberships().await?;
        memberships.retain(|(group, _), _| self.ever.contains(group));
        seen.memberships = Some(memberships);
        seen.following = self.following();
        seen.rows = self.rows(sql).await?;
        seen.dead = sql.dead_letters().await?.into_iter().collect();
        Ok(())
    }

    /// What became of all inboxes; waits until everybody was told what SQL counts. To who hears nothing after a declared gap
    /// something more is said.
    async fn inboxes(&mut self, sql: &Sql, until: Instant) -> Result<Inboxes> {
        let mut seen = Inboxes::default();
        if self.extras.notifications == 0 {
            return Ok(seen);
        }
        let (mut until, mut again) = (until, SAID_AGAIN);
        loop {
            for person in &mut self.people {
                person.come_back().await?;
            }
            seen.attempted = self.people.iter().flat_map(|person| person.attempted_notes.iter().copied()).collect();
            seen.accepted = self.people.iter().flat_map(|person| person.notes.iter().cloned()).collect();
            seen.rows = sql.notifications().await?;
            seen.counts = sql.inbox_counts().await?;
            seen.told.clear();
            for (name, client) in self.people.iter().flat_map(Person::clients) {
                let told = client.record(|record| (record.heard.clone(), record.counts.map(|(_, counts)| counts)));
                seen.told.push(Told { client: name, user: client.user.id.clone(), heard: told.0, counts: told.1 });
            }
            let bad = inboxes::check(&seen);
            let stuck: HashSet<&String> =
                bad.iter().filter_map(|bad| if let InboxViolation::Stuck(client) = bad { Some(client) } else { None }).collect();
            if !stuck.is_empty() && again > 0 {
                again -= 1;
                let users: HashSet<String> =
                    seen.told.iter().filter(|told| stuck.contains(&told.client)).map(|told| told.user.clone()).collect();
                for user in &users {
                    self.people[0].note(user).await?;
                }
                // It comes, and is counted.
                tokio::time::sleep(Duration::from_secs(1)).await;
                until = until.max(Instant::now() + TOLD_WITHIN);
            } else if bad.is_empty() || Instant::now() > until {
                return Ok(seen);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The groups of this run that each client which is connected takes itself for a member of, and up to where it has them.
    fn following(&self) -> HashMap<String, HashMap<GroupId, Position>> {
        let of = |client: &Client| client.record(Record::positions).into_iter().filter(|(group, _)| self.ever.contains(group)).collect();
        let connected = self.people.iter().flat_map(Person::clients).filter(|(_, client)| !client.is_away());
        connected.map(|(name, client)| (name, of(client))).collect()
    }

    /// The rows of groups of this run.
    async fn rows(&self, sql: &Sql) -> Result<Vec<Fact>> {
        let mut rows = sql.messages().await?;
        rows.extend(sql.group_notifications().await?);
        rows.retain(|row| self.ever.contains(&row.group));
        Ok(rows)
    }

    /// A message in each of these groups, of somebody who is in it.
    async fn say_in(&mut self, groups: &HashSet<GroupId>, body: &str) -> Result<()> {
        let mut done = HashSet::new();
        for person in &mut self.people {
            for group in person.groups.clone().into_iter().chain(person.owns()) {
                if groups.contains(&group) && done.insert(group) {
                    person.say(group, body).await?;
                }
            }
        }
        Ok(())
    }

    /// One more message in each group, so that every earlier one has an end to be waited for; and
    /// one more notification to everybody, after which everybody is told counts.
    async fn send_last_words(&mut self) -> Result<()> {
        self.say_in(&self.ever.clone(), "last words").await?;
        if self.extras.notifications > 0 {
            let all: Vec<String> = self.people.iter().map(|person| person.client.user.id.clone()).collect();
            for (person, other) in self.people.iter_mut().zip(all) {
                person.note(&other).await?;
            }
        }
        Ok(())
    }
}

/// What the tasks return, in the order of their numbers.
async fn in_order(mut tasks: JoinSet<Result<(usize, Person)>>) -> Result<Vec<Person>> {
    let mut people = Vec::new();
    while let Some(person) = tasks.join_next().await {
        people.push(person??);
    }
    people.sort_by_key(|(number, _)| *number);
    Ok(people.into_iter().map(|(_, person)| person).collect())
}
