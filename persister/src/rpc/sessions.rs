//! Signing in: who the user is, and all that a session starts with, from one snapshot.

use natter_shared::rpc::{Answer, RpcError, SignIn, SignedIn};

use super::{context::Context, inbox, memberships, standings, users};
use crate::error::unavailable;

pub(super) async fn sign_in(context: &Context, call: SignIn) -> Result<Answer<SignedIn>, RpcError> {
    let claims = users::Claims::of(&call);
    // Nothing is written where the token says what it said before, which is nearly always.
    for attempt in 0..2 {
        let snapshot = context.snapshot().await?;
        if let Some(issued_at) = call.issued_at {
            standings::check(&snapshot, &call.user, issued_at).await?;
        }
        if let Some(profile) = users::unchanged(&snapshot, &call.user, &claims).await? {
            let (groups, more) = memberships::page(&snapshot, &call.user, None, call.limit).await?;
            let inbox = inbox::counts(&snapshot, &call.user).await?;
            return snapshot.answer(SignedIn { profile, groups, more, inbox }).await;
        }
        drop(snapshot);
        if attempt == 0 {
            users::claim(&context.store, &call.user, &claims).await.map_err(|error| unavailable(&error))?;
        }
    }
    // Another sign-in of the same user, with other claims, came in between.
    Err(RpcError::new(natter_shared::frame::ErrorCode::Busy, "signed in twice at once"))
}
