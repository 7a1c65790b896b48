//! Bearer tokens: good ones for a user, and the hostile ones that must not sign anybody in.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

/// The HS256 secret of all clusters the harness starts.
pub const SECRET: &str = "a secret of the tests, long enough for HS256";
/// The issuer they accept.
pub const ISSUER: &str = "https://issuer.test";
/// The audience they expect.
pub const AUDIENCE: &str = "natter-tests";

/// Somebody who signs in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct User {
    /// The token's `sub`.
    pub id: String,
    /// The token's `preferred_username`.
    pub handle: String,
    /// The token's `name`.
    pub name: String,
}

impl User {
    /// A user whose id, handle and display name all differ.
    pub fn named(name: &str) -> Self {
        let mut letters = name.chars();
        let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
        Self { id: format!("id-{name}"), handle: name.to_owned(), name: first + letters.as_str() }
    }

    /// The claims of a good token.
    pub fn claims(&self) -> Value {
        json!({
            "sub": self.id, "preferred_username": self.handle, "name": self.name,
            "iss": ISSUER, "aud": AUDIENCE, "iat": now(), "exp": now() + 3600,
        })
    }

    /// A good token.
    pub fn token(&self) -> String {
        sign(&self.claims(), SECRET)
    }
}

/// Seconds since the Unix epoch.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Signs `claims` with HS256.
pub fn sign(claims: &Value, secret: &str) -> String {
    encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret.as_bytes())).expect("claims are JSON")
}

/// Signs `claims` with RS256 and a private key in PEM (PKCS #1), naming the key.
pub fn sign_rs256(claims: &Value, pem: &str, kid: &str) -> String {
    let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let der = data_encoding::BASE64.decode(base64.as_bytes()).expect("a key in PEM");
    let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::RS256) };
    encode(&header, claims, &EncodingKey::from_rsa_der(&der)).expect("claims are JSON")
}

/// Tokens that must be refused, each with what is wrong with it.
pub fn hostile(user: &User) -> Vec<(&'static str, String)> {
    let with = |key: &str, value: Value| {
        let mut claims = user.claims();
        claims[key] = value;
        sign(&claims, SECRET)
    };
    let without = |key: &str| {
        let mut claims = user.claims();
        claims.as_object_mut().expect("claims are an object").remove(key);
        sign(&claims, SECRET)
    };
    let good = user.token();
    let payload = good.split('.').nth(1).expect("a token has three parts");
    // {"alg":"none","typ":"JWT"}
    let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.");
    let other_algorithm =
        encode(&Header::new(Algorithm::HS384), &user.claims(), &EncodingKey::from_secret(SECRET.as_bytes())).expect("claims are JSON");
    vec![
        ("expired", with("exp", json!(now() - 3600))),
        ("without exp", without("exp")),
        ("exp as text", with("exp", json!("tomorrow"))),
        ("from another issuer", with("iss", json!("https://evil.test"))),
        ("without issuer", without("iss")),
        ("for another audience", with("aud", json!("somebody-else"))),
        ("without audience", without("aud")),
        ("without sub", without("sub")),
        ("empty sub", with("sub", json!(""))),
        ("sub as number", with("sub", json!(7))),
        ("signed with another secret", sign(&user.claims(), "another secret, which is long enough too")),
        ("unsigned, alg none", unsigned),
        ("of another algorithm", other_algorithm),
        ("cut", good.get(..good.len() - 4).unwrap_or_default().to_owned()),
        ("no token at all", "nonsense".to_owned()),
        ("empty", String::new()),
    ]
}
