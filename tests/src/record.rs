//! What a client of protocol v1 has received: pushes, answers, positions, and the checker's entries.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Instant,
};

use natter_shared::{
    id::{GroupId, MessageId},
    position::Position,
};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::{
    checker::{Content, Entry, Fact},
    inboxes::{Counts, Heard},
};

/// What to spoil on purpose, so that a test that passes is known to be able to fail.
#[derive(Debug, Clone)]
pub enum Sabotage {
    /// Loses the next message.
    Drop,
    /// Delivers the next message twice.
    Double,
    /// Delivers the next message after the one that follows it in its group.
    Swap,
    /// Holds a message until the next one of its group.
    Swapping(Fact),
}

/// A client's record; it goes on over reconnects.
#[derive(Default)]
pub struct Record {
    /// Everything that was no answer, as it came.
    pub pushes: Vec<Value>,
    /// For the checker.
    pub entries: Vec<Entry>,
    /// How the connection ended.
    pub closed: Option<(u16, String)>,
    /// Answer no pings.
    pub silent: bool,
    /// What to spoil next.
    pub sabotage: Option<Sabotage>,
    /// Keep only the checker's entries, for long runs.
    pub lean: bool,
    /// Pings received.
    pub pings: usize,
    /// When anything was last received.
    pub heard_at: Option<Instant>,
    /// Of the inbox, for its checker.
    pub heard: Vec<Heard>,
    /// The inbox's counts of the greatest version.
    pub counts: Option<(Position, Counts)>,
    /// Groups and inboxes that went on with all that was missed.
    pub recovered: usize,
    /// The groups of the pages of this sign-in so far.
    listed: Option<HashSet<GroupId>>,
    connection: u64,
    groups: BTreeMap<GroupId, Position>,
    /// Where memberships ended: a gateway that is behind may list them still.
    ended: BTreeMap<GroupId, Position>,
    /// Of which it was told that delivery has begun.
    told: HashSet<GroupId>,
    inbox: Option<Position>,
    waiting: HashMap<u32, (bool, oneshot::Sender<Value>)>,
}

/// The position in a JSON string.
pub fn position_of(value: &Value) -> Option<Position> {
    value.as_str()?.parse().ok()
}

fn group_of(value: &Value) -> Option<GroupId> {
    value.as_str()?.parse().ok()
}

fn content_of(frame: &Value) -> Content {
    let text = |field: &str| frame[field].as_str().unwrap_or_default();
    Content::of(text("sender"), text("body"))
}

impl Record {
    /// Forgets the last connection and its end; returns the new one's number and what to resume.
    pub fn begin_connection(&mut self) -> (u64, Value) {
        self.connection += 1;
        self.closed = None;
        self.waiting.clear();
        let mut from = self.ended.clone();
        from.extend(&self.groups);
        let mut resume = json!({"groups": from});
        if let Some(inbox) = self.inbox {
            resume["inbox"] = json!(inbox);
        }
        (self.connection, resume)
    }

    /// The connection ended: nobody gets an answer any more.
    pub fn end_connection(&mut self, connection: u64, code: u16, reason: String) {
        if connection != self.connection {
            return;
        }
        self.closed.get_or_insert((code, reason));
        self.waiting.clear();
    }

    /// The last position of a group, while it is followed.
    pub fn position(&self, group: GroupId) -> Option<Position> {
        self.groups.get(&group).copied()
    }

    /// Whether it was told that it is a member of a group, and of no end.
    pub fn follows(&self, group: GroupId) -> bool {
        self.told.contains(&group)
    }

    /// Claims to follow a group from a position.
    pub fn set_position(&mut self, group: GroupId, position: Position) {
        self.groups.insert(group, position);
    }

    /// Whether the last that it was told of a group is that something is missing.
    pub fn is_reset(&self, group: GroupId) -> bool {
        matches!(self.entries.iter().rev().find(|entry| entry.group() == group), Some(Entry::Reset(_)))
    }

    /// Whether it was ever told that something of a group is missing.
    pub fn was_reset(&self, group: GroupId) -> bool {
        self.entries.iter().any(|entry| matches!(entry, Entry::Reset(of) if *of == group))
    }

