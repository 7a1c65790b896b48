//! Answers calls of gateways: one function for each, in a file for each theme.

mod bounds;
mod commands;
mod context;
mod creation;
mod groups;
mod history;
mod inbox;
mod keys;
mod makers;
mod many;
pub(crate) mod memberships;
mod search;
mod sessions;
mod standings;
mod users;

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::StreamExt;
use natter_shared::{
    broker::{Broker, Call},
    frame::ErrorCode,
    rpc::{
        self, AddMember, Answer, AwaitApplied, ChangeStanding, ChatPage, CheckApiKey, CountInbox, CreateGroup, CreateSingle, EnsureGroup,
        EventsAfter, FindAccepted, FindGroup, FindMembership, FindUser, FirstJoinMany, Groups, JoinOpen, JoinOpenMany, LeaveGroup,
        ListGroups, ListNotifications, ListUsers, Members, MessageHistory, RemoveMember, RenameGroup, Request, Rpc, RpcError,
        ShardPosition, SignIn, SignInMany,
    },
};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use self::commands::member_event;
use self::{context::Context, makers::Makers};
use crate::{
    database::{LOOK, SILENCE, Store},
    inbox::Change,
    lease::Leases,
    metrics::Metrics,
    options::Options,
    progress::Progress,
    standings::Standings,
};

/// An answer later than this finds nobody waiting ([`natter_shared::rpc::TIMEOUT`]).
const DEADLINE: Duration = Duration::from_millis(4500);

/// How long a call waits for its `min_position`.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long answers under way may take once shut down.
const DRAIN: Duration = Duration::from_secs(3);

/// Serves calls.
pub(crate) struct Server {
    context: Arc<Context>,
    metrics: Metrics,
    concurrency: usize,
}

impl Server {
    pub(crate) fn new(
        store: Store,
        broker: Arc<dyn Broker>,
        progress: Arc<Progress>,
        standings: Arc<Standings>,
        changes: mpsc::Sender<Change>,
        metrics: Metrics,
        options: Options,
    ) -> Self {
        let concurrency = options.rpc_concurrency.max(1);
        Self {
            context: Arc::new(Context {
                store,
                broker,
                progress,
                standings,
                makers: Makers::default(),
                changes,
                options,
                answered: AtomicBool::default(),
            }),
            metrics,
            concurrency,
        }
    }

    /// Serves until `shutdown`, then finishes what is under way; `serving` follows whether calls come here. While only others reach the
    /// database, as `leases` know, or calls do not, it leaves calls to others.
    pub(crate) async fn run(self, leases: Arc<Leases>, serving: watch::Sender<bool>, shutdown: CancellationToken) {
        let (tracker, permits) = (TaskTracker::new(), Arc::new(Semaphore::new(self.concurrency)));
        while !shutdown.is_cancelled() {
            // One for all calls: it looks each second, and not for each of them.
            let cut_off = self.cut_off(&leases);
            tokio::pin!(cut_off);
            let calls = self.context.broker.serve().await;
            serving.send_replace(calls.is_ok());
            match calls {
                Ok(mut calls) => loop {
                    // The permit first: calls beyond it wait at the broker, or at another persister.
                    let next = async {
                        let permit = Arc::clone(&permits).acquire_owned().await.ok()?;
                        Some((permit, calls.next().await?))
                    };
                    let next = tokio::select! {
                        () = shutdown.cancelled() => break,
                        next = next => next,
                        // Calls are for those who can answer them. Polled all the time: it takes a connection for its look.
                        () = &mut cut_off => {
                            drop(calls);
                            serving.send_replace(false);
                            tracing::warn!("calls_left_to_others: the database does not answer here");
                            tokio::select! {
                                () = shutdown.cancelled() => {}
                                () = self.reaches(&leases) => {}
                            }
                            break;
                        }
                    };
                    let Some((permit, call)) = next else { break };
                    let (context, metrics) = (Arc::clone(&self.context), self.metrics.clone());
                    tracker.spawn(async move {
                        answer(context, metrics, call).await;
                        drop(permit);
                    });
                },
                Err(error) => tracing::warn!(%error, "serving_unavailable"),
            }
            serving.send_replace(false);
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = sleep(Duration::from_millis(300)) => {}
            }
        }
        tracker.close();
        // What is not done by then, the gateways ask again elsewhere.
        let _ = tokio::time::timeout(DRAIN, tracker.wait()).await;
    }

    /// Waits until this process alone seems not to reach the database, or its calls alone do not.
    async fn cut_off(&self, leases: &Leases) {
        let silent = async {
            let mut heard = Instant::now();
            while heard.elapsed() < SILENCE {
                sleep(LOOK).await;
                if !leases.is_any_confirmed() || self.context.has_answered() || self.context.store.answers().await {
                    heard = Instant::now();
                }
            }
        };
        tokio::select! {
            () = self.context.progress.cut_off(leases) => {}
            () = silent => {}
        }
    }

    /// Waits until the database answers, calls too.
    async fn reaches(&self, leases: &Leases) {
        leases.confirmed().await;
        while !self.context.store.answers().await {
            sleep(LOOK).await;
        }
    }
}

