//! Who calls: a user by token or cookie, or the application's back end by a key. Both are held to
//! their rate.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use axum::{extract::FromRequestParts, http::request::Parts};
use natter_shared::rpc::SignIn;

use super::Api;
use crate::{
    admission::client_address,
    auth::Identity,
    http::{
        Problem,
        extract::{Caller, peer},
    },
};

/// A call of the user API. One that changes something, signed in by cookie, comes from a page of
/// ours and echoes the CSRF token; its user is known to the persister from then on.
pub(super) struct User(pub(super) Identity);

impl FromRequestParts<Arc<Api>> for User {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let caller = Caller::of(parts, &api.app).await;
        let safe = parts.method.is_safe();
        let identity = if safe { caller.require_user()? } else { caller.require_own_page(&api.app)? };
        api.app.rates.take_user(identity.user.key())?;
        if !safe {
            api.introduce(identity).await?;
        }
        Ok(Self(identity.clone()))
    }
}

impl Api {
    /// Makes a user known who comes with the token of an issuer of one's own, never seen before.
    async fn introduce(&self, identity: &Identity) -> Result<(), Problem> {
        let mut hasher = DefaultHasher::new();
        (identity.user.as_str(), &identity.handle, &identity.display_name).hash(&mut hasher);
        let claims = hasher.finish();
        if !self.introduced.contains_key(&claims) {
            self.call(sign_in(identity)).await?;
            self.introduced.insert(claims, ());
        }
        Ok(())
    }
}

/// The call that makes a user known, and tells the profile and the inbox.
pub(super) fn sign_in(identity: &Identity) -> SignIn {
    let Identity { user, handle, display_name, issued_at, .. } = identity.clone();
    SignIn { user, handle, display_name, limit: 1, issued_at: Some(issued_at) }
}

/// A call of the server API, by a key that holds.
pub(super) struct BackEnd;

impl FromRequestParts<Arc<Api>> for BackEnd {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let address = peer(parts).map(|peer| client_address(peer, &parts.headers, &api.app.config.http));
        let key = api.keys.check(api.broker(), &parts.headers, address).await?;
        api.app.rates.take_key(key.id)?;
        Ok(Self)
    }
}
