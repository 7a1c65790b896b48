//! One user of `traffic`: sends, reconnects, joins and leaves by its own dice, and keeps what it tried
//! and what was accepted.

use std::{collections::HashSet, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use natter_shared::id::{GroupId, MessageId, Nonce, NotificationId, RoomName, UserId, open_group};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    checker::{Content, Fact, InVain},
    client::{ANSWER, Client, RequestError},
    inboxes::Note,
    owner::Owned,
    record::{Record, position_of},
    token::User,
    traffic::{Extras, Plan},
};

/// How long a message may take to be accepted, whatever is killed meanwhile.
pub(crate) const ACCEPTED_WITHIN: Duration = Duration::from_secs(75);

/// So many messages go one right after the other, now and then.
const TOGETHER: usize = 4;

/// One user's side of the run.
pub(crate) struct Person {
    pub(crate) client: Client,
    /// Only listens.
    pub(crate) tab: Option<Client>,
    gateways: Arc<[SocketAddr]>,
    pub(crate) rng: StdRng,
    extras: Extras,
    http: reqwest::Client,
    /// The group of people that it made.
    pub(crate) owned: Option<Owned>,
    /// The open groups that it is in.
    pub(crate) groups: Vec<GroupId>,
    /// The open groups that there are.
    open: Arc<[GroupId]>,
    pub(crate) attempted: Vec<MessageId>,
    pub(crate) accepted: Vec<Fact>,
    pub(crate) attempted_notes: Vec<Uuid>,
    pub(crate) notes: Vec<Note>,
    /// The longest that a message took to be accepted.
    pub(crate) longest: Wait,
    /// Which last messages of groups it waited for in vain.
    pub(crate) in_vain: Vec<InVain>,
    /// How many it sent several at once.
    pub(crate) together: usize,
    /// What was accepted of a burst after something before it was not: what is sent again may come before or behind it.
    pub(crate) overtaking: HashSet<MessageId>,
}

/// How long a message took to be accepted.
#[derive(Debug, Clone, Default)]
pub struct Wait {
    /// From its first try on.
    pub lasted: Duration,
    /// What became of each try.
    pub tries: Vec<String>,
}

/// The open groups of a plan.
pub(crate) fn open_groups(plan: &Plan) -> Result<Vec<GroupId>> {
    let named = |number| RoomName::slug(&plan.group(number)).map(|name| open_group(&name));
    Ok((0..plan.groups).map(named).collect::<Result<_, _>>()?)
}

