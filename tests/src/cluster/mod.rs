//! A cluster of gateways and persisters over NATS and a database, fresh for each test, gone with its
//! value. NATS runs under the config that is shipped, each service with an identity of its own.

mod builder;

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result};

pub use self::builder::Builder;
use crate::{
    nats::Identities,
    nats_cluster::NatsCluster,
    node::{Node, loopback},
    postgres::Postgres,
    process::{Folder, Process, binary, command, free_port},
    proxy::Proxy,
    sql::Sql,
};

/// Which database holds the projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// A file.
    Sqlite,
    /// A private PostgreSQL, without syncs.
    Postgres,
    /// A private PostgreSQL that syncs as where it is deployed: for measurements.
    SyncedPostgres,
}

/// A running cluster. Processes end before what they stand on.
pub struct Cluster {
    /// In the order they were started.
    pub gateways: Vec<Node>,
    /// In the order they were started.
    pub persisters: Vec<Node>,
    /// The broker.
    pub nats: NatsCluster,
    /// Whom the broker knows.
    pub identities: Identities,
    /// The database, where it is PostgreSQL.
    pub postgres: Option<Postgres>,
    /// Where the projection is.
    pub database_url: String,
    proxied: bool,
    env: Vec<(String, String)>,
    folder: Folder,
}

impl Cluster {
    /// Describes a cluster: two gateways, one persister, SQLite.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Starts one more gateway.
    pub fn add_gateway(&mut self) -> Result<()> {
        self.add_gateway_with(&[])
    }

    /// Starts one more gateway, and tells it alone what `more` says.
    pub fn add_gateway_with(&mut self, more: &[(&str, &str)]) -> Result<()> {
        let addr = loopback(free_port());
        let mut env = self.env.clone();
        env.extend(more.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())));
        env.push(("NATTER_HTTP__LISTEN".into(), addr.to_string()));
        env.push(("NATTER_NATS__NKEY_SEED".into(), self.identities.gateway.seed.clone()));
        let nats = self.through_proxy(&mut env)?;
        let name = format!("gateway-{}", self.gateways.len());
        let process = Process::start(&name, &binary("natter-gateway"), &[], &env, self.folder.path())?;
        self.gateways.push(Node { process, addr, nats, database: None });
        Ok(())
    }

    /// Starts one more persister.
    pub fn add_persister(&mut self) -> Result<()> {
        let addr = loopback(free_port());
        let mut env = self.env.clone();
        let nats = self.through_proxy(&mut env)?;
        let database = self.postgres.as_ref().filter(|_| self.proxied).map(|postgres| Proxy::start(postgres.address())).transpose()?;
        let database_url = match (&database, &self.postgres) {
            (Some(proxy), Some(postgres)) => self.database_url.replace(&postgres.address().to_string(), &proxy.address().to_string()),
            _ => self.database_url.clone(),
        };
        env.push(("NATTER_DATABASE__URL".into(), database_url));
        env.push(("NATTER_NATS__NKEY_SEED".into(), self.identities.persister.seed.clone()));
        env.push(("NATTER_PERSISTER__HTTP_LISTEN".into(), addr.to_string()));
        let name = format!("persister-{}", self.persisters.len());
        let process = Process::start(&name, &binary("natter-persister"), &["run"], &env, self.folder.path())?;
        self.persisters.push(Node { process, addr, nats, database });
        Ok(())
    }

    /// Says where NATS is: behind a new proxy to its first server, where the cluster is proxied.
    fn through_proxy(&self, env: &mut Vec<(String, String)>) -> Result<Option<Proxy>> {
        let proxy = self.proxied.then(|| Proxy::start(self.nats.node(0).address())).transpose()?;
        let url = proxy.as_ref().map_or_else(|| self.nats.client_url(), Proxy::nats_url);
        // What the test says goes before.
        env.insert(0, ("NATTER_NATS__URL".into(), url));
        Ok(proxy)
    }

    /// Waits until all are ready.
    pub async fn wait_ready(&mut self) -> Result<()> {
        for node in self.persisters.iter_mut().chain(&mut self.gateways) {
            node.wait_ready().await?;
        }
        Ok(())
    }

    /// Where gateway `index` serves.
    pub fn gateway(&self, index: usize) -> SocketAddr {
        self.gateways[index].addr
    }

    /// Where the gateways serve.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.gateways.iter().map(|node| node.addr).collect()
    }

    /// A connection to the projection.
    pub async fn sql(&self) -> Result<Sql> {
        Sql::connect(&self.database_url).await
    }

    /// A fresh key of the server API, made as an operator does.
    pub fn api_key(&self, name: &str) -> Result<String> {
        let said = self.apikey(&["create", "--name", name])?;
        let key = said.split_whitespace().find(|word| word.starts_with("ntr_"));
        key.map(str::to_owned).with_context(|| format!("no key in {said:?}"))
    }

    /// Revokes the keys of this name, as an operator does.
    pub fn revoke_api_keys(&self, name: &str) -> Result<()> {
        let listed: Vec<serde_json::Value> = serde_json::from_str(&self.apikey(&["list", "--json"])?)?;
        for key in listed.iter().filter(|key| key["name"] == name) {
            self.apikey(&["revoke", key["id"].as_str().context("an id")?])?;
        }
        Ok(())
    }

    /// Lets the persisters start anew on another, empty database.
    pub fn move_database(&mut self, url: &str) -> Result<()> {
        url.clone_into(&mut self.database_url);
        self.env.push(("NATTER_PERSISTER__WITHOUT_HISTORY".into(), "true".into()));
        let count = self.persisters.len();
        for mut persister in std::mem::take(&mut self.persisters) {
            persister.process.kill()?;
        }
        (0..count).try_for_each(|_| self.add_persister())
    }

    /// Leaves logs and data where they are when this goes; nothing can be started any more.
    pub fn keep_logs(&mut self) -> Option<PathBuf> {
        let folder = self.folder.keep()?;
        for index in 0..self.nats.count() {
            // Without it there is less to read, and nothing else.
            let _ = std::fs::write(folder.join(format!("nats-{index}.log")), self.nats.node(index).log());
        }
        Some(folder)
    }

    fn apikey(&self, args: &[&str]) -> Result<String> {
        let mut apikey = command(&binary("natter-persister"));
        apikey.arg("apikey").args(args).envs(self.env.iter().map(|(key, value)| (key, value)));
        let output = apikey.env("NATTER_DATABASE__URL", &self.database_url).current_dir(self.folder.path()).output()?;
        anyhow::ensure!(output.status.success(), "apikey {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }
}
