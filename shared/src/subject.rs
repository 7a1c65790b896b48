//! The one place that builds and parses NATS subjects. Every token is a number or hexadecimal, so
//! no text from outside can hold a `.`, `*`, `>`, space or control character here.
//!
//! | subject | carries |
//! |---|---|
//! | `ev.<shard>.g.<group>` · `ev.<shard>.u.<user>` · `ev.<shard>.c.<gateway>` | events to be stored |
//! | `live.<shard>.…` | the same after they are stored (RePublish), and ephemera |
//! | `retired.<shard>.e<epoch>` | the empty subject space of an epoch that has ended |
//! | `ctl` | announcements of persisters |
//! | `gw` | announcements of gateways |
//! | `rpc.<name>` | calls to the persister |

use std::fmt::{self, Write as _};

use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    id::{GroupId, InstanceId, UserKey},
    position::Epoch,
};

/// Announcements of persisters (core NATS).
pub const CONTROL: &str = "ctl";

/// Announcements of gateways (core NATS): apart, so that no gateway can speak for a persister.
pub const GATEWAYS: &str = "gw";

/// A partition of all groups and users: one stream each. Numbered from 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Shard(pub u16);

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How many shards the installation has; fixed when it is installed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shards(std::num::NonZeroU16);

impl Shards {
    /// `count` shards, at least one.
    pub fn new(count: u16) -> Option<Self> {
        std::num::NonZeroU16::new(count).map(Self)
    }

    /// How many.
    pub fn count(self) -> u16 {
        self.0.get()
    }

    /// All of them.
    pub fn iter(self) -> impl Iterator<Item = Shard> {
        (0..self.count()).map(Shard)
    }

    /// Where `topic` lives: a hash that every release computes alike.
    pub fn of(self, topic: Topic) -> Shard {
        let hash = match topic {
            Topic::Group(group) => xxh3_64(group.0.as_bytes()),
            Topic::User(user) => xxh3_64(&user.0.to_be_bytes()),
            Topic::Canary(gateway) => xxh3_64(gateway.0.as_bytes()),
        };
        Shard((hash % u64::from(self.count())) as u16)
    }
}

/// What an event is about: its order is kept among the events of the same topic.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Topic {
    /// What happens in a group.
    Group(GroupId),
    /// What concerns one user alone.
    User(UserKey),
    /// A gateway's own probes; stored in whichever shard they probe.
    Canary(InstanceId),
}

/// Which of a stream's two subject spaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    /// To be stored.
    Event,
    /// Stored, or ephemeral.
    Live,
}

impl Space {
    fn token(self) -> &'static str {
        match self {
            Self::Event => "ev",
            Self::Live => "live",
        }
    }
}

/// The subject of `topic` in `shard`.
pub fn subject(space: Space, shard: Shard, topic: Topic) -> String {
    let mut out = String::with_capacity(48);
    let (kind, id) = match topic {
        Topic::Group(group) => ('g', group.0.as_u128()),
        Topic::User(user) => ('u', user.0),
        Topic::Canary(gateway) => ('c', gateway.0.as_u128()),
    };
    // Writing to a String cannot fail.
    let _ = write!(out, "{}.{shard}.{kind}.{id:032x}", space.token());
    out
}

/// The subject of the users of `shard`, all of them.
pub fn all_users(space: Space, shard: Shard) -> String {
    format!("{}.{shard}.u.*", space.token())
}

/// Everything of `shard`.
pub fn all_of(space: Space, shard: Shard) -> String {
    format!("{}.{shard}.>", space.token())
}

/// Where the subject space of an ended epoch is moved to, to make room for the next one.
pub fn retired(shard: Shard, epoch: Epoch) -> String {
    format!("retired.{shard}.e{epoch}")
}

/// All that a shard's streams of epochs that have ended keep.
pub fn all_retired(shard: Shard) -> String {
    format!("retired.{shard}.*")
}

