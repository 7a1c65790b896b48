//! Who is blocked, and whose tokens were revoked: this gateway's copy of the persister's list
//! ([`natter_shared::rpc::Standing`]). Whoever it no longer lets in is closed here. It says of itself,
//! each second and after every change, how far it keeps to the list; and hears its own word, which is
//! the proof that it would hear a persister's: where it does not, while messages still arrive, all
//! sessions are closed, for one of their users may have been blocked.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use natter_shared::{
    broker::{Control, hear},
    frame::{CloseCode, ErrorCode},
    id::{UserId, UserKey},
    rpc::{self, RpcError, Standing},
    timestamp::Timestamp,
};
use parking_lot::{Mutex, RwLock};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    auth::{AuthError, Identity, UNAUTHORIZED},
};

/// Between two words of ours.
const EVERY: Duration = Duration::from_secs(1);

/// Before the list is asked for again.
const RETRY: Duration = Duration::from_millis(300);

/// Between two looks whether we still hear ourselves.
const LOOK: Duration = Duration::from_millis(250);

/// For so long we need not hear ourselves. With the looks in between, sessions end within 5 s.
const DEAF_AFTER: Duration = Duration::from_secs(4);

/// Standings asked for at once.
const PAGE: u32 = 1000;

/// How a user stands who does not stand well.
#[derive(Debug, Clone, Copy)]
struct Mark {
    blocked: bool,
    void_before: Timestamp,
}

/// The gateway's copy of the list.
pub struct Standings {
    marks: RwLock<HashMap<UserKey, Mark>>,
    version: AtomicU64,
    /// The list has been read once.
    loaded: AtomicBool,
    heard_ourselves: Mutex<Instant>,
    /// The newest version that anybody announced.
    announced: watch::Sender<u64>,
}

impl Default for Standings {
    fn default() -> Self {
        Self {
            marks: RwLock::default(),
            version: AtomicU64::new(0),
            loaded: AtomicBool::new(false),
            heard_ourselves: Mutex::new(Instant::now()),
            announced: watch::Sender::new(0),
        }
    }
}

impl Standings {
    /// The list, with nobody on it.
    #[cfg(test)]
    pub(crate) fn of_nobody() -> Self {
        // Nobody announces anything.
        let heard_ourselves = Mutex::new(Instant::now() + Duration::from_hours(1));
        Self { loaded: AtomicBool::new(true), heard_ourselves, ..Self::default() }
    }

    /// Whether the list is here.
    pub fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Acquire)
    }

    /// Lets `user` in with a token issued at `issued_at`, or says why not.
    ///
    /// # Errors
    /// [`AuthError::Blocked`], [`AuthError::Revoked`], or [`AuthError::Unknown`] before the list is here, and while nobody would tell of a
    /// newer one.
    pub fn judge(&self, user: &UserId, issued_at: Timestamp) -> Result<(), AuthError> {
        if self.is_deaf() {
            return Err(AuthError::Unknown);
        }
        self.judge_known(user, issued_at)
    }

    /// The same by what is known, however old, for a session: those end by themselves where nobody is heard while messages arrive.
    fn judge_known(&self, user: &UserId, issued_at: Timestamp) -> Result<(), AuthError> {
        if !self.is_loaded() {
            return Err(AuthError::Unknown);
        }
        self.judge_key(user.key(), issued_at)
    }

    fn judge_key(&self, user: UserKey, issued_at: Timestamp) -> Result<(), AuthError> {
        match self.marks.read().get(&user) {
            Some(mark) if mark.blocked => Err(AuthError::Blocked),
            Some(mark) if issued_at < mark.void_before => Err(AuthError::Revoked),
            Some(_) | None => Ok(()),
        }
    }

    fn take(&self, standings: Vec<Standing>) {
        let mut marks = self.marks.write();
        for Standing { user, blocked, void_before, .. } in standings {
            if blocked || void_before > Timestamp::default() {
                marks.insert(user.key(), Mark { blocked, void_before });
            } else {
                marks.remove(&user.key());
            }
        }
    }

    fn is_deaf(&self) -> bool {
        self.heard_ourselves.lock().elapsed() > DEAF_AFTER
    }
}

/// What a session that may not go on is closed with.
pub(crate) fn close_code(refusal: AuthError) -> CloseCode {
    match refusal {
        AuthError::Blocked => CloseCode::NotAllowed,
        _ => CloseCode::Token,
    }
}

/// What is said of a token that does not hold, or of which that cannot be told. Why it does not hold is nobody's business.
pub(crate) fn told_of(refusal: AuthError) -> (ErrorCode, String) {
    match error_code(refusal) {
        ErrorCode::Unauthorized => (ErrorCode::Unauthorized, UNAUTHORIZED.to_owned()),
        code => (code, refusal.to_string()),
    }
}

/// What a request is answered that may not go on.
pub(crate) fn error_code(refusal: AuthError) -> ErrorCode {
    match refusal {
        AuthError::Blocked => ErrorCode::Blocked,
        AuthError::Unknown | AuthError::NoKeys => ErrorCode::Unavailable,
        _ => ErrorCode::Unauthorized,
    }
}

