//! The way out, after the lifecycle's soft token. First the process is not ready any more, for
//! `gateway.drain_delay` still serving all, so that proxies notice. Then it takes nothing new, and
//! its sessions are told to leave, so many a second: each is told when to come back, its requests
//! under way are answered, and it is closed (1012).

use std::{sync::Arc, time::Duration};

use natter_shared::{
    config,
    frame::{CloseCode, DrainingFrame, ServerFrame},
    lifecycle::Lifecycle,
};
use tokio::time::{self, Instant, MissedTickBehavior};
use tokio_util::task::TaskTracker;

use crate::{
    app::App,
    session::{Protocol, SessionHandle},
    socket::wire,
};

/// Between two batches of sessions told to leave, unless single ones are further apart.
const STEP: Duration = Duration::from_millis(100);

/// Clients told to leave come back after a random part of this, elsewhere: what is told in one
/// second comes back over five.
const RETRY_WITHIN_MS: u64 = 5_000;

/// How long a session told to leave waits for the answers to what it has begun. What is not
/// answered by then is tried again, under the same nonce.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// The same for who is told last, so that the close still fits into [`LAST_CLOSES`].
const LAST_ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// The end of `gateway.drain_timeout` that is kept for the last closes, if need be by telling more
/// sessions a second than configured.
const LAST_CLOSES: Duration = Duration::from_secs(3);

/// Between two looks whether something has ended.
const LOOK: Duration = Duration::from_millis(20);

/// When a client told to leave comes back.
pub(crate) fn retry_after_ms() -> u64 {
    rand::random_range(0..RETRY_WITHIN_MS)
}

/// Waits for the soft token; then says that the process is going, and after the delay that it takes
/// nothing new.
pub(crate) async fn announce(app: &App, lifecycle: &Lifecycle) {
    lifecycle.soft.cancelled().await;
    app.health.leave();
    let delay = app.config.gateway.drain_delay;
    tracing::info!(sessions = app.sessions.len(), delay_seconds = delay.as_secs_f64(), "leaving");
    tokio::select! {
        () = time::sleep(delay) => {}
        () = lifecycle.hard.cancelled() => {}
    }
    app.closing.cancel();
}

/// Tells every session to leave, at the configured pace, and waits until they have.
pub(crate) async fn drain(app: &App) {
    let closers = TaskTracker::new();
    let until = Instant::now() + budget(&app.config.gateway);
    // A session that was being opened meanwhile is found by another look; later ones are refused.
    loop {
        let sessions: Vec<_> =
            app.sessions.iter().filter(|entry| !entry.value().is_leaving()).map(|entry| Arc::clone(entry.value())).collect();
        if sessions.is_empty() {
            break;
        }
        let rate = rate(app.config.gateway.drain_rate, sessions.len(), until.saturating_duration_since(Instant::now()));
        tracing::info!(sessions = sessions.len(), rate, "draining_sessions");
        let (batch, step) = pace(rate);
        let mut ticks = time::interval(step);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for some in sessions.chunks(batch) {
            ticks.tick().await;
            for session in some {
                let left = until.saturating_duration_since(Instant::now());
                tell(session, &closers, ANSWERS_WITHIN.min(left + LAST_ANSWERS_WITHIN));
            }
        }
    }
    closers.close();
    closers.wait().await;
    // Their loops end by themselves, within the time that a close may take.
    let ended = async {
        while !app.sessions.is_empty() {
            time::sleep(LOOK).await;
        }
    };
    let _ = time::timeout(app.config.limits.slow_close_timeout, ended).await;
}

/// How long telling all sessions may take.
fn budget(config: &config::Gateway) -> Duration {
    config.drain_timeout.saturating_sub(config.drain_delay).saturating_sub(LAST_CLOSES).max(Duration::from_secs(1))
}

/// Sessions per second: as configured, or as many as it takes to be done in time.
fn rate(configured: u32, sessions: usize, left: Duration) -> u32 {
    // The cast saturates.
    let needed = (sessions as f64 / left.as_secs_f64().max(0.1)).ceil() as u32;
    if needed > configured {
        tracing::warn!(sessions, configured, needed, "drain_rate_too_low");
    }
    configured.max(needed).max(1)
}

/// How many at once, and how often.
fn pace(rate: u32) -> (usize, Duration) {
    let batch = (f64::from(rate) * STEP.as_secs_f64()).floor().max(1.0);
    (batch as usize, Duration::from_secs_f64(batch / f64::from(rate)))
}

/// Tells a session to leave; closes it once what it has begun is answered, or after so long.
fn tell(session: &Arc<SessionHandle>, closers: &TaskTracker, answers_within: Duration) {
    session.leave();
    if session.protocol == Protocol::V1 {
        session.outlet.push(&wire::json(&ServerFrame::Draining(DrainingFrame { retry_after_ms: retry_after_ms() })), 1);
    }
    if session.is_idle() {
        return session.outlet.close(CloseCode::Restart);
    }
    let session = Arc::clone(session);
    closers.spawn(async move {
        let _ = time::timeout(answers_within, session.idle()).await;
        session.outlet.close(CloseCode::Restart);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_becomes_batches_that_keep_it() {
        assert_eq!(pace(500), (50, STEP));
        assert_eq!(pace(10), (1, STEP));
        assert_eq!(pace(2), (1, Duration::from_millis(500)));
        let (batch, step) = pace(15);
        assert_eq!((batch, step.as_millis()), (1, 66));
    }

    #[test]
    fn all_are_told_in_time_even_where_the_rate_is_too_low() {
        let seconds = Duration::from_secs;
        assert_eq!(rate(500, 10_000, seconds(22)), 500);
        assert_eq!(rate(500, 20_000, seconds(20)), 1000);
        assert_eq!(rate(1, 0, Duration::ZERO), 1);
        let config = |drain_delay, drain_timeout| config::Gateway { drain_delay, drain_timeout, ..config::Config::default().gateway };
        assert_eq!(budget(&config(seconds(5), seconds(25))), seconds(17));
        assert_eq!(budget(&config(seconds(0), seconds(0))), seconds(1));
    }

    #[test]
    fn no_second_brings_back_more_than_twice_the_mean() {
        for sessions in [1_000, 10_000] {
            let mut returns = vec![0_u32; 60];
            let (batch, step) = pace(500);
            for session in 0..sessions {
                let told = step.as_millis() as u64 * (session / batch) as u64;
                returns[((told + retry_after_ms()) / 1000) as usize] += 1;
            }
            let seconds = returns.iter().rposition(|count| *count > 0).unwrap_or_default() + 1;
            let mean = f64::from(sessions as u32) / seconds as f64;
            let most = f64::from(returns.into_iter().max().unwrap_or_default());
            assert!(most < 2.0 * mean, "{sessions}: {most} in a second, {mean} on average");
        }
    }
}