    /// The last position of the inbox.
    pub fn inbox_position(&self) -> Option<Position> {
        self.inbox
    }

    /// The groups followed.
    pub fn groups(&self) -> Vec<GroupId> {
        self.groups.keys().copied().collect()
    }

    /// The last position of each group that is followed.
    pub fn positions(&self) -> BTreeMap<GroupId, Position> {
        self.groups.clone()
    }

    /// Where the answer to request `id` will come.
    pub fn expect_answer(&mut self, id: u32, frame: &Value) -> oneshot::Receiver<Value> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.insert(id, (frame["type"] == "connect", sender));
        receiver
    }

    /// Takes in a frame; returns what to answer at once. What comes late on a connection that was
    /// given up is not taken in.
    pub fn take_in(&mut self, connection: u64, frame: Value) -> Option<&'static str> {
        if connection != self.connection {
            return None;
        }
        self.heard_at = Some(Instant::now());
        match frame["type"].as_str().unwrap_or_default() {
            "ping" => {
                self.pings += 1;
                return (!self.silent).then_some(r#"{"type":"pong"}"#);
            }
            "ready" => self.ready(&frame),
            "groups" => self.page(&frame),
            "inbox" => self.count(&frame),
            "reply" if frame["group"].is_object() => self.joined(&frame["group"]),
            "reply" if frame["groups"].is_array() => self.follow_all(&frame["groups"]),
            "message" => self.message(&frame),
            "notification" => self.notification(&frame),
            "group" => self.group(&frame),
            "reset" => self.reset(&frame),
            _ => {}
        }
        let answered = frame["id"].as_u64().and_then(|id| u32::try_from(id).ok()).and_then(|id| self.waiting.remove(&id));
        match answered {
            Some((_, waiting)) if matches!(frame["type"].as_str(), Some("reply" | "error" | "ready")) => {
                let _ = waiting.send(frame);
            }
            _ if self.lean => {}
            _ => self.pushes.push(frame),
        }
        None
    }

    fn ready(&mut self, frame: &Value) {
        self.listed = Some(HashSet::new());
        self.page(frame);
        if self.inbox.is_some() && frame["inbox_recovered"] == true {
            self.recovered += 1;
        } else {
            if self.inbox.is_some() {
                self.heard.push(Heard::Reset);
            }
            self.inbox = position_of(&frame["inbox_position"]);
        }
        self.count(&frame["inbox"]);
    }

    /// A page of the groups at sign-in; a group that is on none of them is left.
    fn page(&mut self, frame: &Value) {
        self.follow_all(&frame["groups"]);
        let on_it = frame["groups"].as_array().into_iter().flatten().filter_map(|group| group_of(&group["id"]));
        if let Some(listed) = &mut self.listed {
            listed.extend(on_it);
        }
        if frame["more"] == true {
            return;
        }
        let Some(listed) = self.listed.take() else { return };
        let gone: Vec<GroupId> = self.groups.keys().filter(|group| !listed.contains(group)).copied().collect();
        for group in gone {
            self.end(group, Entry::Gone(group));
        }
    }

    fn count(&mut self, frame: &Value) {
        let (Some(version), Some(unseen), Some(unread)) =
            (position_of(&frame["version"]), frame["unseen"].as_u64(), frame["unread"].as_u64())
        else {
            return;
        };
        if self.counts.is_none_or(|(before, _)| before <= version) {
            self.counts = Some((version, Counts { unseen, unread }));
        }
    }

    fn follow_all(&mut self, groups: &Value) {
        for group in groups.as_array().into_iter().flatten() {
            self.follow(group);
        }
    }

    /// The answer to a join; one of a member changes nothing.
    fn joined(&mut self, state: &Value) {
        if let (Some(group), Some(position)) = (group_of(&state["id"]), position_of(&state["position"])) {
            self.begin(group, Entry::Joined(group, position));
            self.advance(group, position);
        }
    }

    /// A group's state: where delivery goes on, and whether something is missing before it.
    fn follow(&mut self, state: &Value) {
        let (Some(group), Some(position)) = (group_of(&state["id"]), position_of(&state["position"])) else { return };
        if let Some(last) = self.groups.get(&group).or(self.ended.get(&group)).copied() {
            if state["recovered"] == true {
                self.recovered += 1;
                self.begin(group, Entry::Joined(group, last));
                self.advance(group, last);
                return;
            }
            // Whether there is a reason, for instance that its membership has ended and begun anew, is the checker's to know.
            self.entries.push(Entry::Reset(group));
        }
        self.begin(group, Entry::Joined(group, position));
        self.groups.insert(group, position);
    }

    /// Delivery of a group goes on as `entry` says; messages may have come before that was told.
    fn begin(&mut self, group: GroupId, entry: Entry) {
        if self.told.insert(group) {
            self.entries.push(entry);
        }
    }

    fn end(&mut self, group: GroupId, entry: Entry) {
        let last = self.groups.remove(&group).max(match &entry {
            Entry::Left(_, at) => Some(*at),
            _ => None,
        });
        if let Some(last) = last {
            self.ended.insert(group, last);
        }
        self.told.remove(&group);
        self.entries.push(entry);
    }

    fn advance(&mut self, group: GroupId, position: Position) {
        let last = self.groups.entry(group).or_insert(position);
        *last = position.max(*last);
    }

    fn message(&mut self, frame: &Value) {
        let fact = || {
            let message = frame["id"].as_str()?.parse().ok()?;
            let (group, position) = (group_of(&frame["group"])?, position_of(&frame["position"])?);
            Some(Fact { message, group, position, content: content_of(frame) })
        };
        let Some(fact) = fact() else { panic!("not a message: {frame}") };
        self.advance(fact.group, fact.position);
        match self.sabotage.take() {
            None => self.entries.push(Entry::Delivered(fact)),
            Some(Sabotage::Drop) => {}
            Some(Sabotage::Double) => self.entries.extend([Entry::Delivered(fact), Entry::Delivered(fact)]),
            Some(Sabotage::Swap) => self.sabotage = Some(Sabotage::Swapping(fact)),
            Some(Sabotage::Swapping(held)) if held.group == fact.group => {
                self.entries.extend([Entry::Delivered(fact), Entry::Delivered(held)]);
            }
            Some(held @ Sabotage::Swapping(_)) => {
                self.sabotage = Some(held);
                self.entries.push(Entry::Delivered(fact));
            }
        }
    }

    /// A notification: a group's comes like its messages.
    fn notification(&mut self, frame: &Value) {
        let id = frame["id"].as_str().and_then(|id| id.parse::<Uuid>().ok());
        let (Some(position), Some(id)) = (position_of(&frame["position"]), id) else { return };
        match group_of(&frame["group"]) {
            Some(group) => {
                self.advance(group, position);
                self.entries.push(Entry::Delivered(Fact { message: MessageId(id), group, position, content: content_of(frame) }));
            }
            None => {
                self.inbox = self.inbox.max(Some(position));
                self.heard.push(Heard::Note(id, position, content_of(frame)));
            }
        }
    }

    fn group(&mut self, frame: &Value) {
        let (Some(group), Some(position)) = (group_of(&frame["group"]), position_of(&frame["position"])) else { return };
        match frame["change"].as_str() {
            Some("joined") => {
                // Told of it by an earlier connection, it goes on where that was.
                let goes_on = self.groups.get(&group).or(self.ended.get(&group)) == Some(&position);
                let entry = if goes_on { Entry::Joined } else { Entry::Began };
                self.begin(group, entry(group, position));
                self.advance(group, position);
                if let Some(listed) = &mut self.listed {
                    listed.insert(group);
                }
            }
            Some("left") => self.end(group, Entry::Left(group, position)),
            _ => self.advance(group, position),
        }
    }

    fn reset(&mut self, frame: &Value) {
        match group_of(&frame["group"]) {
            // Where it goes on shows with the next message; resuming before that would be wrong.
            Some(group) => self.entries.push(Entry::Reset(group)),
            None => {
                self.inbox = None;
                self.heard.push(Heard::Reset);
            }
        }
    }
}