/// Names each call with the function that answers it.
macro_rules! routes {
    ($context:ident, $metrics:ident, $call:ident, { $($request:ty => $function:path),+ $(,)? }) => {
        match $call.name.as_str() {
            $(<$request as Rpc>::NAME => {
                let started = Instant::now();
                let result = match serde_json::from_slice::<Request<$request>>(&$call.payload) {
                    Ok(request) => within_deadline(async {
                        if let Some(at) = request.min_position {
                            $context.reach(at, PATIENCE).await?;
                        }
                        reached($function(&$context, request.call).await?, request.min_position)
                    }).await,
                    Err(error) => Err(RpcError::new(ErrorCode::BadRequest, error.to_string())),
                };
                $metrics.call(<$request as Rpc>::NAME, started.elapsed(), result.is_err());
                encode(&result)
            })+
            other => encode::<()>(&Err(RpcError::new(ErrorCode::UnknownType, format!("no such call: {other}")))),
        }
    };
}

async fn answer(context: Arc<Context>, metrics: Metrics, call: Call) {
    let answer = routes!(context, metrics, call, {
        SignIn => sessions::sign_in,
        SignInMany => sessions::sign_in_many,
        Groups => groups::page,
        FindMembership => groups::membership,
        Members => groups::members,
        ListGroups => groups::list,
        FindGroup => groups::find,
        JoinOpen => commands::join_open,
        JoinOpenMany => commands::join_open_many,
        FirstJoinMany => commands::first_join_many,
        LeaveGroup => commands::leave,
        CreateSingle => creation::create_single,
        CreateGroup => creation::create_group,
        EnsureGroup => creation::ensure,
        RenameGroup => creation::rename,
        AddMember => commands::add_member,
        RemoveMember => commands::remove_member,
        MessageHistory => history::messages,
        EventsAfter => history::events_after,
        FindAccepted => history::find_accepted,
        FindUser => users::find,
        ListUsers => search::list,
        AwaitApplied => context::await_applied,
        ChatPage => inbox::chat_page,
        ListNotifications => inbox::list,
        CountInbox => inbox::count,
        rpc::TellInboxes => inbox::tell,
        CheckApiKey => keys::check,
        ChangeStanding => standings::change,
        rpc::Standings => standings::list,
    });
    // Nobody waits any more: no matter.
    let _ = call.respond.send(answer);
}

/// An answer from before `least` is none: a database that lost its last second is behind what was told of it.
fn reached<T>(answer: Answer<T>, least: Option<ShardPosition>) -> Result<Answer<T>, RpcError> {
    let is_before = |least: ShardPosition| answer.applied.iter().any(|at| at.shard == least.shard && at.position < least.position);
    if least.is_some_and(is_before) {
        return Err(RpcError::new(ErrorCode::Unavailable, "the database is further behind than it was"));
    }
    Ok(answer)
}

async fn within_deadline<T>(work: impl Future<Output = Result<T, RpcError>>) -> Result<T, RpcError> {
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(result) => result,
        Err(_) => Err(RpcError::new(ErrorCode::Unavailable, "the database is slow to answer")),
    }
}

fn encode<T: serde::Serialize>(result: &Result<Answer<T>, RpcError>) -> Bytes {
    match serde_json::to_vec(result) {
        Ok(bytes) => bytes.into(),
        Err(error) => {
            tracing::error!(%error, "answer_not_encoded");
            Bytes::from_static(br#"{"Err":{"code":"unavailable","message":"the answer could not be encoded"}}"#)
        }
    }
}
