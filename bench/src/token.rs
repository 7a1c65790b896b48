//! What the generator's users sign in with: a token of HS256 for each, as an application would make it.

use natter_tests::token::{now, sign};
use serde_json::json;

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
    pub fn token(&self, user: &str) -> String {
        let now = now();
        let claims = json!({
            "sub": user, "preferred_username": user, "name": user,
            "iss": self.issuer, "aud": self.audience, "iat": now, "exp": now + 86_400,
        });
        sign(&claims, &self.secret)
    }
}
