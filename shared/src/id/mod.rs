//! Identities, parsed once at the edge; past it nothing is a bare string or UUID.

mod derive;
mod name;

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::{Uuid, fmt::Hyphenated};

pub use derive::{derived_event, open_group, single_group};
pub use name::{RoomName, RoomNameError};

/// The longest user id accepted, in bytes.
pub const MAX_USER_ID_BYTES: usize = 128;

/// Why a text is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not a UUID in its hyphenated or simple form.
    #[error("not a UUID")]
    Uuid,
    /// Empty, too long, or with control characters.
    #[error("a user id has 1 to {MAX_USER_ID_BYTES} bytes and no control characters")]
    User,
    /// A nonce that is not a version 7 UUID (RFC 9562 section 5.7).
    #[error("a nonce is a UUID of version 7")]
    Nonce,
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0.hyphenated())
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Uuid::parse_str(text).map(Self).map_err(|_| IdError::Uuid)
            }
        }
    };
}

uuid_id!(
    /// A group: a one-to-one, a group of people, or an open room.
    GroupId
);
uuid_id!(
    /// A message; derived from its sender and nonce, so that every copy and retry has the same.
    MessageId
);
uuid_id!(
    /// A notification; derived from its sender and nonce.
    NotificationId
);
uuid_id!(
    /// An event in a stream: the `Nats-Msg-Id`, by which the broker refuses a second copy.
    EventId
);
uuid_id!(
    /// One connection of one user to one gateway.
    SessionId
);
uuid_id!(
    /// One running process, gateway or persister.
    InstanceId
);

impl From<MessageId> for EventId {
    fn from(id: MessageId) -> Self {
        Self(id.0)
    }
}

impl From<NotificationId> for EventId {
    fn from(id: NotificationId) -> Self {
        Self(id.0)
    }
}

impl MessageId {
    /// The id of what `sender` sent under `nonce`.
    pub fn derive(sender: &UserId, nonce: Nonce) -> Self {
        Self(derive::from_nonce("message", sender.as_str(), nonce))
    }
}

impl NotificationId {
    /// The id of what `sender` notified under `nonce`.
    pub fn derive(sender: &UserId, nonce: Nonce) -> Self {
        Self(derive::from_nonce("notification", sender.as_str(), nonce))
    }

    /// The id of what the application's back end notified under `nonce`. One nonce may go to many;
    /// `to` is the recipient's or group's id as text.
    pub fn derive_for_server(to: &str, nonce: Nonce) -> Self {
        Self(derive::from_nonce("server notification", to, nonce))
    }
}

impl SessionId {
    /// A fresh one.
    pub fn random() -> Self {
        Self(Uuid::now_v7())
    }
}

impl InstanceId {
    /// A fresh one.
    pub fn random() -> Self {
        Self(Uuid::now_v7())
    }
}

impl EventId {
    /// A fresh one, for events that nobody retries under the same id.
    pub fn random() -> Self {
        Self(Uuid::now_v7())
    }
}

/// A user: the token's `sub`, 1 to [`MAX_USER_ID_BYTES`] bytes without control characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Arc<str>);

impl UserId {
    /// Checks `text`.
    pub fn new(text: &str) -> Result<Self, IdError> {
        let fits = !text.is_empty() && text.len() <= MAX_USER_ID_BYTES;
        if fits && !text.chars().any(char::is_control) { Ok(Self(text.into())) } else { Err(IdError::User) }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The fixed-size key under which subjects and tables of the gateway know the user.
    pub fn key(&self) -> UserKey {
        derive::user_key(self)
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserId({})", self.0)
    }
}

impl FromStr for UserId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::new(text)
    }
}

impl Serialize for UserId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for UserId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

/// 128 bits of the SHA-256 of a user's id: what stands for the user in subjects.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct UserKey(pub u128);

/// A UUIDv7 made by the client when it first transmits something; a retry repeats it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Nonce(Uuid);

impl Nonce {
    /// Checks that `uuid` is of version 7.
    pub fn new(uuid: Uuid) -> Result<Self, IdError> {
        if uuid.get_version_num() == 7 { Ok(Self(uuid)) } else { Err(IdError::Nonce) }
    }

    /// A fresh one by this machine's clock.
    pub fn now() -> Self {
        Self(Uuid::now_v7())
    }

