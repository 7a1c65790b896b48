//! Clients that only listen, and come back at once when their gateway is gone: how long that takes.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use rand::RngExt;
use tokio::{task::JoinSet, time::Instant};

use crate::{client::Client, record::Record, token::User};

/// How long one may take; what takes longer counts as this.
const PATIENCE: Duration = Duration::from_secs(30);

/// The open group of the traffic that all of them listen to.
const GROUP: &str = "f-g0";

/// Listening clients on one gateway.
pub(super) struct Watchers {
    clients: Vec<Client>,
    /// Listens on another gateway.
    reference: Client,
}

impl Watchers {
    /// Connects `count` of them to `gateway`.
    pub(super) async fn connect(count: usize, gateway: SocketAddr, other: SocketAddr) -> Result<Self> {
        let mut connecting = JoinSet::new();
        for number in 0..=count {
            connecting.spawn(async move {
                let place = if number == count { other } else { gateway };
                let mut client = Client::connect(place, &User::named(&format!("watcher-{number}"))).await?;
                client.insist_for = PATIENCE;
                client.record_lean();
                client.join(GROUP).await?;
                anyhow::Ok((number, client))
            });
        }
        let mut clients = Vec::new();
        while let Some(client) = connecting.join_next().await {
            clients.push(client??);
        }
        clients.sort_by_key(|(number, _)| *number);
        let mut clients: Vec<Client> = clients.into_iter().map(|(_, client)| client).collect();
        let reference = clients.pop().context("a reference")?;
        Ok(Self { clients, reference })
    }

    /// Called when their gateway has just been killed: how long each took until it was back on one of
    /// `gateways` and had all that was there at the kill; sorted.
    ///
    /// # Errors
    /// Where one was told that something is missing: it cannot have caught up.
    pub(super) async fn come_back(self, gateways: &[SocketAddr]) -> Result<Vec<Duration>> {
        let killed = Instant::now();
        let group = self.reference.record(|record| record.groups().first().copied()).context("a group")?;
        let reached = self.reference.record(|record| record.position(group)).context("a position")?;
        let mut coming = JoinSet::new();
        for (number, mut client) in self.clients.into_iter().enumerate() {
            let mut gateways = gateways.to_vec();
            let places = gateways.len();
            gateways.rotate_left(number % places);
            coming.spawn(async move {
                client.wait_for_close(PATIENCE).await?;
                // As PROTOCOL.md asks of clients.
                let jitter = Duration::from_millis(rand::rng().random_range(0..1000));
                tokio::time::sleep(jitter).await;
                client.reconnect_to_any(&gateways, PATIENCE).await?;
                // A reset takes the position ahead, too.
                let here = |record: &Record| {
                    let was_reset = record.was_reset(group);
                    (was_reset || record.position(group) >= Some(reached)).then_some(!was_reset)
                };
                let caught_up = client.wait_until("what was missed", PATIENCE, here).await?;
                anyhow::Ok(caught_up.then(|| killed.elapsed()))
            });
        }
        let mut took = Vec::new();
        while let Some(back) = coming.join_next().await {
            took.push(back?.unwrap_or(Some(PATIENCE)).context("a client was told a reset instead of what it had missed")?);
        }
        took.sort();
        Ok(took)
    }
}
