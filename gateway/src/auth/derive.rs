//! Keys derived from `auth.secret`, one for each purpose: what is signed for one is worth nothing
//! elsewhere.

use hmac::{Hmac, KeyInit};
use sha2::{Digest, Sha256};

/// The key for `purpose`.
pub(super) fn key(purpose: &str, secret: &[u8]) -> Hmac<Sha256> {
    let hash = Sha256::new().chain_update(purpose).chain_update(b"\0").chain_update(secret).finalize();
    // Padded to the hash's block, as RFC 2104 does.
    let mut block = hmac::digest::Key::<Hmac<Sha256>>::default();
    for (to, from) in block.iter_mut().zip(&hash) {
        *to = *from;
    }
    <Hmac<Sha256> as KeyInit>::new(&block)
}
