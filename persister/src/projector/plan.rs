//! What a batch does to SQL, worked out in memory from the events in their order and what is
//! [`Known`]: rows to write, hints to publish, inboxes that change.

use std::collections::{BTreeSet, HashMap, HashSet};

use natter_shared::{
    broker::{Outgoing, Stored},
    event::{
        Audience, Event, GroupCreated, GroupJoined, GroupKind, GroupLeft, GroupRenamed, Message, Notification, Read, Role, Seen, SeenWhat,
    },
    id::{GroupId, UserId, derived_event},
    position::Position,
    subject::{Shard, Shards, Topic},
    timestamp::Timestamp,
};
use sea_orm::Value;
use uuid::Uuid;

use super::{
    decode::Entry,
    known::{Fingerprint, GroupInfo, Known, MemberState, content},
    marks::Mark,
    tables::{self, Tables},
};
use crate::{checkpoint, database::rows::Rows, inbox::Change, rpc::memberships::single_name};

/// Membership changes and group notifications whose order among themselves does not matter: no
/// group is both changed and notified, no member changed twice. A batch is mostly one of them.
#[derive(Default)]
pub(super) struct Segment {
    pub(super) members: HashMap<(GroupId, UserId), MemberState>,
    pub(super) changed: HashSet<GroupId>,
    pub(super) notified: Vec<GroupNotification>,
}

/// A notification to the members of a group as of its position.
pub(super) struct GroupNotification {
    pub(super) notification: Notification,
    pub(super) group: GroupId,
    pub(super) position: Position,
    pub(super) stored_at: Timestamp,
}

/// What a batch does.
pub(super) struct Plan<'a> {
    pub(super) tables: Tables,
    pub(super) segments: Vec<Segment>,
    pub(super) hints: Vec<Outgoing>,
    pub(super) changes: Vec<Change>,
    /// Messages of each group after this batch.
    pub(super) counters: HashMap<GroupId, i64>,
    /// Groups whose counter this batch moves.
    pub(super) counted: HashSet<GroupId>,
    pub(super) users: BTreeSet<UserId>,
    pub(super) reads: HashMap<(UserId, GroupId), Position>,
    pub(super) seen: HashMap<(UserId, Uuid), Mark>,
    pub(super) seen_upto: HashMap<(UserId, Mark), Position>,
    /// Groups with another name after this batch.
    pub(super) names: HashMap<GroupId, String>,
    pub(super) dead: Vec<(&'a Stored, String)>,
    groups: HashMap<GroupId, GroupInfo>,
    members: HashMap<(GroupId, UserId), MemberState>,
    ids: HashMap<Uuid, Fingerprint>,
    handles: HashMap<UserId, String>,
    now: Timestamp,
    /// PostgreSQL's text cannot hold U+0000.
    refuses_nul: bool,
    pub(super) shards: Shards,
}

