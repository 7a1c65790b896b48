//! What the generator's users sign in with: a token of HS256 for each, as an application would make it.

use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::json;
use sha2::Sha256;

/// How the server under test knows its tokens (`auth.secret`, `auth.issuer`, `auth.audience`).
#[derive(Debug, Clone, clap::Args)]
pub struct Issuer {
    /// The secret that the server verifies tokens with (auth.secret)
    #[arg(long, default_value = "natter-load's secret, long enough for HS256")]
    pub secret: String,
    /// The issuer it accepts (auth.issuer)
    #[arg(long, default_value = "natter")]
    pub issuer: String,
    /// The audience it expects (auth.audience)
    #[arg(long, default_value = "natter")]
    pub audience: String,
}

/// The id of the user of connection `index`; all are of one length, so that all frames are.
pub fn user(index: usize) -> String {
    format!("u{index:06}")
}

impl Issuer {
    /// A token for `user`, good for a day.
    pub fn token(&self, user: &str) -> anyhow::Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let claims = json!({
            "sub": user, "preferred_username": user, "name": user,
            "iss": self.issuer, "aud": self.audience, "iat": now, "exp": now + 86_400,
        });
        let [header, claims] = [r#"{"alg":"HS256","typ":"JWT"}"#, &claims.to_string()].map(|part| BASE64URL_NOPAD.encode(part.as_bytes()));
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret.as_bytes())?;
        mac.update(format!("{header}.{claims}").as_bytes());
        Ok(format!("{header}.{claims}.{}", BASE64URL_NOPAD.encode(&mac.finalize().into_bytes())))
    }
}