impl App {
    /// Keeps to the list until `stop`.
    pub(crate) async fn keep_standings(&self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.hear_standings() => {}
            () = self.follow_standings() => {}
            () = self.say_standings() => {}
            () = self.watch_hearing() => {}
        }
    }

    /// Whether a verified identity may come in.
    pub(crate) fn judge(&self, identity: &Identity) -> Result<(), AuthError> {
        self.standings.judge(&identity.user, identity.issued_at)
    }

    /// Whether a verified identity may extend a session.
    pub(crate) fn judge_refresh(&self, identity: &Identity) -> Result<(), AuthError> {
        self.standings.judge_known(&identity.user, identity.issued_at)
    }

    async fn hear_standings(&self) {
        hear(&*self.broker, |control| match control {
            Control::Standings { version } => {
                self.standings.announced.send_if_modified(|at| {
                    let news = version > *at;
                    *at = version.max(*at);
                    news
                });
            }
            Control::Gateway { instance, .. } if instance == self.instance => {
                *self.standings.heard_ourselves.lock() = Instant::now();
            }
            Control::Gateway { .. } | Control::Applied { .. } | Control::Epoch { .. } => {}
        })
        .await;
    }

    /// Reads the list at the start, and what changed whenever somebody announces a newer version.
    async fn follow_standings(&self) {
        let mut announced = self.standings.announced.subscribe();
        loop {
            let known = self.standings.version.load(Ordering::Acquire);
            if self.standings.is_loaded() && *announced.borrow_and_update() <= known {
                // The sender lives as long as we do.
                let _ = announced.changed().await;
                continue;
            }
            match self.read_standings(known).await {
                Ok(()) => self.announce_standings().await,
                Err(error) => {
                    tracing::debug!(%error, "standings_not_read");
                    sleep(RETRY).await;
                }
            }
        }
    }

    async fn read_standings(&self, mut after: u64) -> Result<(), RpcError> {
        loop {
            let page = rpc::call(&*self.broker, rpc::Standings { after, limit: PAGE }, None).await?.reply;
            after = page.version;
            self.standings.take(page.standings);
            if !page.more {
                break;
            }
        }
        // Only who keeps to all of it says so: first the sessions end.
        self.end_refused();
        self.standings.version.store(after, Ordering::Release);
        if !self.standings.is_loaded() {
            // Before, nothing was said that could be heard.
            *self.standings.heard_ourselves.lock() = Instant::now();
        }
        self.standings.loaded.store(true, Ordering::Release);
        Ok(())
    }

    /// Closes every session that may not go on. One that is being opened is registered already, or
    /// signs in by a later look at SQL.
    fn end_refused(&self) {
        let mut ended = 0;
        for session in &self.sessions {
            if let Err(refusal) = self.standings.judge_key(session.key, session.issued_at()) {
                session.outlet.close(close_code(refusal));
                ended += 1;
            }
        }
        if ended > 0 {
            tracing::info!(sessions = ended, "standings_end_sessions");
        }
        self.metrics.revoked.inc_by(ended);
    }

    /// Now and then, and as soon as the broker is back: nobody heard us meanwhile, nor did we.
    async fn say_standings(&self) {
        let mut status = self.broker.status();
        loop {
            if self.standings.is_loaded() {
                self.announce_standings().await;
            }
            let is_back = async {
                let gone = status.wait_for(|status| !status.connected).await.map(drop);
                if gone.is_err() || status.wait_for(|status| status.connected).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = sleep(EVERY) => {}
                () = is_back => {}
            }
        }
    }

    async fn announce_standings(&self) {
        let standings = self.standings.version.load(Ordering::Acquire);
        if let Err(error) = self.broker.announce(&Control::Gateway { instance: self.instance, standings }).await {
            tracing::debug!(%error, "standings_not_announced");
        }
    }

    /// Ends all sessions where the way of announcements is broken and that of messages is not. Where
    /// both are, nothing is delivered anyway.
    async fn watch_hearing(&self) {
        loop {
            sleep(LOOK).await;
            let deaf = self.standings.is_loaded() && self.standings.is_deaf();
            if deaf && self.knowledge.is_any_fresh() && !self.sessions.is_empty() {
                tracing::warn!(sessions = self.sessions.len(), "announcements_not_heard");
                for session in &self.sessions {
                    session.outlet.close(CloseCode::TryAgain);
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn who_is_blocked_or_has_a_void_token_is_refused_until_that_changes() {
        let standings = Standings::default();
        let user = UserId::new("ann").unwrap();
        assert_eq!(standings.judge(&user, Timestamp(5)), Err(AuthError::Unknown));
        standings.loaded.store(true, Ordering::Release);
        assert_eq!(standings.judge(&user, Timestamp(5)), Ok(()));
        let set = |blocked, void_before| {
            standings.take(vec![Standing { user: user.clone(), blocked, void_before: Timestamp(void_before), version: 1 }]);
        };
        set(true, 0);
        assert_eq!(standings.judge(&user, Timestamp(5)), Err(AuthError::Blocked));
        set(false, 6);
        assert_eq!(standings.judge(&user, Timestamp(5)), Err(AuthError::Revoked));
        assert_eq!(standings.judge(&user, Timestamp(6)), Ok(()));
        set(false, 0);
        assert_eq!(standings.judge(&user, Timestamp(5)), Ok(()));
        assert!(standings.marks.read().is_empty());
        *standings.heard_ourselves.lock() = Instant::now().checked_sub(DEAF_AFTER + EVERY).unwrap();
        assert_eq!(standings.judge(&user, Timestamp(5)), Err(AuthError::Unknown), "it may have been blocked meanwhile");
        assert_eq!(standings.judge_known(&user, Timestamp(5)), Ok(()), "a session goes on until it is ended");
    }
}
