//! What tests run against: a cluster of gateways and persisters over NATS and a database, or the
//! standalone process. Fresh for each test, gone with its value. NATS runs under the config that is
//! shipped, each service with an identity of its own.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    nats::{Identities, NatsServer},
    nats_cluster::NatsCluster,
    postgres::Postgres,
    process::{Folder, PATIENCE, Process, binary, command, free_port},
    proxy::Proxy,
    sql::Sql,
    token::{AUDIENCE, ISSUER, SECRET},
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

    /// Each process reaches NATS, and PostgreSQL, through a [`Proxy`] of its own ([`Node::nats`],
    /// [`Node::database`]).
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
        ("RUST_BACKTRACE", "1"),
    ];
    env.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// One of our processes and where it serves HTTP.
pub struct Node {
    /// The process.
    pub process: Process,
    /// Its HTTP.
    pub addr: SocketAddr,
    /// What it reaches NATS through, where the cluster is proxied.
    pub nats: Option<Proxy>,
    /// What it reaches PostgreSQL through, likewise.
    pub database: Option<Proxy>,
}

impl Node {
    /// One without proxies.
    pub fn new(process: Process, addr: SocketAddr) -> Self {
        Self { process, addr, nats: None, database: None }
    }

    /// Waits until `/readyz` says so.
    pub async fn wait_ready(&mut self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        let url = format!("http://{}/readyz", self.addr);
        let mut last = String::new();
        while Instant::now() < until {
            match reqwest::get(&url).await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => last = format!("{}: {}", answer.status(), answer.text().await.unwrap_or_default()),
                Err(error) => last = error.to_string(),
            }
            if !self.process.is_running() {
                bail!("ended while starting; its log:\n{}", self.process.log());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("not ready within {PATIENCE:?}: {last}; its log:\n{}", self.process.log())
    }

    /// What `/readyz` says now.
    pub async fn is_ready(&self) -> bool {
        self.status("/readyz").await == Some(200)
    }

    /// The status of a GET, if it is answered.
    pub async fn status(&self, path: &str) -> Option<u16> {
        let answer = reqwest::get(format!("http://{}{path}", self.addr)).await.ok()?;
        Some(answer.status().as_u16())
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
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
        Builder { gateways: 2, persisters: 1, store: Store::Sqlite, proxied: false, nats: Nats::Nodes(1), env: Vec::new() }
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

/// The standalone process.
pub struct Standalone {
    /// The process and its HTTP.
    pub node: Node,
    /// Its data folder.
    pub data: PathBuf,
    folder: Folder,
}

impl Standalone {
    /// Starts it with an empty data folder and waits until it is ready. It is told nothing but
    /// where to listen and to keep its data, and what `env` says.
    pub async fn start(env: &[(&str, &str)]) -> Result<Self> {
        Self::start_by(&binary("natter"), &[], env).await
    }

    /// The same, where it may open so many files, and at first fewer.
    pub async fn start_with_open_files(at_first: u32, most: u32, env: &[(&str, &str)]) -> Result<Self> {
        let script = format!("ulimit -Sn {at_first} && ulimit -Hn {most} && exec {}", binary("natter").display());
        Self::start_by(Path::new("/bin/sh"), &["-c", &script], env).await
    }

    /// The same, where what it prints goes to `path`.
    pub async fn start_with_stdout(path: &str) -> Result<Self> {
        let script = format!("exec {} > {path}", binary("natter").display());
        Self::start_by(Path::new("/bin/sh"), &["-c", &script], &[]).await
    }

    async fn start_by(program: &Path, args: &[&str], env: &[(&str, &str)]) -> Result<Self> {
        let folder = Folder::new()?;
        let data = folder.path().join("data");
        let addr = loopback(free_port());
        let mut all = standalone_env(addr, &data);
        all.extend(env.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())));
        let process = Process::start("natter", program, args, &all, folder.path())?;
        let mut standalone = Self { node: Node::new(process, addr), data, folder };
        standalone.node.wait_ready().await?;
        Ok(standalone)
    }

    /// Starts a second process, on `addr` or a free port, on this one's data or on fresh data.
    pub fn start_second(&self, addr: Option<SocketAddr>, same_data: bool) -> Result<Process> {
        let addr = addr.unwrap_or_else(|| loopback(free_port()));
        let data = if same_data { self.data.clone() } else { self.folder.path().join("second-data") };
        let env = standalone_env(addr, &data);
        Process::start("second", &binary("natter"), &[], &env, self.folder.path())
    }

    /// A connection to the projection.
    pub async fn sql(&self) -> Result<Sql> {
        let is_projection = |path: &PathBuf| path.extension().is_some_and(|end| end == "db" || end == "sqlite");
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(&self.data)?.filter_map(|entry| Some(entry.ok()?.path())).filter(is_projection).collect();
        files.sort();
        for file in files {
            let sql = Sql::connect(&format!("sqlite://{}", file.display())).await?;
            if sql.has_messages().await {
                return Ok(sql);
            }
        }
        bail!("no projection in {}", self.data.display())
    }
}

fn standalone_env(addr: SocketAddr, data: &std::path::Path) -> Vec<(String, String)> {
    vec![
        ("NATTER_HTTP__LISTEN".into(), addr.to_string()),
        ("NATTER_DATA_DIR".into(), data.display().to_string()),
        ("RUST_BACKTRACE".into(), "1".into()),
    ]
}
