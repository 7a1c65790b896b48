//! What must hold for any bytes from outside, as in `natter_shared::fuzz`: tokens and forms.

use std::{sync::LazyLock, time::Duration};

use axum::{
    body::Body,
    extract::{FromRequest, Request},
    http::header::CONTENT_TYPE,
};
use data_encoding::BASE64URL_NOPAD;
use futures::executor::block_on;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use natter_shared::{
    config::{Auth, Secret},
    id::{NotificationId, UserId},
    rpc::MAX_NAME_CHARS,
    timestamp::Timestamp,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{auth::Authenticator, http::extract::FormFields};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const NOW: Timestamp = Timestamp(1_800_000_000_000);
const LEEWAY: Duration = Duration::from_secs(30);

static AUTHENTICATOR: LazyLock<Option<Authenticator>> = LazyLock::new(|| {
    let config = Auth { secret: Some(Secret::new(SECRET)), leeway: LEEWAY, ..Auth::default() };
    Authenticator::from_config(&config).ok()
});

fn signed(data: &[u8]) -> String {
    let (header, claims) = data.split_at(data.iter().position(|byte| *byte == b'\n').unwrap_or(0));
    let message = format!("{}.{}", BASE64URL_NOPAD.encode(header), BASE64URL_NOPAD.encode(claims));
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let Ok(signature) = crypto::sign(message.as_bytes(), &key, Algorithm::HS256) else { unreachable!("HS256 signs anything") };
    format!("{message}.{signature}")
}

/// Tokens. The bytes are a token as they are, which never holds; and, up to the first line break and
/// from there on, the header and the claims of one that is signed with our key.
pub fn token(data: &[u8]) {
    let Some(authenticator) = AUTHENTICATOR.as_ref() else { unreachable!("the config is good") };
    assert!(authenticator.verify(&String::from_utf8_lossy(data), NOW).is_err(), "nobody signed this");
    if let Ok(identity) = authenticator.verify(&signed(data), NOW) {
        assert_eq!(UserId::new(identity.user.as_str()).ok(), Some(identity.user));
        assert!(identity.expires_at.0.saturating_add(LEEWAY.as_millis() as u64) >= NOW.0, "expired");
        for name in identity.handle.iter().chain(&identity.display_name) {
            assert!(name.chars().count() <= MAX_NAME_CHARS && !name.chars().any(char::is_control), "{name:?}");
        }
    }
}

fn fields(body: Vec<u8>) -> Option<FormFields> {
    let request = Request::post("/").header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(Body::from(body)).ok()?;
    block_on(FormFields::from_request(request, &())).ok()
}

/// Forms: what is read reads the same when it is written again, and so do the ids in it.
pub fn form(data: &[u8]) {
    let Some(read) = fields(data.to_vec()) else { return };
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let written: Vec<_> = read.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
    let again = fields(written.join("&").into_bytes());
    assert!(again.is_some_and(|again| again.iter().eq(read.iter())), "{written:?}");
    for id in read.all("seen_id[]").filter_map(|id| id.parse::<NotificationId>().ok()) {
        assert_eq!(id.to_string().parse().ok(), Some(id));
    }
    if let Some(Ok(user)) = read.get("user").map(UserId::new) {
        assert_eq!(UserId::new(user.as_str()).ok(), Some(user));
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::Index};

    /// Any bytes; or something that is read, with a few bytes changed.
    fn bytes(good: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
        let spoilt =
            (prop::sample::select(good), prop::collection::vec((any::<Index>(), any::<u8>()), 0..4)).prop_map(|(good, changes)| {
                let mut data = good.as_bytes().to_vec();
                for (at, byte) in changes {
                    let at = at.index(data.len());
                    data[at] = byte;
                }
                data
            });
        prop_oneof![prop::collection::vec(any::<u8>(), 0..300), spoilt]
    }

    const TOKENS: &[&str] = &[
        "{\"alg\":\"HS256\"}\n{\"iss\":\"natter\",\"aud\":[\"natter\"],\"sub\":\"ann\",\"exp\":1800000060.5,\"nbf\":1,\"name\":\"Ann \\u00e4\"}",
        "{\"alg\":\"HS256\",\"typ\":\"JWT\",\"kid\":\"a\"}\n{\"iss\":\"natter\",\"aud\":\"natter\",\"sub\":\"a\",\"exp\":1e300,\"preferred_username\":\"a\"}",
    ];
    const FORMS: &[&str] = &[
        "type=Clean_Seen&seen_id[]=01890a5d-ac96-774b-bcce-b302099a8057&seen_id%5B%5D=x",
        "type=Create_Group_Single&user=%C3%A4nn+b&=&a&csrfmiddlewaretoken=x",
    ];

    proptest! {
        #[test]
        fn any_bytes_for_a_token(data in bytes(TOKENS)) {
            super::token(&data);
        }

        #[test]
        fn any_bytes_for_a_form(data in bytes(FORMS)) {
            super::form(&data);
        }
    }

    #[test]
    fn what_is_changed_is_readable_as_it_is() {
        for good in TOKENS {
            let verified = super::AUTHENTICATOR.as_ref().unwrap().verify(&super::signed(good.as_bytes()), super::NOW);
            assert!(verified.is_ok(), "{good}: {verified:?}");
        }
        assert!(FORMS.iter().all(|good| super::fields(good.as_bytes().to_vec()).is_some_and(|fields| fields.iter().count() >= 3)));
    }
}
