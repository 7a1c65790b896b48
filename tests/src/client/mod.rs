//! A client of protocol v1, as a careful application would write one: it answers pings, keeps the
//! last position of every group, resumes, and retries with the same nonce.

mod sending;
mod waiting;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use natter_shared::{id::GroupId, position::Position};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};
use uuid::Uuid;

use crate::{
    record::{Record, Sabotage},
    socket::Socket,
    token::User,
};

/// How long an answer may take.
pub const ANSWER: Duration = Duration::from_secs(15);

/// Why a request was not answered with a reply.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// An `error` frame.
    #[error("refused: {0}")]
    Refused(Value),
    /// The connection ended first.
    #[error("closed: {0:?}")]
    Closed(Option<(u16, String)>),
    /// No answer in time.
    #[error("no answer to {0}")]
    Silence(Value),
}

impl RequestError {
    /// The code of the `error` frame, or empty.
    pub fn code(&self) -> &str {
        match self {
            Self::Refused(error) => error["code"].as_str().unwrap_or_default(),
            Self::Closed(_) | Self::Silence(_) => "",
        }
    }
}

/// A user's client. It outlives its connections: the record and the positions go on.
pub struct Client {
    /// Who.
    pub user: User,
    /// For so long joins and leaves are repeated while the answer is to try again; zero at first.
    pub insist_for: Duration,
    /// When each try of the last frame that was asked until answered began and ended, and how.
    pub tries: Vec<String>,
    token: String,
    record: Arc<Mutex<Record>>,
    news: watch::Sender<u64>,
    reading: watch::Sender<bool>,
    socket: Option<Socket>,
    next_id: AtomicU32,
}

impl Client {
    /// A client that is not connected yet.
    pub fn new(user: &User) -> Self {
        Self::with_token(user, user.token())
    }

    /// One that signs in with this token.
    pub fn with_token(user: &User, token: String) -> Self {
        let news = watch::Sender::new(0);
        Self {
            user: user.clone(),
            insist_for: Duration::ZERO,
            tries: Vec::new(),
            token,
            record: Arc::default(),
            news,
            reading: watch::Sender::new(true),
            socket: None,
            next_id: AtomicU32::new(1),
        }
    }

    /// Connects, signs in, and waits for `ready`.
    pub async fn connect(gateway: SocketAddr, user: &User) -> Result<Self> {
        let mut client = Self::new(user);
        client.reconnect(gateway).await?;
        Ok(client)
    }

    /// Connects again, resuming from the last positions; returns `ready`.
    ///
    /// # Errors
    /// Where no connection is to be had, and [`RequestError`] where signing in is refused.
    pub async fn reconnect(&mut self, gateway: SocketAddr) -> Result<Value> {
        self.disconnect();
        let outcome = self.sign_in(gateway).await;
        if let Err(error) = &outcome {
            // Who is refused is told why by the Close that follows.
            if !matches!(error.downcast_ref(), Some(RequestError::Refused(_))) {
                self.disconnect();
            }
        }
        outcome
    }

    async fn sign_in(&mut self, gateway: SocketAddr) -> Result<Value> {
        let (connection, resume) = self.record.lock().begin_connection();
        self.read_on();
        let socket = Socket::open(gateway, connection, self.record.clone(), self.news.clone(), self.reading.subscribe()).await?;
        self.socket = Some(socket);
        let connect = json!({"type": "connect", "token": self.token, "resume": resume});
        let ready = self.request(connect).await?;
        anyhow::ensure!(ready["type"] == "ready", "not ready: {ready}");
        Ok(ready)
    }

