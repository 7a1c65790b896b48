//! What a client remembers over a lost connection: how far it has its groups and its inbox (protocol v1,
//! `connect.resume`).

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// How far it is, and what it is missing since.
#[derive(Debug, Default, Serialize)]
pub(super) struct Resume {
    groups: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inbox: Option<String>,
    /// Messages that it was away for, while it is coming back.
    #[serde(skip)]
    missed: Option<u64>,
    /// Groups that could not be told in full since.
    #[serde(skip)]
    pub(super) unrecovered: usize,
}

#[derive(Deserialize)]
struct Ready<'a> {
    #[serde(borrow)]
    groups: Vec<Group<'a>>,
    inbox_position: &'a str,
}

#[derive(Deserialize)]
struct Group<'a> {
    id: &'a str,
    name: Option<String>,
    position: &'a str,
    recovered: bool,
}

#[derive(Deserialize)]
struct Joined<'a> {
    #[serde(borrow)]
    group: Group<'a>,
}

#[derive(Deserialize)]
struct Message<'a> {
    group: &'a str,
    position: &'a str,
}

impl Resume {
    /// The first frame.
    pub(super) fn connect(&self) -> String {
        json!({ "type": "connect", "id": 1, "resume": self }).to_string()
    }

    /// It is to come back, and has missed so many messages.
    pub(super) fn comes_back(&mut self, missed: u64) {
        self.missed = Some(missed);
    }

    /// Whether it has just caught up: once.
    pub(super) fn is_back(&mut self) -> bool {
        self.missed.take_if(|missed| *missed == 0).is_some()
    }

    /// Takes in `ready`; the names of the groups in it.
    pub(super) fn on_ready(&mut self, text: &[u8]) -> Result<HashSet<String>> {
        let ready: Ready<'_> = serde_json::from_slice(text).context("what ready says")?;
        self.inbox = Some(ready.inbox_position.to_owned());
        let mut names = HashSet::new();
        for group in ready.groups {
            self.unrecovered += usize::from(self.groups.contains_key(group.id) && !group.recovered);
            self.groups.insert(group.id.to_owned(), group.position.to_owned());
            names.extend(group.name);
        }
        Ok(names)
    }

    /// Takes in the answer to a join.
    pub(super) fn on_joined(&mut self, text: &[u8]) -> Result<()> {
        let Joined { group } = serde_json::from_slice(text).context("what a join's reply says")?;
        self.groups.insert(group.id.to_owned(), group.position.to_owned());
        Ok(())
    }

    /// Takes in a message, which came for the first time, or not.
    pub(super) fn on_message(&mut self, text: &[u8], is_new: bool) -> Result<()> {
        let message: Message<'_> = serde_json::from_slice(text).context("what a message says")?;
        match self.groups.get_mut(message.group) {
            Some(position) => message.position.clone_into(position),
            None => drop(self.groups.insert(message.group.to_owned(), message.position.to_owned())),
        }
        if let Some(missed) = self.missed.as_mut().filter(|_| is_new) {
            *missed = missed.saturating_sub(1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: &str = r#"{"type":"ready","groups":[{"id":"a","name":"r0","position":"1.5","recovered":true}],"inbox_position":"1.2"}"#;

    #[test]
    fn it_goes_on_where_it_was_and_is_back_once_when_all_has_come() -> Result<()> {
        let mut resume = Resume::default();
        assert_eq!(resume.connect(), r#"{"id":1,"resume":{"groups":{}},"type":"connect"}"#);
        assert_eq!(resume.on_ready(READY.as_bytes())?, HashSet::from(["r0".to_owned()]));
        resume.on_joined(br#"{"type":"reply","group":{"id":"b","position":"1.7","recovered":false}}"#)?;
        resume.on_message(br#"{"type":"message","group":"b","position":"1.9"}"#, true)?;
        assert_eq!(resume.connect(), r#"{"id":1,"resume":{"groups":{"a":"1.5","b":"1.9"},"inbox":"1.2"},"type":"connect"}"#);
        assert!(!resume.is_back(), "it was never away");
        resume.comes_back(1);
        resume.on_ready(READY.replace("true", "false").as_bytes())?;
        assert_eq!(resume.unrecovered, 1);
        resume.on_message(br#"{"type":"message","group":"a","position":"1.5"}"#, false)?;
        assert!(!resume.is_back(), "what came again was not missed");
        resume.on_message(br#"{"type":"message","group":"a","position":"1.6"}"#, true)?;
        assert!(resume.is_back());
        assert!(!resume.is_back(), "it is told once");
        Ok(())
    }
}
