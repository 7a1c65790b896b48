//! Tokens that must be refused, each with the reason, and those that must not.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod algorithms;
mod keys;
mod published;

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, KeyInit, Mac};
use natter_shared::{
    config::{Algorithm, Auth, Issuer, Secret},
    id::UserId,
    timestamp::Timestamp,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::Sha256;

use super::{AuthError, Authenticator, AuthenticatorError, By, SignedIn};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const PARTNER_SECRET: &str = "fedcba9876543210fedcba9876543210";
const NOW: Timestamp = Timestamp(1_800_000_000_000);
const NOW_SECONDS: u64 = 1_800_000_000;

fn config() -> Auth {
    let partner = Issuer {
        issuer: "https://partner.example".to_owned(),
        audience: "chat".to_owned(),
        algorithm: Algorithm::HS256,
        secret: Some(Secret::new(PARTNER_SECRET)),
        public_key: None,
        jwks_url: None,
    };
    Auth { secret: Some(Secret::new(SECRET)), issuers: vec![partner], leeway: Duration::from_secs(30), ..Auth::default() }
}

fn authenticator() -> Authenticator {
    Authenticator::from_config(&config()).unwrap()
}

fn hs256(key: &str, message: &str) -> String {
    let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key.as_bytes()).unwrap().chain_update(message).finalize();
    BASE64URL_NOPAD.encode(&mac.into_bytes())
}

fn signed(key: &str, header: &str, claims: &str) -> String {
    let message = format!("{}.{}", BASE64URL_NOPAD.encode(header.as_bytes()), BASE64URL_NOPAD.encode(claims.as_bytes()));
    let signature = hs256(key, &message);
    format!("{message}.{signature}")
}

fn good() -> Value {
    json!({"iss": "natter", "aud": "natter", "sub": "alice", "exp": NOW_SECONDS + 60, "name": "Alice", "preferred_username": "al"})
}

/// The good claims with some of them replaced, or, where null, left out.
fn with(changes: &Value) -> String {
    let mut claims = good();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims.to_string()
}

