//! What a token says of its bearer.

use natter_shared::{id::UserId, rpc::MAX_NAME_CHARS, timestamp::Timestamp};

/// A user, as a verified token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The token's `sub`.
    pub user: UserId,
    /// The token's `preferred_username`. One that is empty, longer than [`MAX_NAME_CHARS`] or has
    /// control characters is ignored: cut short it would be somebody else's.
    pub handle: Option<String>,
    /// The token's `name`, cut to [`MAX_NAME_CHARS`]; ignored if empty or with control characters.
    pub display_name: Option<String>,
    /// The token's `exp`.
    pub expires_at: Timestamp,
    /// The token's `iat`, or of a cookie when it was given; the epoch where a token does not say.
    pub issued_at: Timestamp,
}

#[cfg(any(test, feature = "bench"))]
impl Identity {
    /// A user whose token says nothing more, and has expired.
    pub(crate) fn of(user: UserId) -> Self {
        Self { user, handle: None, display_name: None, expires_at: Timestamp::default(), issued_at: Timestamp::default() }
    }
}

/// A handle worth claiming.
pub(super) fn handle(claim: Option<String>) -> Option<String> {
    readable(claim).filter(|name| name.chars().count() <= MAX_NAME_CHARS)
}

/// A name worth showing.
pub(super) fn display_name(claim: Option<String>) -> Option<String> {
    readable(claim).map(|name| name.chars().take(MAX_NAME_CHARS).collect())
}

fn readable(claim: Option<String>) -> Option<String> {
    let name = claim?;
    let name = name.trim();
    if name.is_empty() || name.chars().any(char::is_control) { None } else { Some(name.to_owned()) }
}

#[cfg(test)]
mod tests {
    fn handle(claim: &str) -> Option<String> {
        super::handle(Some(claim.to_owned()))
    }

    fn display_name(claim: &str) -> Option<String> {
        super::display_name(Some(claim.to_owned()))
    }

    #[test]
    fn a_handle_is_taken_whole_or_not_at_all() {
        assert_eq!(handle(" alice ").as_deref(), Some("alice"));
        assert_eq!(handle(&"大".repeat(64)), Some("大".repeat(64)));
        for bad in ["", "  ", "a\u{7}b", "a\nb", &"x".repeat(65)] {
            assert_eq!(handle(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_display_name_is_cut() {
        assert_eq!(display_name(&"大".repeat(65)), Some("大".repeat(64)));
        assert_eq!(display_name("<b>\"A\"</b>").as_deref(), Some("<b>\"A\"</b>"));
        assert_eq!(display_name("a\u{85}b"), None);
    }
}
