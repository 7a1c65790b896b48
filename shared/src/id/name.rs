//! Names of open groups.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use unicode_normalization::UnicodeNormalization;

/// The longest room name, in characters.
pub(super) const MAX_ROOM_NAME_CHARS: usize = 64;

/// Why a text is no room name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoomNameError {
    /// Against the grammar of protocol v1.
    #[error("an open group's name is [a-z0-9][a-z0-9_-]{{0,63}}")]
    Slug,
    /// Empty, too long or with control characters.
    #[error("a room's name has 1 to {MAX_ROOM_NAME_CHARS} characters and no control characters")]
    Room,
}

/// An open group's name: NFC, 1 to 64 characters without controls. Protocol v1 takes a narrower
/// grammar ([`RoomName::slug`]) than the path of the chat-room protocol ([`RoomName::room`]).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct RoomName(Arc<str>);

impl RoomName {
    /// Protocol v1: `[a-z0-9][a-z0-9_-]{0,63}`.
    pub fn slug(text: &str) -> Result<Self, RoomNameError> {
        let bytes = text.as_bytes();
        let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let fits = bytes.len() <= MAX_ROOM_NAME_CHARS
            && bytes.first().is_some_and(plain)
            && bytes.iter().all(|b| plain(b) || matches!(b, b'_' | b'-'));
        if fits { Ok(Self(text.into())) } else { Err(RoomNameError::Slug) }
    }

    /// The chat-room protocol: any text after percent-decoding, normalised to NFC.
    pub fn room(text: &str) -> Result<Self, RoomNameError> {
        let name: String = text.nfc().collect();
        let chars = name.chars().count();
        let fits = (1..=MAX_ROOM_NAME_CHARS).contains(&chars) && !name.chars().any(char::is_control);
        if fits { Ok(Self(name.into())) } else { Err(RoomNameError::Room) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for RoomName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for RoomName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::room(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_checked_at_their_edges() {
        assert!(RoomName::slug("a").is_ok());
        assert!(RoomName::slug(&"a".repeat(64)).is_ok());
        for bad in ["", "-a", "_a", "A", "a.b", "a*", "a b", "大廳", &"a".repeat(65)] {
            assert!(RoomName::slug(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rooms_are_normalised_and_may_be_of_any_script() {
        assert_eq!(RoomName::room("e\u{301}").unwrap(), RoomName::room("é").unwrap());
        assert!(RoomName::room("大廳").is_ok());
        assert!(RoomName::room("Lobby.*> x").is_ok());
        assert!(RoomName::room(&"大".repeat(64)).is_ok());
        for bad in ["", "a\u{7}b", "a\nb", &"大".repeat(65)] {
            assert!(RoomName::room(bad).is_err(), "{bad:?}");
        }
    }
}
