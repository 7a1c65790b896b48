//! Each algorithm with a key of the config, and every mix-up of algorithms and keys.

use jsonwebtoken::{Algorithm as Alg, EncodingKey};
use natter_shared::config::{Algorithm, Auth, PublicKey, Secret};
use serde_json::{Value, json};

use super::{
    AuthError, Authenticator, AuthenticatorError, BASE64URL_NOPAD, NOW, NOW_SECONDS, SECRET, hs256,
    keys::{self, token},
};

const ASYMMETRIC: [(Algorithm, Alg, &str); 3] = [
    (Algorithm::RS256, Alg::RS256, keys::RSA_A_PUBLIC),
    (Algorithm::ES256, Alg::ES256, keys::EC_PUBLIC),
    (Algorithm::EdDSA, Alg::EdDSA, keys::ED_PUBLIC),
];

fn config(algorithm: Algorithm, pem: &str) -> Auth {
    let public_key = Some(PublicKey::from_pem(pem).unwrap());
    Auth { secret: Some(Secret::new(SECRET)), issuer: Some("id".to_owned()), algorithm, public_key, ..Auth::default() }
}

fn claims() -> Value {
    json!({"iss": "id", "aud": "natter", "sub": "alice", "exp": NOW_SECONDS + 60})
}

#[test]
fn each_algorithm_with_its_own_key() {
    for (algorithm, alg, pem) in ASYMMETRIC {
        let authenticator = Authenticator::from_config(&config(algorithm, pem)).unwrap();
        let key = keys::signing(alg);
        let name = algorithm.as_str();
        // A name for the only key, or none.
        for header in [json!({"alg": name}), json!({"alg": name, "kid": "any", "typ": "JWT"})] {
            let good = token(&key, alg, &header, &claims());
            assert_eq!(authenticator.verify(&good, NOW).unwrap().user.as_str(), "alice", "{name}");
            let (message, signature) = good.rsplit_once('.').unwrap();
            let mut forged = claims();
            forged["sub"] = json!("bob");
            let (header, _) = message.split_once('.').unwrap();
            let forged = format!("{header}.{}.{signature}", BASE64URL_NOPAD.encode(forged.to_string().as_bytes()));
            assert_eq!(authenticator.verify(&forged, NOW), Err(AuthError::Signature), "{name}");
            assert!(authenticator.verify(&format!("{message}."), NOW).is_err(), "{name}");
            for zeroes in [32, 64, 256] {
                let nothing = format!("{message}.{}", BASE64URL_NOPAD.encode(&vec![0; zeroes]));
                assert_eq!(authenticator.verify(&nothing, NOW), Err(AuthError::Signature), "{name}");
            }
        }
    }
    let pkcs1 = Authenticator::from_config(&config(Algorithm::RS256, keys::RSA_A_PKCS1)).unwrap();
    assert!(pkcs1.verify(&token(&keys::signing(Alg::RS256), Alg::RS256, &json!({"alg": "RS256"}), &claims()), NOW).is_ok());
}

#[test]
fn a_public_key_is_never_a_secret() {
    for (algorithm, alg, pem) in ASYMMETRIC {
        let authenticator = Authenticator::from_config(&config(algorithm, pem)).unwrap();
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        // Anybody has these: the PEM with and without its last newline, and the bytes in it.
        for secret in [pem, pem.trim(), pem.lines().nth(1).unwrap(), SECRET] {
            for said in ["HS256", algorithm.as_str()] {
                let message = format!("{}.{}", part(&json!({"alg": said})), part(&claims()));
                let forged = format!("{message}.{}", hs256(secret, &message));
                assert!(matches!(authenticator.verify(&forged, NOW), Err(AuthError::Algorithm | AuthError::Signature)), "{said}");
            }
        }
        for (_, other, _) in ASYMMETRIC.into_iter().filter(|(_, other, _)| *other != alg) {
            let other_name = format!("{other:?}");
            let mixed = token(&keys::signing(other), other, &json!({"alg": other_name}), &claims());
            assert_eq!(authenticator.verify(&mixed, NOW), Err(AuthError::Algorithm), "{other_name} for {alg:?}");
            let lying = token(&keys::signing(other), other, &json!({"alg": algorithm.as_str()}), &claims());
            assert_eq!(authenticator.verify(&lying, NOW), Err(AuthError::Signature), "{other_name} as {alg:?}");
        }
        for alg in ["none", "None", "NONE", "", "RS384", "RS512", "PS256", "ES384", "Ed25519", "eddsa", "rs256"] {
            let unsigned = format!("{}.{}.", part(&json!({"alg": alg})), part(&claims()));
            assert_eq!(authenticator.verify(&unsigned, NOW), Err(AuthError::Algorithm), "{alg}");
        }
        let extended = token(&keys::signing(alg), alg, &json!({"alg": algorithm.as_str(), "crit": ["b64"], "b64": false}), &claims());
        assert_eq!(authenticator.verify(&extended, NOW), Err(AuthError::Algorithm));
    }
}

