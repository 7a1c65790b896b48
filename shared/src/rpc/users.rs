//! Users: signing in, finding, listing.

use serde::{Deserialize, Serialize};
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use super::{Gathered, Membership, OneOfMany, Request, rpc};
use crate::{event::InboxCounts, id::UserId, timestamp::Timestamp};

/// A user as others know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// The token's `sub`.
    pub id: UserId,
    /// First come, first served; else the id.
    pub handle: String,
    /// What people see.
    pub display_name: String,
}

/// Characters of a handle and of a display name at most.
pub const MAX_NAME_CHARS: usize = 64;

/// Whether `text` can be a handle: nothing in it is invisible, or another's handle could be shown by it.
pub fn is_handle(text: &str) -> bool {
    let hidden = |c: char| {
        matches!(c.general_category(), GeneralCategory::Format | GeneralCategory::LineSeparator | GeneralCategory::ParagraphSeparator)
    };
    is_name(text) && !text.chars().any(hidden)
}

/// Whether `text` can be a display name: one line, which leaves the direction of what follows it alone. It may have
/// the joiners that scripts and emoji need.
pub fn is_display_name(text: &str) -> bool {
    let turns = |c: char| matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    is_name(text) && !text.chars().any(turns)
}

fn is_name(text: &str) -> bool {
    (1..=MAX_NAME_CHARS).contains(&text.chars().count()) && !text.chars().any(char::is_control) && text.trim() == text
}

/// Signs a user in: claims the handle, and tells all that a session starts with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SignIn {
    /// The token's `sub`.
    pub user: UserId,
    /// The token's `preferred_username`.
    pub handle: Option<String>,
    /// The token's `name`.
    pub display_name: Option<String>,
    /// How many groups to list at most.
    pub limit: u32,
    /// When the token was issued: refused where the user is blocked, or the token was issued before
    /// the user's tokens were revoked. None where nobody signs in and the user is only made known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_at: Option<Timestamp>,
}

/// What a session starts with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SignedIn {
    /// The user.
    pub profile: Profile,
    /// Ordered by group id.
    pub groups: Vec<Membership>,
    /// There are more: go on with [`Groups`](super::Groups).
    pub more: bool,
    /// The inbox.
    pub inbox: InboxCounts,
}
rpc!("sign_in", SignIn => SignedIn, repeatable);

/// Signs in many users, by one snapshot for all of them; who is new is written first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SignInMany {
    /// Each as it would be asked for alone; who has another name than before is, and whom SQL has not come far enough for.
    pub users: Vec<Request<SignIn>>,
}
rpc!("sign_in_many", SignInMany => Vec<OneOfMany<SignedIn>>, repeatable);

impl Gathered for SignIn {
    type Reply = SignedIn;
    type Many = SignInMany;

    fn gather(users: Vec<Request<Self>>) -> SignInMany {
        SignInMany { users }
    }
}

/// Finds users by id or handle.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindUser {
    /// By id.
    Id(UserId),
    /// By handle.
    Handle(String),
}
rpc!("find_user", FindUser => Option<Profile>, repeatable);

/// Other users, all or those whose handle or display name begins with a text.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ListUsers {
    /// Who asks, and is left out; none where the application's back end asks.
    pub user: Option<UserId>,
    /// How the handle or the display name begins, whatever the case. Empty: all.
    pub prefix: String,
    /// Those after who has this handle.
    pub after: Option<String>,
    /// And this display name, where the list had come to those found by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_name: Option<String>,
    /// How many at most.
    pub limit: u32,
}

/// A page of users.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UsersPage {
    /// Those found by their handle, in the order of handles, then those found by their display name, in
    /// the order of names; a-z and A-Z alike.
    pub users: Vec<Profile>,
    /// There may be more, even behind a page without any.
    pub more: bool,
    /// Where to go on then; absent from a persister of the release before: after the last one's handle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<AfterUser>,
}

/// Where a list of users goes on: [`ListUsers::after`] and [`ListUsers::after_name`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AfterUser {
    /// A handle.
    pub handle: String,
    /// A display name, once those found by handle are listed.
    pub name: Option<String>,
}
rpc!("list_users", ListUsers => UsersPage, repeatable);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_hide_nothing_and_display_names_turn_nothing_around() {
        for good in ["alice", "大", "Zoë O'Neil", "علی"] {
            assert!(is_handle(good) && is_display_name(good), "{good}");
        }
        // A name as Persian writes it, and a family of emoji.
        for joined in ["علی\u{200c}رضا", "👩\u{200d}👧"] {
            assert!(!is_handle(joined) && is_display_name(joined), "{joined:?}");
        }
        for invisible in ["al\u{200b}ice", "alice\u{200e}", "\u{feff}alice", "al\u{ad}ice"] {
            assert!(!is_handle(invisible), "{invisible:?}");
        }
        for turned in ["\u{202e}ecila", "alice\u{2066}", "al\u{2028}ice", "al\u{2029}ice", "al\u{7}ice", "", " alice"] {
            assert!(!is_handle(turned) && !is_display_name(turned), "{turned:?}");
        }
    }
}