/// The name of a shard's stream in an epoch.
pub fn stream_name(shard: Shard, epoch: Epoch) -> String {
    format!("EVENTS_{shard}_e{epoch}")
}

/// The shard and epoch of a stream's name, if it is one of ours.
pub fn parse_stream_name(name: &str) -> Option<(Shard, Epoch)> {
    let (shard, epoch) = name.strip_prefix("EVENTS_")?.split_once("_e")?;
    Some((Shard(shard.parse().ok()?), Epoch(epoch.parse().ok()?)))
}

/// The subject of a call to the persister.
pub fn rpc(name: &str) -> String {
    format!("rpc.{name}")
}

/// A parsed subject: where it belongs and what it is about.
pub fn parse(subject: &str) -> Option<(Space, Shard, Topic)> {
    let mut tokens = subject.split('.');
    let space = match tokens.next()? {
        "ev" => Space::Event,
        "live" => Space::Live,
        _ => return None,
    };
    let shard = Shard(tokens.next()?.parse().ok()?);
    let kind = tokens.next()?;
    let id = tokens.next().filter(|id| id.len() == 32 && !id.starts_with('+'))?;
    let id = u128::from_str_radix(id, 16).ok()?;
    let topic = match kind {
        "g" => Topic::Group(GroupId(Uuid::from_u128(id))),
        "u" => Topic::User(UserKey(id)),
        "c" => Topic::Canary(InstanceId(Uuid::from_u128(id))),
        _ => return None,
    };
    tokens.next().is_none().then_some((space, shard, topic))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::{RoomName, UserId, open_group};

    fn is_plain(subject: &str) -> bool {
        subject.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.') && !subject.contains("..")
    }

    proptest! {
        #[test]
        fn any_user_makes_a_plain_subject_that_parses_back(text in "\\PC{1,30}", shard in 0u16..64) {
            if let Ok(user) = UserId::new(&text) {
                let topic = Topic::User(user.key());
                let built = subject(Space::Event, Shard(shard), topic);
                prop_assert!(is_plain(&built));
                prop_assert_eq!(parse(&built), Some((Space::Event, Shard(shard), topic)));
            }
        }

        #[test]
        fn any_room_makes_a_plain_subject_that_parses_back(text in "\\PC{1,64}", shards in 1u16..64) {
            if let Ok(room) = RoomName::room(&text) {
                let topic = Topic::Group(open_group(&room));
                let shard = Shards::new(shards).unwrap().of(topic);
                prop_assert!(shard.0 < shards);
                let built = subject(Space::Live, shard, topic);
                prop_assert!(is_plain(&built));
                prop_assert_eq!(parse(&built), Some((Space::Live, shard, topic)));
            }
        }

        #[test]
        fn parsing_any_text_does_not_panic(text in ".{0,80}") {
            let _ = parse(&text);
            let _ = parse_stream_name(&text);
        }
    }

    #[test]
    fn the_shard_of_a_topic_never_changes_between_releases() {
        let shards = Shards::new(4).unwrap();
        let of = |name: &str| shards.of(Topic::Group(open_group(&RoomName::slug(name).unwrap()))).0;
        let user = |name: &str| shards.of(Topic::User(UserId::new(name).unwrap().key())).0;
        assert_eq!([of("lobby"), of("r0"), of("r1"), of("r2")], GROUP_SHARDS);
        assert_eq!([user("alice"), user("bob"), user("u0"), user("u1")], USER_SHARDS);
    }

    // Written down once; a change here would orphan every installed stream.
    const GROUP_SHARDS: [u16; 4] = [3, 2, 3, 3];
    const USER_SHARDS: [u16; 4] = [3, 3, 0, 0];

    #[test]
    fn stream_names_carry_shard_and_epoch() {
        assert_eq!(stream_name(Shard(3), Epoch(12)), "EVENTS_3_e12");
        assert_eq!(parse_stream_name("EVENTS_3_e12"), Some((Shard(3), Epoch(12))));
        assert_eq!(parse_stream_name("ORDERS"), None);
    }
}
