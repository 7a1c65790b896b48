//! What a cluster is made of, said before it starts.

use anyhow::{Context, Result};

use super::{Cluster, Store};
use crate::{
    nats::{Identities, NatsServer},
    nats_cluster::NatsCluster,
    postgres::Postgres,
    process::Folder,
    token::{AUDIENCE, ISSUER, SECRET},
};

/// What a cluster is made of.
pub struct Builder {
    gateways: usize,
    persisters: usize,
    store: Store,
    proxied: bool,
    nats: Nats,
    env: Vec<(String, String)>,
}

/// What NATS is made of.
enum Nats {
    /// So many servers on loopback.
    Nodes(usize),
    /// So many, each behind a cable that can be pulled.
    Apart(usize),
    /// One that the test started, and whom it knows.
    Given(Box<NatsServer>, Identities),
}

impl Default for Builder {
    /// Two gateways, one persister, SQLite, one NATS server.
    fn default() -> Self {
        Self { gateways: 2, persisters: 1, store: Store::Sqlite, proxied: false, nats: Nats::Nodes(1), env: Vec::new() }
    }
}

impl Builder {
    /// So many gateways (2 unless told).
    #[must_use]
    pub fn gateways(mut self, count: usize) -> Self {
        self.gateways = count;
        self
    }

    /// So many persisters (1 unless told).
    #[must_use]
    pub fn persisters(mut self, count: usize) -> Self {
        self.persisters = count;
        self
    }

    /// Over this database (SQLite unless told).
    #[must_use]
    pub fn store(mut self, store: Store) -> Self {
        self.store = store;
        self
    }

    /// Each process reaches NATS, and PostgreSQL, through a proxy of its own, which its
    /// [`Node`](crate::node::Node) has.
    #[must_use]
    pub fn proxied(mut self) -> Self {
        self.proxied = true;
        self
    }

    /// Over a cluster of so many NATS servers, and each stream with as many copies (1 unless told).
    #[must_use]
    pub fn nats_nodes(mut self, count: usize) -> Self {
        self.nats = Nats::Nodes(count);
        self
    }

    /// Over so many NATS servers that can be cut off, with as many copies: for
    /// [`Self::start_if_allowed`].
    #[must_use]
    pub fn nats_apart(mut self, count: usize) -> Self {
        self.nats = Nats::Apart(count);
        self
    }

    /// With this variable for all processes.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Over this server, which knows these identities.
    #[must_use]
    pub fn nats(mut self, server: NatsServer, identities: Identities) -> Self {
        self.nats = Nats::Given(Box::new(server), identities);
        self
    }

    /// Starts everything and waits until all are ready.
    pub async fn start(self) -> Result<Cluster> {
        self.start_if_allowed().await?.context("cutting servers off needs root")
    }

    /// Like [`Self::start`]; nothing where cutting servers off is not allowed, and a line says so.
    pub async fn start_if_allowed(self) -> Result<Option<Cluster>> {
        let Some(mut cluster) = self.launch(false)? else { return Ok(None) };
        cluster.wait_ready().await?;
        Ok(Some(cluster))
    }

    /// Starts our processes while what they stand on, NATS and PostgreSQL, is still stopped.
    pub fn start_too_early(self) -> Result<Cluster> {
        self.launch(true)?.context("cutting servers off needs root")
    }

    fn launch(self, too_early: bool) -> Result<Option<Cluster>> {
        let folder = Folder::new()?;
        let (mut nats, identities, copies) = match self.nats {
            Nats::Nodes(count) => {
                let identities = Identities::random();
                (NatsCluster::start(&identities, count)?, identities, count)
            }
            Nats::Apart(count) => {
                let identities = Identities::random();
                match NatsCluster::start_apart(&identities, count)? {
                    Some(nats) => (nats, identities, count),
                    None => return Ok(None),
                }
            }
            Nats::Given(server, identities) => (NatsCluster::of(*server), identities, 1),
        };
        let (mut postgres, database_url) = match self.store {
            Store::Sqlite => (None, format!("sqlite://{}", folder.path().join("natter.db").display())),
            Store::Postgres | Store::SyncedPostgres => {
                let postgres = Postgres::start_with(self.store == Store::SyncedPostgres)?;
                let url = postgres.create_database()?;
                (Some(postgres), url)
            }
        };
        let mut env = common_env();
        env.push(("NATTER_NATS__REPLICAS".into(), copies.to_string()));
        env.extend(self.env);
        if too_early {
            nats.stop()?;
            postgres.as_mut().map_or(Ok(()), Postgres::stop)?;
        }
        let proxied = self.proxied;
        let mut cluster =
            Cluster { gateways: Vec::new(), persisters: Vec::new(), nats, identities, postgres, database_url, proxied, env, folder };
        for _ in 0..self.persisters {
            cluster.add_persister()?;
        }
        for _ in 0..self.gateways {
            cluster.add_gateway()?;
        }
        Ok(Some(cluster))
    }
}

/// What all our processes are told.
fn common_env() -> Vec<(String, String)> {
    let env = [
        ("NATTER_AUTH__SECRET", SECRET),
        ("NATTER_AUTH__ISSUER", ISSUER),
        ("NATTER_AUTH__AUDIENCE", AUDIENCE),
        ("NATTER_AUTH__DEV_LOGIN", "true"),
        ("NATTER_GROUPS__OPEN", "true"),
        // People here say more than anybody types.
        ("NATTER_LIMITS__GROUP_NOTIFICATIONS_PER_MINUTE", "1000000"),
        ("RUST_BACKTRACE", "1"),
    ];
    env.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}
