//! From what the log holds to what may be applied: voids and probes drop out, and what cannot be
//! read, or stands where it does not belong, is a dead letter.

use natter_shared::{
    broker::Stored,
    event::{Audience, Event},
    subject::Topic,
};

/// An event to apply.
pub(crate) struct Entry<'a> {
    pub(crate) stored: &'a Stored,
    /// The event, or why it cannot be applied.
    pub(crate) event: Result<Event, String>,
}

/// Decodes a batch.
pub(crate) fn entries(batch: &[Stored]) -> Vec<Entry<'_>> {
    batch.iter().filter(|stored| !stored.is_void()).filter_map(entry).collect()
}

fn entry(stored: &Stored) -> Option<Entry<'_>> {
    let event = match Event::decode(&stored.payload) {
        Ok(Event::Canary) => return None,
        Ok(event) if topic(&event) == Some(stored.topic) => Ok(event),
        Ok(_) => Err("wrong_topic".to_owned()),
        // Canaries carry nothing else; whatever else is on such a topic is no business of SQL.
        Err(_) if matches!(stored.topic, Topic::Canary(_)) => return None,
        Err(error) => Err(format!("undecodable: {error}")),
    };
    Some(Entry { stored, event })
}

/// The topic an event belongs on.
fn topic(event: &Event) -> Option<Topic> {
    let group = match event {
        Event::Message(message) => message.group,
        Event::GroupCreated(created) => created.group,
        Event::MemberAdded(added) => added.group,
        Event::MemberRemoved(removed) => removed.group,
        Event::GroupRenamed(renamed) => renamed.group,
        Event::Notification(notification) => match &notification.to {
            Audience::Group(group) => *group,
            Audience::User(user) => return Some(Topic::User(user.key())),
        },
        Event::GroupJoined(joined) => return Some(Topic::User(joined.user.key())),
        Event::GroupLeft(left) => return Some(Topic::User(left.user.key())),
        Event::Read(read) => return Some(Topic::User(read.user.key())),
        Event::Seen(seen) => return Some(Topic::User(seen.user.key())),
        Event::Canary => return None,
    };
    Some(Topic::Group(group))
}