    /// Reconnects to one gateway after the other until one lets it in.
    pub async fn reconnect_to_any(&mut self, gateways: &[SocketAddr], patience: Duration) -> Result<Value> {
        let until = Instant::now() + patience;
        for gateway in gateways.iter().cycle() {
            match self.reconnect(*gateway).await {
                Ok(ready) => return Ok(ready),
                Err(error) if Instant::now() > until => return Err(error.context("no gateway lets us in")),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
        bail!("no gateways")
    }

    /// Drops the connection without a word, as a lost network does.
    pub fn disconnect(&mut self) {
        self.socket = None;
    }

    /// It has no connection, or one that has ended.
    pub fn is_away(&self) -> bool {
        self.socket.is_none() || self.record.lock().closed.is_some()
    }

    /// How it stands with a group whose message at `wanted` does not come.
    pub fn state_of(&self, group: GroupId, wanted: Position) -> String {
        let record = self.record.lock();
        format!(
            "{}: {group} is at {:?} and not at {wanted}{}; heard {:?} ago, {} pings; reads: {}; {}closed: {:?}",
            self.user.handle,
            record.position(group),
            if record.is_reset(group) { " (reset)" } else { "" },
            record.heard_at.map(|at| at.elapsed()),
            record.pings,
            *self.reading.borrow(),
            self.socket.as_ref().map(|socket| format!("port {}; ", socket.port)).unwrap_or_default(),
            record.closed,
        )
    }

    /// What it signs in with.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Claims to have seen a group up to a position.
    pub fn resume_from(&mut self, group: GroupId, position: Position) {
        self.record.lock().set_position(group, position);
    }

    /// Reads nothing more, or reads on: what comes waits in the kernel, and then at the gateway.
    pub fn turn_reading(&self) {
        self.reading.send_modify(|reading| *reading = !*reading);
    }

    /// Reads on, if it did not.
    pub fn read_on(&self) {
        self.reading.send_replace(true);
    }

    /// Says nothing more by itself: no pongs.
    pub fn fall_silent(&self) {
        self.record.lock().silent = true;
    }

    /// Spoils the record from now on; the checker has to find it.
    pub fn sabotage(&self, sabotage: Sabotage) {
        self.record.lock().sabotage = Some(sabotage);
    }

    /// Keeps only the checker's entries from now on.
    pub fn record_lean(&self) {
        self.record.lock().lean = true;
    }

    /// What was recorded so far.
    pub fn record<T>(&self, read: impl FnOnce(&Record) -> T) -> T {
        read(&self.record.lock())
    }

    /// The entries for the checker; the record is empty after it.
    pub fn take_entries(&self) -> Vec<crate::checker::Entry> {
        std::mem::take(&mut self.record.lock().entries)
    }

    /// Sends a text as it is.
    pub fn send_text(&self, text: &str) -> Result<()> {
        self.socket.as_ref().context("not connected")?.send_text(text)
    }

    /// Sends a frame that wants no answer.
    pub fn say(&self, frame: &Value) -> Result<()> {
        self.send_text(&frame.to_string())
    }

    /// Sends a frame with an id and waits for its answer.
    pub async fn request(&self, mut frame: Value) -> Result<Value, RequestError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        frame["id"] = json!(id);
        let answer = {
            let mut record = self.record.lock();
            if record.closed.is_some() {
                // It is over already: nobody would end the wait for an answer.
                return Err(RequestError::Closed(record.closed.clone()));
            }
            record.expect_answer(id, &frame)
        };
        if self.say(&frame).is_err() {
            return Err(RequestError::Closed(self.record.lock().closed.clone()));
        }
        match tokio::time::timeout(ANSWER, answer).await {
            Err(_) => Err(RequestError::Silence(frame)),
            Ok(Err(_)) => Err(RequestError::Closed(self.record.lock().closed.clone())),
            Ok(Ok(answer)) if answer["type"] == "error" => Err(RequestError::Refused(answer)),
            Ok(Ok(answer)) => Ok(answer),
        }
    }

    async fn insist(&self, frame: Value) -> Result<Value, RequestError> {
        let until = Instant::now() + self.insist_for;
        loop {
            match self.request(frame.clone()).await {
                Err(RequestError::Refused(error)) if error["retryable"] == true && Instant::now() < until => {
                    let pause = error["retry_after_ms"].as_u64().unwrap_or(100);
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Joins an open group by name or id; returns its id.
    pub async fn join(&self, group: &str) -> Result<GroupId, RequestError> {
        let reply = self.insist(json!({"type": "join", "group": group})).await?;
        Ok(reply["group"]["id"].as_str().and_then(|id| id.parse().ok()).expect("a join's reply has the group's id"))
    }

    /// Leaves a group.
    pub async fn leave(&self, group: GroupId) -> Result<(), RequestError> {
        self.insist(json!({"type": "leave", "group": group})).await.map(drop)
    }
}

/// The groups of a `ready`, by id.
pub fn groups_of(ready: &Value) -> HashMap<Uuid, Value> {
    let groups = ready["groups"].as_array().cloned().unwrap_or_default();
    let with_id = |group: Value| Some((group["id"].as_str()?.parse().ok()?, group));
    groups.into_iter().filter_map(with_id).collect()
}
