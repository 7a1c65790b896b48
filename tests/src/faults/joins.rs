//! Members join while somebody sends, and nothing is sent after it: what a join answered as live must
//! arrive, although no later message shows that something is missing. The second gateway's
//! subscriptions reach NATS late.

use std::{collections::HashSet, time::Duration};

use anyhow::{Context, Result};
use natter_shared::id::{MessageId, Nonce};
use rand::RngExt;
use tokio::{task::JoinSet, time::Instant};

use super::{links::nats_of, run::Run};
use crate::{
    checker::{Fact, Observation, Report, check},
    client::Client,
    cluster::Cluster,
    proxy::{Condition, Link, Select},
    record::Record,
    token::User,
};

/// What was accepted has to be here by then. Tail checks come each minute: they do not help.
const WITHIN: Duration = Duration::from_secs(10);

/// Messages in each group.
const MESSAGES: usize = 6;

/// A pair: who sends, and who joins meanwhile.
struct Pair {
    sender: Client,
    joiner: Client,
    attempted: Vec<MessageId>,
    accepted: Vec<Fact>,
}

pub(super) async fn run(cluster: &Cluster, run: &mut Run) -> Result<Report> {
    let link = Link::Delayed(Duration::from_millis(150));
    nats_of(&cluster.gateways[1])?.set(Select::named("subscribe"), Condition { up: link, ..Condition::default() });
    let mut pairs = JoinSet::new();
    for number in 0..run.rounds(40, 150, 500) {
        let (one, other) = (cluster.gateway(0), cluster.gateway(1));
        let (start, wait) = (Duration::from_millis(run.dice.random_range(0..4000)), Duration::from_millis(run.dice.random_range(0..80)));
        pairs.spawn(async move {
            let mut sender = Client::connect(one, &User::named(&format!("sender-{number}"))).await?;
            let mut joiner = Client::connect(other, &User::named(&format!("joiner-{number}"))).await?;
            (sender.insist_for, joiner.insist_for) = (WITHIN, WITHIN);
            let name = format!("quiet-{number}");
            let group = sender.join(&name).await?;
            tokio::time::sleep(start).await;
            let (mut attempted, mut accepted) = (Vec::new(), Vec::new());
            let sending = async {
                for number in 0..MESSAGES {
                    let nonce = Nonce::now();
                    attempted.push(sender.message_id(nonce));
                    accepted.push(sender.send_as(nonce, &group.to_string(), &number.to_string()).await?);
                    tokio::time::sleep(Duration::from_millis(25)).await;
                }
                anyhow::Ok(())
            };
            let joining = async {
                tokio::time::sleep(wait).await;
                anyhow::Ok(joiner.join(&name).await?)
            };
            let both = tokio::join!(sending, joining);
            both.0.context("sending")?;
            both.1.context("joining")?;
            anyhow::Ok(Pair { sender, joiner, attempted, accepted })
        });
    }
    let mut all = Vec::new();
    while let Some(pair) = pairs.join_next().await {
        all.push(pair??);
    }
    let mut seen = Observation::default();
    let until = Instant::now() + WITHIN;
    for Pair { sender, joiner, attempted, accepted } in &all {
        for client in [sender, joiner] {
            let Some(last) = accepted.last() else { continue };
            let here = |record: &Record| (record.position(last.group) >= Some(last.position)).then_some(());
            let _ = client.wait_until("the last message", until.saturating_duration_since(Instant::now()), here).await;
            seen.clients.push((client.user.handle.clone(), client.take_entries()));
        }
        seen.attempted.extend(attempted);
        seen.accepted.extend(accepted);
        seen.sent.push((sender.user.handle.clone(), accepted.clone()));
    }
    let sql = cluster.sql().await?;
    let groups: HashSet<_> = seen.accepted.iter().map(|fact| fact.group).collect();
    loop {
        seen.rows = sql.messages().await?;
        seen.rows.retain(|row| groups.contains(&row.group));
        if seen.rows.len() >= seen.accepted.len() || Instant::now() > until {
            return Ok(check(&seen));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
