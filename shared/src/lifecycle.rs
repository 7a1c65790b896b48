//! How a process ends: it drains on the first signal, and breaks off on the second or at its deadline.
//!
//! A critical task that dies takes the process with it: soft first, then a non-zero exit status, so
//! that whoever supervises it starts it anew.

use std::{
    convert::Infallible,
    fmt::Display,
    future::Future,
    io,
    panic::AssertUnwindSafe,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

/// After the hard token, how long tasks have to let go before they are left behind.
const ABANDON_AFTER: Duration = Duration::from_secs(2);

/// The tokens and tasks of a process. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Lifecycle {
    /// Cancelled: take nothing new, finish what is begun.
    pub soft: CancellationToken,
    /// Cancelled: break off. Never before `soft`.
    pub hard: CancellationToken,
    /// The tasks that the end of the process waits for.
    pub tasks: TaskTracker,
    failed: Arc<AtomicBool>,
}

impl Lifecycle {
    /// One that runs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a task that the end of the process waits for.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.tasks.spawn(task)
    }

    /// Runs a task without which the process is of no use. It ends when `soft` is cancelled; when
    /// it ends before, or with an error or a panic, the process stops with a non-zero exit status.
    pub fn spawn_critical<F, E>(&self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        let this = self.clone();
        self.tasks.spawn(async move {
            match AssertUnwindSafe(task).catch_unwind().await {
                Ok(Ok(())) if this.soft.is_cancelled() => info!(task = name, "task_ended"),
                Ok(Ok(())) => {
                    error!(task = name, "task_ended_early");
                    this.fail();
                }
                Ok(Err(error)) => {
                    // With its causes, where it knows how to show them.
                    error!(task = name, error = format!("{error:#}"), "task_failed");
                    this.fail();
                }
                // The panic hook has printed what it was.
                Err(_panic) => {
                    error!(task = name, "task_panicked");
                    this.fail();
                }
            }
        });
    }

    /// [`Self::spawn_critical`] of a task that fails only by ending.
    pub fn spawn_vital(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_critical(name, async move {
            task.await;
            Ok::<_, Infallible>(())
        });
    }

    /// Begins to stop, with a non-zero exit status at the end.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::SeqCst);
        self.soft.cancel();
    }

    /// Whether something critical has failed.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// Waits for SIGTERM or SIGINT (or a critical task's death), then for the tasks to drain within
    /// `deadline`. The exit status is non-zero if something failed or had to be broken off.
    pub async fn run_until_stopped(&self, deadline: Duration) -> ExitCode {
        match Signals::listen() {
            Ok(mut signals) => self.run_until(&mut signals.received, deadline).await,
            Err(error) => {
                error!(%error, "signals_unavailable");
                self.fail();
                let (_never, mut none) = mpsc::channel(1);
                self.run_until(&mut none, deadline).await
            }
        }
    }

    /// [`Lifecycle::run_until_stopped`] with signals of one's own.
    pub async fn run_until(&self, signals: &mut mpsc::Receiver<&'static str>, deadline: Duration) -> ExitCode {
        tokio::select! {
            () = self.soft.cancelled() => {}
            () = self.hard.cancelled() => {}
            Some(signal) = signals.recv() => info!(signal, deadline_seconds = deadline.as_secs(), "draining"),
        }
        self.soft.cancel();
        self.tasks.close();

        let deadline = Instant::now() + deadline;
        let drained = tokio::select! {
            () = self.tasks.wait() => true,
            () = self.hard.cancelled() => false,
            () = sleep_until(deadline) => {
                warn!(tasks = self.tasks.len(), "drain_deadline_passed");
                false
            }
            Some(signal) = signals.recv() => {
                warn!(signal, tasks = self.tasks.len(), "drain_broken_off");
                false
            }
        };
        self.hard.cancel();
        if !drained && tokio::time::timeout(ABANDON_AFTER, self.tasks.wait()).await.is_err() {
            warn!(tasks = self.tasks.len(), "tasks_abandoned");
        }
        if drained && !self.has_failed() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// SIGTERM and SIGINT, which do not end the process by themselves any more.
pub struct Signals {
    /// One message each, its name.
    pub received: mpsc::Receiver<&'static str>,
}

impl Signals {
    /// Listens from here on.
    ///
    /// # Errors
    /// Where the system refuses it.
    pub fn listen() -> io::Result<Self> {
        let (sender, received) = mpsc::channel(4);
        for (name, kind) in [("SIGTERM", SignalKind::terminate()), ("SIGINT", SignalKind::interrupt())] {
            let signal = signal(kind)?;
            tokio::spawn(forward(name, signal, sender.clone()));
        }
        Ok(Self { received })
    }
}

async fn forward(name: &'static str, mut signal: Signal, sender: mpsc::Sender<&'static str>) {
    while signal.recv().await.is_some() {
        if sender.send(name).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    fn is_success(code: ExitCode) -> bool {
        // ExitCode has no equality.
        format!("{code:?}") == format!("{:?}", ExitCode::SUCCESS)
    }

    /// Runs until stopped by these signals, each after its time.
    async fn stop(lifecycle: &Lifecycle, signals: &[(u64, &'static str)]) -> (bool, Duration) {
        let (sender, mut received) = mpsc::channel(4);
        for (after, name) in signals.iter().copied() {
            let sender = sender.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(after)).await;
                let _sent = sender.send(name).await;
            });
        }
        let start = Instant::now();
        let code = lifecycle.run_until(&mut received, DEADLINE).await;
        (is_success(code), start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn first_signal_drains() {
        let lifecycle = Lifecycle::new();
        let (soft, hard) = (lifecycle.soft.clone(), lifecycle.hard.clone());
        lifecycle.spawn_critical("server", async move {
            soft.cancelled().await;
            tokio::time::sleep(Duration::from_secs(3)).await;
            assert!(!hard.is_cancelled());
            Ok::<_, String>(())
        });
        assert_eq!(stop(&lifecycle, &[(5, "SIGTERM")]).await, (true, Duration::from_secs(8)));
    }

    #[tokio::test(start_paused = true)]
    async fn second_signal_breaks_off() {
        let lifecycle = Lifecycle::new();
        let hard = lifecycle.hard.clone();
        lifecycle.spawn(async move { hard.cancelled().await });
        assert_eq!(stop(&lifecycle, &[(1, "SIGINT"), (2, "SIGINT")]).await, (false, Duration::from_secs(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn deadline_breaks_off_and_abandons_who_does_not_listen() {
        let lifecycle = Lifecycle::new();
        lifecycle.spawn(pending::<()>());
        assert_eq!(stop(&lifecycle, &[(1, "SIGTERM")]).await, (false, Duration::from_secs(1) + DEADLINE + ABANDON_AFTER));
        assert!(lifecycle.hard.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn failure_of_a_critical_task_stops_the_others() {
        let lifecycle = Lifecycle::new();
        let soft = lifecycle.soft.clone();
        lifecycle.spawn_critical("server", async move {
            soft.cancelled().await;
            Ok::<_, String>(())
        });
        lifecycle.spawn_critical("reader", async { Err("disk gone") });
        assert_eq!(stop(&lifecycle, &[]).await, (false, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn panic_of_a_critical_task_stops_the_others() {
        let lifecycle = Lifecycle::new();
        lifecycle.spawn_critical("reader", async {
            assert!(lifecycle_is_sound(), "on purpose");
            Ok::<_, String>(())
        });
        assert_eq!(stop(&lifecycle, &[]).await, (false, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn panic_of_a_vital_task_stops_the_others() {
        let lifecycle = Lifecycle::new();
        lifecycle.spawn_vital("reader", async { assert!(lifecycle_is_sound(), "on purpose") });
        assert_eq!(stop(&lifecycle, &[]).await, (false, Duration::ZERO));
    }

    fn lifecycle_is_sound() -> bool {
        false
    }

    #[tokio::test(start_paused = true)]
    async fn end_of_a_critical_task_stops_the_others() {
        let lifecycle = Lifecycle::new();
        lifecycle.spawn_critical("reader", async { Ok::<_, String>(()) });
        assert_eq!(stop(&lifecycle, &[]).await, (false, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn other_tasks_may_end() {
        let lifecycle = Lifecycle::new();
        lifecycle.spawn(async {});
        assert_eq!(stop(&lifecycle, &[(7, "SIGTERM")]).await, (true, Duration::from_secs(7)));
    }
}