#[test]
fn keys_that_a_token_brings_along_are_not_read() {
    let authenticator = Authenticator::from_config(&config(Algorithm::RS256, keys::RSA_A_PUBLIC)).unwrap();
    for own in [
        json!({"jwk": keys::rsa_b("b")}),
        json!({"jku": "https://evil.test/keys.json"}),
        json!({"x5u": "https://evil.test/chain.pem"}),
        json!({"x5c": ["MIIB"]}),
        json!({"kid": "../../../dev/null"}),
        json!({"kid": "' OR 1=1 --"}),
    ] {
        let mut header = json!({"alg": "RS256"});
        header.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        let forged = token(&keys::signing_b(), Alg::RS256, &header, &claims());
        assert_eq!(authenticator.verify(&forged, NOW), Err(AuthError::Signature), "{own}");
        let good = token(&keys::signing(Alg::RS256), Alg::RS256, &header, &claims());
        assert!(authenticator.verify(&good, NOW).is_ok(), "{own}");
    }
    for header in [json!({"alg": "RS256", "kid": 7}), json!({"alg": ["RS256"]}), json!({"kid": "a"}), json!([]), json!("RS256")] {
        let bad = token(&keys::signing(Alg::RS256), Alg::RS256, &header, &claims());
        assert_eq!(authenticator.verify(&bad, NOW), Err(AuthError::Malformed), "{header}");
    }
}

#[test]
fn auth_secret_signs_no_token_where_the_issuer_has_a_public_key() {
    let authenticator = Authenticator::from_config(&config(Algorithm::EdDSA, keys::ED_PUBLIC)).unwrap();
    let forged = token(&EncodingKey::from_secret(SECRET.as_bytes()), Alg::HS256, &json!({"alg": "HS256"}), &claims());
    assert_eq!(authenticator.verify(&forged, NOW), Err(AuthError::Algorithm));
    let alice = natter_shared::id::UserId::new("alice").unwrap();
    assert_eq!(authenticator.issue(&alice, "alice", NOW, super::Duration::from_mins(1)).unwrap_err(), AuthError::CannotSign);
    let dev = Auth { dev_login: true, ..config(Algorithm::EdDSA, keys::ED_PUBLIC) };
    assert!(matches!(Authenticator::from_config(&dev).unwrap_err(), AuthenticatorError::DevLogin));
}

#[test]
fn a_key_that_does_not_fit_its_algorithm_is_named_at_start() {
    for (algorithm, pem, part) in [
        (Algorithm::RS256, keys::EC_PUBLIC, "is no public key for RS256"),
        (Algorithm::ES256, keys::RSA_A_PUBLIC, "is no public key for ES256"),
        (Algorithm::ES256, keys::EC_P384_PUBLIC, "is no public key for ES256"),
        (Algorithm::EdDSA, keys::EC_PUBLIC, "is no public key for EdDSA"),
        (Algorithm::RS256, keys::RSA_WEAK_PUBLIC, "has 1024 bits"),
        (Algorithm::RS256, "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "is no public key"),
        (Algorithm::HS256, keys::RSA_A_PUBLIC, "no key that HS256 can use"),
    ] {
        let error = Authenticator::from_config(&config(algorithm, pem)).unwrap_err().to_string();
        assert!(error.contains("`id`") && error.contains(part), "{part:?} is not in {error:?}");
    }
}
