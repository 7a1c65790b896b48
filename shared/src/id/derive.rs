//! Ids that follow from what they name, so that doing a thing twice is doing it once.

use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

use super::{EventId, GroupId, Nonce, RoomName, UserId, UserKey};

/// Hashes `parts` with their lengths, so that no two lists of parts collide by concatenation.
fn digest(domain: &str, parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = Sha256::new();
    for part in std::iter::once(&domain.as_bytes()).chain(parts) {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let mut out = [0; 16];
    for (to, from) in out.iter_mut().zip(hasher.finalize()) {
        *to = from;
    }
    out
}

/// A version 8 UUID (RFC 9562 section 5.8) from a hash of `parts`.
fn uuid_of(domain: &str, parts: &[&[u8]]) -> Uuid {
    Builder::from_custom_bytes(digest(domain, parts)).into_uuid()
}

/// A version 7 UUID with the time 0 and a hash of `key`.
pub(super) fn timeless_v7(key: &str) -> Uuid {
    let hash = digest("idempotency key", &[key.as_bytes()]);
    let mut random = [0; 10];
    for (to, from) in random.iter_mut().zip(hash) {
        *to = from;
    }
    Builder::from_unix_timestamp_millis(0, &random).into_uuid()
}

/// 48 bits of the nonce's time, then a hash: ids sort by time, and follow from (party, nonce).
pub(super) fn from_nonce(domain: &str, party: &str, nonce: Nonce) -> Uuid {
    let mut bytes = digest(domain, &[party.as_bytes(), nonce.uuid().as_bytes()]);
    for (to, from) in bytes.iter_mut().zip(nonce.uuid().as_bytes().iter().take(6)) {
        *to = *from;
    }
    Builder::from_custom_bytes(bytes).into_uuid()
}

pub(super) fn user_key(user: &UserId) -> UserKey {
    UserKey(u128::from_be_bytes(digest("user", &[user.as_str().as_bytes()])))
}

/// The one-to-one group of two users, whichever of them asks.
pub fn single_group(one: &UserId, other: &UserId) -> GroupId {
    let (a, b) = if one <= other { (one, other) } else { (other, one) };
    GroupId(uuid_of("single", &[a.as_str().as_bytes(), b.as_str().as_bytes()]))
}

/// The open group of a name.
pub fn open_group(name: &RoomName) -> GroupId {
    GroupId(uuid_of("open", &[name.as_str().as_bytes()]))
}

/// The id of an event that follows from another thing: `what` it is and the `parts` it follows
/// from. Publishing it again after a crash is harmless.
pub fn derived_event(what: &str, parts: &[&[u8]]) -> EventId {
    EventId(uuid_of(what, parts))
}