fn verify_claims(changes: &Value) -> Result<super::Identity, AuthError> {
    authenticator().verify(&signed(SECRET, r#"{"alg":"HS256","typ":"JWT"}"#, &with(changes)), NOW)
}

#[test]
fn a_good_token_tells_who_it_is() {
    let identity = verify_claims(&json!({})).unwrap();
    assert_eq!(identity.user.as_str(), "alice");
    assert_eq!(identity.handle.as_deref(), Some("al"));
    assert_eq!(identity.display_name.as_deref(), Some("Alice"));
    assert_eq!(identity.expires_at, Timestamp((NOW_SECONDS + 60) * 1000));
}

#[test]
fn an_issued_token_verifies() {
    let authenticator = authenticator();
    let alice = UserId::new("alice").unwrap();
    let now = Timestamp(NOW.0 + 678);
    let (token, expires_at) = authenticator.issue(&alice, "alice", now, Duration::from_mins(1)).unwrap();
    let identity = authenticator.verify(&token, now).unwrap();
    assert_eq!((identity.user, identity.handle.as_deref()), (alice, Some("alice")));
    assert_eq!((identity.expires_at, identity.issued_at), (expires_at, now));
}

#[test]
fn claims_of_any_permitted_shape_are_taken() {
    for changes in [
        json!({"aud": ["other", "natter"]}),
        json!({"exp": NOW_SECONDS as f64 + 60.5}),
        json!({"exp": 1e300}),
        json!({"exp": u64::MAX}),
        // Within the leeway.
        json!({"exp": NOW_SECONDS - 29}),
        json!({"nbf": NOW_SECONDS + 30}),
        // This machine's clock may be the one that is wrong.
        json!({"iat": NOW_SECONDS + 600}),
        json!({"name": null, "preferred_username": null}),
        json!({"extra": {"deep": [1]}}),
    ] {
        assert!(verify_claims(&changes).is_ok(), "{changes}");
    }
}

#[test]
fn claims_that_do_not_hold_are_refused() {
    for (changes, expected) in [
        (json!({"exp": NOW_SECONDS - 30}), AuthError::Expired),
        (json!({"exp": 0}), AuthError::Expired),
        (json!({"nbf": NOW_SECONDS + 31}), AuthError::NotYet),
        (json!({"iss": "somebody"}), AuthError::Issuer),
        (json!({"iss": ""}), AuthError::Issuer),
        (json!({"aud": "somebody"}), AuthError::Audience),
        (json!({"aud": []}), AuthError::Audience),
        (json!({"aud": "chat"}), AuthError::Audience),
        // The other issuer's name under this one's key.
        (json!({"iss": "https://partner.example", "aud": "chat"}), AuthError::Signature),
        (json!({"sub": ""}), AuthError::Subject),
        (json!({"sub": "a\nb"}), AuthError::Subject),
        (json!({"sub": "x".repeat(129)}), AuthError::Subject),
        (json!({"sub": null}), AuthError::Claims),
        (json!({"iss": null}), AuthError::Claims),
        (json!({"aud": null}), AuthError::Claims),
        (json!({"exp": null}), AuthError::Claims),
        (json!({"sub": 7}), AuthError::Claims),
        (json!({"sub": ["alice"]}), AuthError::Claims),
        (json!({"iss": ["natter"]}), AuthError::Claims),
        (json!({"aud": 7}), AuthError::Claims),
        (json!({"aud": [7]}), AuthError::Claims),
        (json!({"exp": "1900000000"}), AuthError::Claims),
        (json!({"exp": true}), AuthError::Claims),
        (json!({"exp": -1}), AuthError::Claims),
        (json!({"nbf": "0"}), AuthError::Claims),
        (json!({"name": 7}), AuthError::Claims),
    ] {
        assert_eq!(verify_claims(&changes), Err(expected), "{changes}");
    }
    let twice = r#"{"iss":"natter","aud":"natter","sub":"alice","sub":"bob","exp":1900000000}"#;
    assert_eq!(authenticator().verify(&signed(SECRET, r#"{"alg":"HS256"}"#, twice), NOW), Err(AuthError::Claims));
}

#[test]
fn the_algorithm_is_not_the_tokens_to_say() {
    let claims = good().to_string();
    for header in [
        r#"{"alg":"none"}"#,
        r#"{"alg":"None"}"#,
        r#"{"alg":""}"#,
        r#"{"alg":"hs256"}"#,
        r#"{"alg":"HS384"}"#,
        r#"{"alg":"HS512"}"#,
        r#"{"alg":"RS256"}"#,
        r#"{"alg":"ES256"}"#,
        r#"{"alg":"EdDSA"}"#,
        r#"{"alg":"HS256","crit":["exp"]}"#,
        r#"{"alg":"HS256","crit":[],"b64":false}"#,
    ] {
        assert_eq!(authenticator().verify(&signed(SECRET, header, &claims), NOW), Err(AuthError::Algorithm), "{header}");
        let unsigned = format!("{}.{}.", BASE64URL_NOPAD.encode(header.as_bytes()), BASE64URL_NOPAD.encode(claims.as_bytes()));
        assert_eq!(authenticator().verify(&unsigned, NOW), Err(AuthError::Algorithm), "{header}");
    }
    // A key of the token's own choice is not looked at.
    let own_key = r#"{"alg":"HS256","jwk":{"kty":"oct","k":"YQ"},"jku":"https://evil.test/"}"#;
    assert_eq!(authenticator().verify(&signed("a", own_key, &claims), NOW), Err(AuthError::Signature));
}

#[test]
fn forged_and_damaged_tokens_are_refused() {
    let authenticator = authenticator();
    let token = signed(SECRET, r#"{"alg":"HS256"}"#, &good().to_string());
    assert!(authenticator.verify(&token, NOW).is_ok());
    assert_eq!(authenticator.verify(&signed("another", r#"{"alg":"HS256"}"#, &good().to_string()), NOW), Err(AuthError::Signature));
    let (message, signature) = token.rsplit_once('.').unwrap();
    assert_eq!(authenticator.verify(&format!("{message}."), NOW), Err(AuthError::Signature));
    for cut in 1..signature.len() {
        assert!(authenticator.verify(token.get(..token.len() - cut).unwrap(), NOW).is_err());
    }
    let huge = format!("{message}.{}", "A".repeat(9000));
    for bad in
        ["", ".", "..", "...", "a", "a.b", "a.b.c", "e30.e30.e30", "大.廳.x", message, &format!("{token}.x"), &format!("{token}="), &huge]
    {
        assert!(authenticator.verify(bad, NOW).is_err(), "{bad}");
    }
}

#[test]
fn each_issuer_has_its_own_key_and_audience() {
    let claims = json!({"iss": "https://partner.example", "aud": "chat", "sub": "bob", "exp": NOW_SECONDS + 60}).to_string();
    let token = signed(PARTNER_SECRET, r#"{"alg":"HS256"}"#, &claims);
    assert_eq!(authenticator().verify(&token, NOW).unwrap().user.as_str(), "bob");
    let token = signed(PARTNER_SECRET, r#"{"alg":"HS256"}"#, &good().to_string());
    assert_eq!(authenticator().verify(&token, NOW), Err(AuthError::Signature));
}

#[test]
fn a_config_nobody_could_sign_in_with_is_refused() {
    let refused = |config: &Auth| Authenticator::from_config(config).unwrap_err();
    assert!(matches!(refused(&Auth::default()), AuthenticatorError::NoSecret));
    let mut twice = config();
    twice.issuer = Some("https://partner.example".to_owned());
    assert!(matches!(refused(&twice), AuthenticatorError::Twice(name) if name == "https://partner.example"));
    let no_key = Auth { issuers: Vec::new(), algorithm: Algorithm::RS256, ..config() };
    assert!(matches!(refused(&no_key), AuthenticatorError::NoIssuer));
    assert!(!format!("{:?}", authenticator()).contains(SECRET));
}

#[tokio::test]
async fn a_bearer_token_wins_over_a_cookie() {
    let authenticator = authenticator();
    let session_of = |name: &str| {
        let identity = super::Identity {
            user: UserId::new(name).unwrap(),
            handle: None,
            display_name: None,
            expires_at: Timestamp::now(),
            issued_at: Timestamp::default(),
        };
        authenticator.sessions().issue(&identity, Timestamp::now(), Duration::from_mins(1)).0
    };
    let token_of = |name: &str| {
        let user = UserId::new(name).unwrap();
        authenticator.issue(&user, name, Timestamp::now(), Duration::from_mins(1)).unwrap().0
    };
    let identify = async |pairs: &[(&'static str, String)]| {
        let headers = pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        authenticator.identify(&headers).await.map(|who| who.map(|SignedIn { identity, by }| (identity.user.to_string(), by)))
    };
    let cookie = ("cookie", format!("a=b; natter_session={}; csrftoken=x", session_of("bob")));
    let bearer = ("authorization", format!("bearer {}", token_of("alice")));
    assert_eq!(identify(&[]).await, Ok(None));
    assert_eq!(identify(&[("cookie", "natter_session=".to_owned())]).await, Ok(None));
    assert_eq!(identify(&[("authorization", "Basic eDp5".to_owned())]).await, Ok(None));
    assert_eq!(identify(std::slice::from_ref(&cookie)).await, Ok(Some(("bob".to_owned(), By::Cookie))));
    assert_eq!(identify(&[cookie.clone(), bearer.clone()]).await, Ok(Some(("alice".to_owned(), By::Bearer))));
    // A bad bearer token is not made good by a cookie.
    assert!(identify(&[cookie, ("authorization", "Bearer x".to_owned())]).await.is_err());
    // Neither is taken for the other.
    assert!(identify(&[("cookie", format!("natter_session={}", token_of("bob")))]).await.is_err());
    assert!(identify(&[("authorization", format!("Bearer {}", session_of("bob")))]).await.is_err());
    assert!(identify(&[bearer.clone(), bearer]).await.is_err());
}

proptest! {
    #[test]
    fn any_text_is_refused_without_a_panic(text in ".{0,120}", header in ".{0,40}", claims in ".{0,80}") {
        let authenticator = authenticator();
        prop_assert!(authenticator.verify(&text, NOW).is_err());
        prop_assert!(authenticator.verify(&signed(SECRET, &header, &claims), NOW).is_err());
        let signed = signed(SECRET, r#"{"alg":"HS256"}"#, &claims);
        prop_assert!(authenticator.verify(&signed, NOW).is_err());
    }
}