    /// A fresh one of a point in time, for what a gateway sends on behalf of a protocol without
    /// nonces.
    pub fn at(time: crate::timestamp::Timestamp) -> Self {
        let (seconds, nanos) = (time.0 / 1000, (time.0 % 1000) as u32 * 1_000_000);
        Self(Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, nanos)))
    }

    /// That of an idempotency key: the key itself where it is a UUID of version 7 in its hyphenated
    /// form, else derived from it, with a time long past. So what is sent under it is looked up before
    /// it is sent. Without hyphens a key is no UUID: one in 16 of random hex looks like version 7, of
    /// any time.
    pub fn of_key(key: &str) -> Self {
        let uuid = Some(key).filter(|key| key.len() == Hyphenated::LENGTH).and_then(|key| Uuid::parse_str(key).ok());
        uuid.and_then(|uuid| Self::new(uuid).ok()).unwrap_or_else(|| Self(derive::timeless_v7(key)))
    }

    /// The UUID.
    pub fn uuid(self) -> Uuid {
        self.0
    }

    /// When the client made it, in milliseconds since the Unix epoch, by the client's clock.
    pub fn millis(self) -> u64 {
        (self.0.as_u128() >> 80) as u64
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nonce({})", self.0.hyphenated())
    }
}

impl<'de> Deserialize<'de> for Nonce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Uuid::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// How a client names a group: by id, or an open one by its name. UUID-shaped text is an id.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum GroupRef {
    /// A group's id.
    Id(GroupId),
    /// An open group's name.
    Name(RoomName),
}

impl GroupRef {
    /// The id; an open group's is derived from its name.
    pub fn id(&self) -> GroupId {
        match self {
            Self::Id(id) => *id,
            Self::Name(name) => open_group(name),
        }
    }
}

impl fmt::Display for GroupRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl FromStr for GroupRef {
    type Err = RoomNameError;

    fn from_str(text: &str) -> Result<Self, RoomNameError> {
        match Uuid::parse_str(text) {
            Ok(id) => Ok(Self::Id(GroupId(id))),
            Err(_) => RoomName::slug(text).map(Self::Name),
        }
    }
}

impl Serialize for GroupRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GroupRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_retry_has_the_id_of_the_first_try_and_its_time() {
        let (alice, bob) = (UserId::new("alice").unwrap(), UserId::new("bob").unwrap());
        let nonce = Nonce::now();
        let id = MessageId::derive(&alice, nonce);
        assert_eq!(id, MessageId::derive(&alice, nonce));
        assert_ne!(id, MessageId::derive(&bob, nonce));
        assert_ne!(id.0, NotificationId::derive(&alice, nonce).0);
        assert_eq!((id.0.as_u128() >> 80) as u64, nonce.millis());
        assert_eq!(id.0.get_version_num(), 8);
    }

    #[test]
    fn an_idempotency_key_is_a_nonce_or_gives_one() {
        let nonce = Nonce::now();
        assert_eq!(Nonce::of_key(&nonce.to_string()), nonce);
        let order = Nonce::of_key("order-7");
        assert_eq!((order, order.millis(), order.uuid().get_version_num()), (Nonce::of_key("order-7"), 0, 7));
        assert_ne!(order, Nonce::of_key("order-8"));
        // Random hex may have a 7 there, and a time to come.
        assert_eq!(Nonce::of_key("d2f1a6b3c4e57f008a1b2c3d4e5f6071").millis(), 0);
        // A UUID of another version is a key like any other.
        assert_eq!(Nonce::of_key("67e55044-10b1-426f-9247-bb680e5fe0c8").millis(), 0);
    }

    #[test]
    fn both_sides_of_a_single_group_derive_the_same_id() {
        let (a, b) = (UserId::new("a").unwrap(), UserId::new("b").unwrap());
        assert_eq!(single_group(&a, &b), single_group(&b, &a));
        let pair = |one: &str, other: &str| single_group(&UserId::new(one).unwrap(), &UserId::new(other).unwrap());
        assert_ne!(pair("a:b", "c"), pair("a", "b:c"));
    }

    #[test]
    fn user_ids_are_checked_at_their_edges() {
        assert!(UserId::new("").is_err());
        assert!(UserId::new(&"x".repeat(MAX_USER_ID_BYTES)).is_ok());
        assert!(UserId::new(&"x".repeat(MAX_USER_ID_BYTES + 1)).is_err());
        assert!(UserId::new("a\nb").is_err());
        assert!(UserId::new("a.*.> b").is_ok());
    }

    #[test]
    fn uuid_shaped_text_is_an_id_never_a_name() {
        let id = Uuid::now_v7();
        assert_eq!(id.to_string().parse(), Ok(GroupRef::Id(GroupId(id))));
        assert_eq!(id.simple().to_string().parse(), Ok(GroupRef::Id(GroupId(id))));
        assert!("Lobby".parse::<GroupRef>().is_err());
        assert!(matches!("lobby".parse::<GroupRef>(), Ok(GroupRef::Name(_))));
    }
}