/// Why an event is not applied.
enum Skip {
    /// It is there already.
    Silent,
    /// A dead letter.
    Dead(&'static str),
}

/// Works out what `entries` do.
pub(super) fn plan(entries: Vec<Entry<'_>>, known: Known, shards: Shards, now: Timestamp, refuses_nul: bool) -> Plan<'_> {
    let mut plan = Plan {
        tables: Tables::new(),
        segments: vec![Segment::default()],
        hints: Vec::new(),
        changes: Vec::new(),
        counters: known.counters,
        counted: HashSet::new(),
        users: BTreeSet::new(),
        reads: HashMap::new(),
        seen: HashMap::new(),
        seen_upto: HashMap::new(),
        names: HashMap::new(),
        dead: Vec::new(),
        groups: known.groups,
        members: known.members,
        ids: known.existing,
        handles: known.handles,
        now,
        refuses_nul,
        shards,
    };
    for Entry { stored, event } in entries {
        let applied = match event {
            Ok(event) => {
                let change = Change::by(&event);
                plan.apply(stored, event).inspect(|()| plan.changes.extend(change))
            }
            Err(reason) => {
                plan.dead.push((stored, reason));
                continue;
            }
        };
        match applied {
            Ok(()) | Err(Skip::Silent) => {}
            Err(Skip::Dead(reason)) => plan.dead.push((stored, reason.to_owned())),
        }
    }
    plan
}

impl<'a> Plan<'a> {
    fn apply(&mut self, stored: &'a Stored, event: Event) -> Result<(), Skip> {
        match event {
            Event::Message(message) => self.message(stored, message),
            Event::Notification(notification) => self.notification(stored, notification),
            Event::GroupCreated(created) => self.group_created(stored, created),
            Event::MemberAdded(added) => {
                if !self.groups.contains_key(&added.group) {
                    return Err(Skip::Dead("unknown_group"));
                }
                self.group_event(stored, added.group, "member_added")?;
                self.add(stored, added.group, added.user, added.role, None);
                Ok(())
            }
            Event::MemberRemoved(removed) => {
                self.group_event(stored, removed.group, "member_removed")?;
                self.remove(stored, removed.group, &removed.user);
                Ok(())
            }
            Event::GroupRenamed(renamed) => self.group_renamed(stored, renamed),
            Event::Read(read) => {
                self.read(read);
                Ok(())
            }
            Event::Seen(seen) => {
                self.seen(seen);
                Ok(())
            }
            // Derived from what the group's own events have put into SQL.
            Event::GroupJoined(_) | Event::GroupLeft(_) | Event::Canary => Ok(()),
        }
    }

    /// Whether `id` is free for `content` at the event's position.
    fn claim(&mut self, id: Uuid, stored: &Stored, content: u64) -> Result<(), Skip> {
        let this = Fingerprint { position: stored.position, content };
        match self.ids.insert(id, this) {
            None => Ok(()),
            Some(before) => {
                self.ids.insert(id, before);
                // The same event again is no news even where its text was erased since.
                if before.content == content || before.position == this.position {
                    if before.position != this.position {
                        tracing::debug!(%id, first = %before.position, second = %this.position, "duplicate_ignored");
                    }
                    Err(Skip::Silent)
                } else {
                    Err(Skip::Dead("nonce_reused"))
                }
            }
        }
    }

    fn message(&mut self, stored: &Stored, message: Message) -> Result<(), Skip> {
        self.check_text(&message.body)?;
        let event = Event::Message(message);
        let digest = content(&event).unwrap_or_default();
        let Event::Message(message) = event else { return Err(Skip::Silent) };
        self.claim(message.id.0, stored, digest)?;
        let ordinal = self.counters.entry(message.group).or_default();
        *ordinal += 1;
        self.counted.insert(message.group);
        let (epoch, seq) = checkpoint::sql(stored.position);
        self.tables.messages.push([
            message.id.0.into(),
            message.group.0.into(),
            epoch.into(),
            seq.into(),
            (*ordinal).into(),
            message.sender.as_str().into(),
            message.nonce.uuid().into(),
            message.body.into(),
            message.reply_to.map(|id| id.0).into(),
            raw(message.data),
            (stored.stored_at.0 as i64).into(),
        ]);
        Ok(())
    }

    fn notification(&mut self, stored: &Stored, notification: Notification) -> Result<(), Skip> {
        let event = Event::Notification(notification);
        let digest = content(&event).unwrap_or_default();
        let Event::Notification(notification) = event else { return Err(Skip::Silent) };
        match notification.to.clone() {
            Audience::User(user) => {
                self.check_text(&notification.body)?;
                self.claim(notification.id.0, stored, digest)?;
                let (epoch, seq) = checkpoint::sql(stored.position);
                self.tables.notifications.push([
                    user.as_str().into(),
                    notification.id.0.into(),
                    epoch.into(),
                    seq.into(),
                    notification.sender.as_ref().map(|sender| sender.as_str().to_owned()).into(),
                    notification.nonce.uuid().into(),
                    notification.body.into(),
                    raw(notification.data),
                    (stored.stored_at.0 as i64).into(),
                ]);
                self.users.insert(user);
            }
            Audience::Group(group) => {
                self.claim(notification.id.0, stored, digest)?;
                self.tables.group_event(stored, group, "notification", notification.id.0);
                let (position, stored_at) = (stored.position, stored.stored_at);
                let segment = self.segment(|segment| !segment.changed.contains(&group));
                segment.notified.push(GroupNotification { notification, group, position, stored_at });
            }
        }
        Ok(())
    }

    fn group_created(&mut self, stored: &Stored, created: GroupCreated) -> Result<(), Skip> {
        self.check_text(&created.display_name)?;
        self.group_event(stored, created.group, "group_created")?;
        // The first creation holds; a second one, from the other side of a single group or from
        // another persister, says nothing new.
        if self.groups.contains_key(&created.group) {
            return Ok(());
        }
        let info = GroupInfo { kind: created.kind, name: created.name, display_name: created.display_name };
        let (epoch, seq) = checkpoint::sql(stored.position);
        self.tables.groups.push([
            created.group.0.into(),
            info.kind.as_str().into(),
            info.name.as_ref().map(|name| name.as_str().to_owned()).into(),
            info.display_name.clone().into(),
            epoch.into(),
            seq.into(),
            (stored.stored_at.0 as i64).into(),
        ]);
        self.groups.insert(created.group, info);
        let names = self.names_of_sides(created.kind, &created.members);
        for ((user, role), name) in created.members.into_iter().zip(names) {
            self.add(stored, created.group, user, role, name);
        }
        Ok(())
    }

    /// What each member of a new group is told it is called, where that is not the group's name.
    fn names_of_sides(&self, kind: GroupKind, members: &[(UserId, Role)]) -> Vec<Option<String>> {
        let handle = |user: &UserId| self.handles.get(user).map_or_else(|| user.to_string(), Clone::clone);
        match (kind, members) {
            (GroupKind::Single, [(one, _), (other, _)]) => {
                let (one, other) = (handle(one), handle(other));
                vec![Some(single_name(&one, &other)), Some(single_name(&other, &one))]
            }
            (GroupKind::Single | GroupKind::Group | GroupKind::Open, _) => vec![None; members.len()],
        }
    }

    fn group_renamed(&mut self, stored: &Stored, renamed: GroupRenamed) -> Result<(), Skip> {
        self.check_text(&renamed.display_name)?;
        let Some(info) = self.groups.get_mut(&renamed.group) else { return Err(Skip::Dead("unknown_group")) };
        info.display_name.clone_from(&renamed.display_name);
        self.group_event(stored, renamed.group, "group_renamed")?;
        self.names.insert(renamed.group, renamed.display_name);
        Ok(())
    }

    fn group_event(&mut self, stored: &Stored, group: GroupId, kind: &'static str) -> Result<(), Skip> {
        self.claim(stored.id.0, stored, 0)?;
        self.tables.group_event(stored, group, kind, stored.id.0);
        Ok(())
    }

    fn add(&mut self, stored: &Stored, group: GroupId, user: UserId, role: Role, called: Option<String>) {
        let key = (group, user);
        let before = self.members.get(&key);
        if before.is_some_and(|state| state.is_active() || state.changed_at() >= stored.position) {
            return;
        }
        let version = before.map_or(0, |state| state.version) + 1;
        let since_ordinal = self.counters.get(&group).copied().unwrap_or_default();
        let state = MemberState { role, since: stored.position, since_ordinal, until: None, version };
        if let Some(info) = self.groups.get(&group) {
            let joined = GroupJoined {
                group,
                user: key.1.clone(),
                kind: info.kind,
                name: info.name.clone(),
                display_name: called.unwrap_or_else(|| info.display_name.clone()),
                role,
                since: stored.position,
            };
            self.hint("joined", stored, &key.1, &Event::GroupJoined(joined));
        }
        self.users.insert(key.1.clone());
        self.change(key, state);
    }

    fn remove(&mut self, stored: &Stored, group: GroupId, user: &UserId) {
        let key = (group, user.clone());
        let Some(before) = self.members.get(&key) else { return };
        if !before.is_active() || before.changed_at() >= stored.position {
            return;
        }
        let state = MemberState { until: Some(stored.position), version: before.version + 1, ..before.clone() };
        let left = GroupLeft { group, user: user.clone(), until: stored.position };
        self.hint("left", stored, user, &Event::GroupLeft(left));
        self.change(key, state);
    }

    fn change(&mut self, key: (GroupId, UserId), state: MemberState) {
        self.members.insert(key.clone(), state.clone());
        let segment =
            self.segment(|segment| !segment.members.contains_key(&key) && !segment.notified.iter().any(|notified| notified.group == key.0));
        segment.changed.insert(key.0);
        segment.members.insert(key, state);
    }

    /// The last segment if it `fits`, else a new one.
    fn segment(&mut self, fits: impl Fn(&Segment) -> bool) -> &mut Segment {
        if !self.segments.last().is_some_and(fits) {
            self.segments.push(Segment::default());
        }
        let last = self.segments.len() - 1;
        #[expect(clippy::indexing_slicing, reason = "never empty")]
        &mut self.segments[last]
    }

    fn hint(&mut self, what: &str, stored: &Stored, user: &UserId, event: &Event) {
        let Ok(payload) = event.encode() else { return };
        let id = derived_event(what, &[stored.id.0.as_bytes(), user.as_str().as_bytes()]);
        self.hints.push(Outgoing { topic: Topic::User(user.key()), id, made_at: self.now, epoch: None, payload });
    }

    fn read(&mut self, read: Read) {
        let at = self.reads.entry((read.user, read.group)).or_default();
        *at = (*at).max(read.position);
    }

    fn seen(&mut self, seen: Seen) {
        let mark = Mark::of(&seen);
        match seen.what {
            SeenWhat::Ids(ids) => {
                for id in ids {
                    let known = self.seen.entry((seen.user.clone(), id.0)).or_insert(mark);
                    *known = mark.max(*known);
                }
            }
            SeenWhat::Upto(position) => {
                let at = self.seen_upto.entry((seen.user, mark)).or_default();
                *at = (*at).max(position);
            }
        }
    }

    fn check_text(&self, text: &str) -> Result<(), Skip> {
        if self.refuses_nul && text.contains('\0') { Err(Skip::Dead("nul_character")) } else { Ok(()) }
    }

    /// Whether it writes messages and nothing else.
    pub(super) fn is_of_messages(&self) -> bool {
        let Tables { messages: _, group_events, groups, notifications } = &self.tables;
        let rows = group_events.len() + groups.len() + notifications.len() + self.users.len() + self.names.len() + self.dead.len();
        let marks = self.reads.len() + self.seen.len() + self.seen_upto.len();
        rows + marks == 0 && self.segments.iter().all(|segment| segment.members.is_empty() && segment.notified.is_empty())
    }

    /// The counters that this batch moves, as rows.
    pub(super) fn counter_rows(&self) -> Rows<2> {
        let mut rows = tables::counters();
        for group in &self.counted {
            rows.push([group.0.into(), self.counters.get(group).copied().unwrap_or_default().into()]);
        }
        rows
    }

    /// The dead letters, as rows.
    pub(super) fn dead_letters(&self, shard: Shard) -> tables::DeadLetters {
        let mut rows = tables::dead_letters();
        for (stored, reason) in &self.dead {
            rows.push(tables::dead_letter(shard, stored, reason));
        }
        rows
    }
}

fn raw(data: Option<natter_shared::event::Data>) -> Value {
    data.map(|data| data.get().to_owned()).into()
}