impl Person {
    /// Connects user `number` and lets it join its first groups.
    pub(crate) async fn begin(number: usize, plan: &Plan, extras: Extras, seed: u64, gateways: Arc<[SocketAddr]>) -> Result<Self> {
        let rng = StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(number as u64));
        let user = User::named(&format!("{}-{number}", plan.label));
        let mut client = Client::connect(gateways[number % gateways.len()], &user).await?;
        client.insist_for = ACCEPTED_WITHIN;
        let tab = if number < extras.tabs { Some(Client::connect(gateways[(number + 1) % gateways.len()], &user).await?) } else { None };
        let mut person = Self {
            client,
            tab,
            gateways,
            rng,
            extras,
            http: reqwest::Client::builder().timeout(ANSWER).build()?,
            owned: None,
            groups: Vec::new(),
            open: open_groups(plan)?.into(),
            attempted: Vec::new(),
            accepted: Vec::new(),
            attempted_notes: Vec::new(),
            notes: Vec::new(),
            longest: Wait::default(),
            in_vain: Vec::new(),
            together: 0,
            overtaking: HashSet::new(),
        };
        while person.groups.len() < plan.groups_per_user.min(plan.groups) {
            person.join_another(plan).await?;
        }
        Ok(person)
    }

    /// Calls one of the gateways over HTTP.
    pub(crate) async fn call(&mut self, method: Method, path: &str, body: Value) -> Result<Value> {
        let gateway = self.gateways[self.rng.random_range(0..self.gateways.len())];
        let url = format!("http://{gateway}/api/v1/{path}");
        let answer = self.http.request(method, url).bearer_auth(self.client.token()).json(&body).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "{path}: {status} {text}");
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    /// Does something, and sends a message.
    pub(crate) async fn step(&mut self, plan: &Plan, step: usize) -> Result<()> {
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
        if self.rolls(self.extras.notifications) {
            self.notify_somebody(plan).await?;
        }
        if self.owned.is_some() && self.rolls(self.extras.removals) {
            self.remove_or_add().await;
        }
        self.look_after_tab().await;
        let group = self.groups[self.rng.random_range(0..self.groups.len())];
        let body = format!("{}: {step}{}", self.client.user.handle, " ".repeat(self.extras.padding));
        if self.rolls(self.extras.bursts) {
            self.say_together(group, &body).await?;
        } else {
            self.say(group, &body).await?;
        }
        self.say_in_private(&body).await
    }

    /// Whether an event of so many in a hundred happens. No dice are rolled for what never does, so
    /// that older runs stay as they were.
    fn rolls(&mut self, percent: u32) -> bool {
        percent > 0 && self.rng.random_range(0..100) < percent
    }

    /// Sends until it is accepted.
    pub(crate) async fn say(&mut self, group: GroupId, body: &str) -> Result<()> {
        let nonce = Nonce::now();
        self.attempted.push(self.client.message_id(nonce));
        self.say_as(nonce, group, body, Instant::now()).await
    }

    /// Sends some without waiting for answers, and again in their order what was not accepted: what stands behind it was not
    /// either, or it is overtaken.
    async fn say_together(&mut self, group: GroupId, body: &str) -> Result<()> {
        let messages: Vec<(Nonce, String)> = (0..TOGETHER).map(|number| (Nonce::now(), format!("{body} {number}"))).collect();
        self.attempted.extend(messages.iter().map(|(nonce, _)| self.client.message_id(*nonce)));
        self.together += messages.len();
        let began = Instant::now();
        let sent = self.client.send_together(group, &messages).await;
        let mut is_whole = true;
        for ((nonce, body), (took, sent)) in messages.iter().zip(sent) {
            match sent {
                Ok(fact) => {
                    self.took(took, vec![format!("answered after {took:.1?}, one of several at once")]);
                    if !is_whole {
                        self.overtaking.insert(fact.message);
                    }
                    self.accepted.push(fact);
                }
                Err(_) => {
                    is_whole = false;
                    self.say_as(*nonce, group, body, began).await?;
                }
            }
        }
        Ok(())
    }

    /// Sends under a nonce that was first tried when it `began`, until it is accepted.
    async fn say_as(&mut self, nonce: Nonce, group: GroupId, body: &str, began: Instant) -> Result<()> {
        let gateways = self.gateways.clone();
        let accepted = self.client.send_until_accepted(nonce, group, body, &gateways, ACCEPTED_WITHIN).await?;
        self.took(began.elapsed(), self.client.tries.clone());
        self.accepted.push(accepted);
        Ok(())
    }

    fn took(&mut self, lasted: Duration, tries: Vec<String>) {
        if lasted > self.longest.lasted {
            self.longest = Wait { lasted, tries };
        }
    }

    /// Sends to a group of people that it believes itself to be in; it may be wrong.
    async fn say_in_private(&mut self, body: &str) -> Result<()> {
        let mine = self.client.record(Record::groups);
        let private: Vec<GroupId> = mine.into_iter().filter(|group| !self.open.contains(group)).collect();
        if private.is_empty() {
            return Ok(());
        }
        let group = private[self.rng.random_range(0..private.len())];
        let said = self.say(group, body).await;
        // Nobody removes an owner.
        if self.owns() == Some(group) { said } else { unless_refused(said) }
    }

    async fn notify_somebody(&mut self, plan: &Plan) -> Result<()> {
        match self.rng.random_range(0..10) {
            0 => {
                let upto = self.client.record(Record::inbox_position);
                let Some(upto) = upto else { return Ok(()) };
                let (gateways, mark) = (self.gateways.clone(), json!({"type": "seen", "upto": upto}));
                self.client.ask_until_answered(mark, &gateways, ACCEPTED_WITHIN).await.map(drop)
            }
            1..=3 => {
                let group = self.groups[self.rng.random_range(0..self.groups.len())];
                let (id, reply) = self.notify(json!({"group": group})).await?;
                let position = position_of(&reply["position"]).context("a position")?;
                let content = Content::of(&self.client.user.id, &news(id));
                self.accepted.push(Fact { message: MessageId(id), group, position, content });
                Ok(())
            }
            _ => {
                let other = format!("id-{}-{}", plan.label, self.rng.random_range(0..plan.users));
                self.note(&other).await
            }
        }
    }

    /// Notifies a user.
    pub(crate) async fn note(&mut self, other: &str) -> Result<()> {
        let (id, reply) = self.notify(json!({"user": other})).await?;
        let position = position_of(&reply["position"]).context("a position")?;
        let content = Content::of(&self.client.user.id, &news(id));
        self.notes.push(Note { id, to: other.to_owned(), position, content });
        Ok(())
    }

    async fn notify(&mut self, to: Value) -> Result<(Uuid, Value)> {
        let nonce = Nonce::now();
        let id = NotificationId::derive(&UserId::new(&self.client.user.id)?, nonce).0;
        if to["group"].is_null() {
            self.attempted_notes.push(id);
        } else {
            self.attempted.push(MessageId(id));
        }
        let frame = json!({"type": "notify", "to": to, "nonce": nonce, "body": news(id)});
        let gateways = self.gateways.clone();
        let reply = self.client.ask_until_answered(frame, &gateways, ACCEPTED_WITHIN).await?;
        ensure!(reply["notification_id"] == json!(id), "{reply} to {id}");
        Ok((id, reply))
    }

    /// The listening connection comes back when it is closed; a slow one stops and begins to read.
    async fn look_after_tab(&mut self) {
        if self.extras.slow_tabs && self.rolls(4) {
            self.tab.iter().for_each(Client::turn_reading);
        }
        let Some(tab) = self.tab.as_mut().filter(|tab| tab.is_away()) else { return };
        let gateway = self.gateways[self.rng.random_range(0..self.gateways.len())];
        // If not now, then at the next step.
        let _ = tab.reconnect(gateway).await;
    }

    async fn join_another(&mut self, plan: &Plan) -> Result<()> {
        let name = plan.group(self.rng.random_range(0..plan.groups));
        let (gateways, join) = (self.gateways.clone(), json!({"type": "join", "group": name}));
        let reply = self.client.ask_until_answered(join, &gateways, ACCEPTED_WITHIN).await.with_context(|| format!("joining {name}"))?;
        let group = reply["group"]["id"].as_str().and_then(|id| id.parse().ok()).context("a join's reply has the group's id")?;
        if !self.groups.contains(&group) {
            self.groups.push(group);
        }
        Ok(())
    }

    async fn leave_one(&mut self) -> Result<()> {
        let group = self.groups.swap_remove(self.rng.random_range(0..self.groups.len()));
        let (gateways, leave) = (self.gateways.clone(), json!({"type": "leave", "group": group}));
        self.client.ask_until_answered(leave, &gateways, ACCEPTED_WITHIN).await.with_context(|| format!("leaving {group}"))?;
        let gone = |record: &Record| (!record.follows(group)).then_some(());
        let gone_or_closed = |record: &Record| record.closed.as_ref().map(drop).or_else(|| gone(record));
        let until = Instant::now() + ACCEPTED_WITHIN;
        loop {
            self.client.wait_until("the end of a membership", ANSWER, gone_or_closed).await?;
            if !self.client.is_away() {
                return Ok(());
            }
            ensure!(Instant::now() < until, "closed again and again before the end of a membership");
            // Told to come back meanwhile, or its gateway killed: who comes back is not in the group any more.
            self.client.reconnect_to_any(&self.gateways, ACCEPTED_WITHIN).await?;
        }
    }

    /// Waits for the last message of each group; what does not come is the checker's to report. What was missed without a word
    /// once stays missed, though it may come with what is said later.
    pub(crate) async fn catch_up(&mut self, accepted: &[Fact], until: Instant) -> Result<()> {
        self.in_vain.retain(|missed| !missed.is_declared);
        let names: Vec<String> = self.clients().map(|(name, _)| name).collect();
        for (client, name) in [Some(&mut self.client), self.tab.as_mut()].into_iter().flatten().zip(names) {
            client.read_on();
            if client.is_away() {
                client.reconnect_to_any(&self.gateways, ACCEPTED_WITHIN).await?;
            }
            for group in client.record(Record::groups) {
                let last = accepted.iter().filter(|fact| fact.group == group).map(|fact| fact.position).max();
                let Some(last) = last else { continue };
                let patience = until.saturating_duration_since(Instant::now());
                // A group that it is not in any more brings nothing.
                let here = |record: &Record| (record.closed.is_some() || record.position(group).is_none_or(|at| at >= last)).then_some(());
                let mut waited = client.wait_until("the last message", patience, here).await;
                // Told to come back, once more while it did: until it is here or nobody waits any more.
                while client.is_away() && Instant::now() <= until {
                    client.reconnect_to_any(&self.gateways, ACCEPTED_WITHIN).await?;
                    waited = client.wait_until("the last message", until.saturating_duration_since(Instant::now()), here).await;
                }
                if waited.is_err() {
                    let is_declared = client.record(|record| record.is_reset(group));
                    self.in_vain.push(InVain { client: name.clone(), group, state: client.state_of(group, last), is_declared });
                }
            }
        }
        Ok(())
    }

    /// The groups of which somebody was told last that something is missing: what comes next has to come.
    pub(crate) fn silent(&self) -> impl Iterator<Item = GroupId> {
        let is_reset =
            |client: &Client| client.record(|record| record.groups().into_iter().filter(|group| record.is_reset(*group)).collect());
        self.clients().flat_map(move |(_, client)| -> Vec<GroupId> { is_reset(client) })
    }

    /// Connects again what was closed.
    pub(crate) async fn come_back(&mut self) -> Result<()> {
        for client in [Some(&mut self.client), self.tab.as_mut()].into_iter().flatten() {
            if client.is_away() {
                client.reconnect_to_any(&self.gateways, ACCEPTED_WITHIN).await?;
            }
        }
        Ok(())
    }

    /// Its connections, with the name that the checker knows each by.
    pub(crate) fn clients(&self) -> impl Iterator<Item = (String, &Client)> {
        let name = &self.client.user.handle;
        let tab = self.tab.as_ref().map(|tab| (format!("{name}#tab"), tab));
        std::iter::once((name.clone(), &self.client)).chain(tab)
    }
}

/// The body of a notification: no two are the same.
fn news(id: Uuid) -> String {
    format!("look: {id}")
}

/// That the server refuses for good is an answer too.
fn unless_refused(done: Result<()>) -> Result<()> {
    match done {
        Err(error) if matches!(error.downcast_ref(), Some(RequestError::Refused(frame)) if frame["retryable"] != true) => Ok(()),
        done => done,
    }
}
