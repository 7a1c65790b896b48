//! Signing in: who the user is, and all that a session starts with, from one snapshot.

use std::{collections::HashMap, time::Duration};

use natter_shared::{
    frame::ErrorCode,
    id::UserId,
    rpc::{Answer, OneOfMany, Profile, Request, RpcError, SignIn, SignInMany, SignedIn, Standing},
};
use tokio::time::timeout;

use super::{
    context::{Context, Snapshot},
    inbox, many, memberships, standings, users,
};
use crate::error::unavailable;

/// How long the others wait for those who are written first.
const WRITTEN_WITHIN: Duration = Duration::from_millis(500);

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
            let inbox = inbox::counts(context, &snapshot, &call.user).await?;
            return snapshot.answer(SignedIn { profile, groups, more, inbox }).await;
        }
        drop(snapshot);
        if attempt == 0 {
            users::claim(&context.store, &call.user, &claims).await.map_err(|error| unavailable(&error))?;
        }
    }
    // Another sign-in of the same user, with other claims, came in between.
    Err(RpcError::new(ErrorCode::Busy, "signed in twice at once"))
}

/// Five statements for all. Where there are some of whom nobody has heard, they are written by one more, and what is known is looked
/// at once more; who has another name than before is asked for alone.
pub(super) async fn sign_in_many(context: &Context, call: SignInMany) -> Result<Answer<Vec<OneOfMany<SignedIn>>>, RpcError> {
    many::check(&call.users)?;
    let mut ids: Vec<&UserId> = call.users.iter().map(|one| &one.call.user).collect();
    ids.sort_unstable_by_key(|user| user.as_str());
    ids.dedup();
    let (mut snapshot, mut standings, mut claimed) = known(context, &ids).await?;
    let new = call.users.iter().map(|one| &one.call).filter(|one| !claimed.contains_key(one.user.as_str()));
    let new = new.filter(|one| one.issued_at.is_none_or(|issued_at| standings::judge(standings.get(&one.user), issued_at).is_ok()));
    let new: HashMap<&UserId, users::Claims> = new.map(|one| (&one.user, users::Claims::of(one))).collect();
    if !new.is_empty() {
        drop(snapshot);
        // Who could not be written is asked for alone, and waits alone for what is in the way.
        match timeout(WRITTEN_WITHIN, users::claim_new(&context.store, &new)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(users = new.len(), %error, "new_users_not_written"),
            Err(_) => tracing::debug!(users = new.len(), "new_users_wait"),
        }
        (snapshot, standings, claimed) = known(context, &ids).await?;
    }
    let limit = call.users.iter().map(|one| one.call.limit).max().unwrap_or_default();
    let mut pages = memberships::first_pages(&snapshot, &ids, limit).await?;
    let inboxes = inbox::counts_of(context, &snapshot, &ids).await?;
    let mut room = many::Room::default();
    let answers = call.users.iter().map(|Request { min_position, call: one }| {
        if !snapshot.has(*min_position) {
            return OneOfMany::Alone;
        }
        if let Some(issued_at) = one.issued_at
            && let Err(refused) = standings::judge(standings.get(&one.user), issued_at)
        {
            return OneOfMany::Refused(refused);
        }
        // A user who signs in twice at once is asked for alone the second time.
        let Some((profile, before)) = claimed.remove(one.user.as_str()).flatten() else { return OneOfMany::Alone };
        let (mut groups, mut more) = pages.remove(one.user.as_str()).unwrap_or_default();
        more |= groups.len() > one.limit as usize;
        groups.truncate(one.limit as usize);
        let size = 512 + groups.iter().map(memberships::size).sum::<usize>();
        if before != users::Claims::of(one) || !room.take(size) {
            return OneOfMany::Alone;
        }
        let inbox = inboxes.get(one.user.as_str()).copied().unwrap_or_else(|| inbox::none_counted(&snapshot));
        OneOfMany::Answered(Box::new(SignedIn { profile, groups, more, inbox }))
    });
    let answers = answers.collect();
    snapshot.answer(answers).await
}

type Known<'a> = (Snapshot<'a>, HashMap<UserId, Standing>, HashMap<String, Option<(Profile, users::Claims)>>);

/// How users stand, and whom there are, with what they claimed.
async fn known<'a>(context: &'a Context, users: &[&UserId]) -> Result<Known<'a>, RpcError> {
    let snapshot = context.snapshot().await?;
    let standings = standings::of_all(&snapshot, users).await?;
    let claimed = users::claimed_by(&snapshot, users).await?;
    Ok((snapshot, standings, claimed))
}
