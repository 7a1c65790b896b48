//! NATS as a cluster of real servers, each of which can be killed, restarted, paused, or, as root, cut
//! off from all others. One server is a cluster too. They run under deploy/nats.conf, with its
//! identities, and with one more, the operator's, which moves leaders.

use std::{
    ffi::OsString,
    io,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    leaders::LeaderWatch,
    nats::{Identities, Identity, Launch, NatsServer, shipped_config},
    partition::Network,
    process::free_port,
};

/// How long a cluster may take until every stream has its leader and all its copies.
const HEALTHY_WITHIN: Duration = Duration::from_mins(1);

/// Servers of one cluster; gone with this value.
pub struct NatsCluster {
    nodes: Vec<NatsServer>,
    /// Who may do anything with the streams; none in front of a single server.
    operator: Identity,
    network: Option<Network>,
}

impl NatsCluster {
    /// `count` servers, on loopback; with one, there are no routes.
    pub fn start(identities: &Identities, count: usize) -> Result<Self> {
        Self::launch(identities, count, None)
    }

    /// `count` servers, each behind a cable of its own that [`Self::cut`] pulls. Needs root: else
    /// nothing, and a line says so.
    pub fn start_apart(identities: &Identities, count: usize) -> Result<Option<Self>> {
        match Network::new(count)? {
            Some(network) => Self::launch(identities, count, Some(network)).map(Some),
            None => Ok(None),
        }
    }

    fn launch(identities: &Identities, count: usize, network: Option<Network>) -> Result<Self> {
        let operator = Identity::random();
        if count == 1 && network.is_none() {
            return Ok(Self { nodes: vec![NatsServer::start_shipped(identities.env(), &[])?], operator, network });
        }
        let mut env = identities.env();
        env.push(("NATTER_NKEY_OPERATOR".to_owned(), operator.public.clone()));
        let places: Vec<_> = (0..count).map(|index| Place::new(index, network.as_ref())).collect();
        let routes = places.iter().map(|place| format!("nats://{}", place.route)).collect::<Vec<_>>().join(",");
        let nodes: Vec<_> = places.into_iter().map(|place| place.start(&routes, env.clone())).collect::<Result<_>>()?;
        let cluster = Self { nodes, operator, network };
        cluster.wait_for("a leader of all", |cluster| {
            let meta = cluster.nodes.iter().filter_map(|node| node.tells("/jsz").map(|told| told["meta_cluster"].clone()));
            meta.filter(|meta| meta["leader"].is_string() && meta["cluster_size"] == count).count() == count
        })?;
        Ok(cluster)
    }

    /// The one server that a test started by itself.
    pub fn of(server: NatsServer) -> Self {
        Self { nodes: vec![server], operator: Identity::random(), network: None }
    }

    /// How many servers.
    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// Server `index`.
    pub fn node(&self, index: usize) -> &NatsServer {
        &self.nodes[index]
    }

    /// Server `index`, to kill, stop or restart.
    pub fn node_mut(&mut self, index: usize) -> &mut NatsServer {
        &mut self.nodes[index]
    }

    /// Where clients connect: all servers, comma-separated.
    pub fn client_url(&self) -> String {
        self.nodes.iter().map(NatsServer::client_url).collect::<Vec<_>>().join(",")
    }

    /// Ends all without warning.
    pub fn kill(&mut self) -> io::Result<()> {
        self.nodes.iter_mut().try_for_each(NatsServer::kill)
    }

    /// Ends all as an operator does.
    pub fn stop(&mut self) -> io::Result<()> {
        self.nodes.iter_mut().try_for_each(NatsServer::stop)
    }

    /// Starts all again on their ports and stores, ending them first.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill()?;
        self.nodes.iter_mut().try_for_each(NatsServer::restart)
    }

    /// All lose their stores, ended first.
    pub fn wipe(&mut self) -> io::Result<()> {
        self.kill()?;
        self.nodes.iter_mut().try_for_each(NatsServer::wipe)
    }

    /// Pulls server `index`'s cable: what is sent to it or by it is lost without a word.
    pub fn cut(&self, index: usize) -> Result<()> {
        self.network.as_ref().context("started apart")?.cut(index)
    }

    /// Puts the cable of server `index` back.
    pub fn heal(&self, index: usize) -> Result<()> {
        self.network.as_ref().context("started apart")?.heal(index)
    }

    /// The streams and who leads each, as `node` knows it.
    fn streams(node: &NatsServer) -> Option<Vec<Value>> {
        let told = node.tells("/jsz?accounts=true&streams=true&config=true")?;
        let accounts = told["account_details"].as_array()?;
        Some(accounts.iter().filter_map(|account| account["stream_detail"].as_array()).flatten().cloned().collect())
    }

    /// The names of the streams.
    pub fn stream_names(&self) -> Vec<String> {
        let all = self.nodes.iter().filter_map(Self::streams).flatten();
        let mut names: Vec<_> = all.filter_map(|stream| stream["name"].as_str().map(str::to_owned)).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Which server leads `stream`, as more than half of them know it.
    pub fn leader_of(&self, stream: &str) -> Option<usize> {
        let mut votes = vec![0; self.nodes.len()];
        for node in &self.nodes {
            let all = Self::streams(node).unwrap_or_default();
            let leader = all.iter().find(|one| one["name"] == stream).and_then(|one| one["cluster"]["leader"].as_str());
            if let Some(index) = leader.and_then(index_of)
                && let Some(votes) = votes.get_mut(index)
            {
                *votes += 1;
            }
        }
        votes.iter().position(|votes| votes * 2 > self.nodes.len())
    }

    /// Waits until `stream` has a leader.
    pub async fn wait_leader_of(&self, stream: &str) -> Result<usize> {
        let until = Instant::now() + HEALTHY_WITHIN;
        while Instant::now() < until {
            if let Some(index) = self.leader_of(stream) {
                return Ok(index);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("nobody leads {stream}")
    }

    /// The streams that server `index` leads.
    pub fn led_by(&self, index: usize) -> Vec<String> {
        let mut names = self.stream_names();
        names.retain(|name| self.leader_of(name) == Some(index));
        names
    }

    /// Waits until each of `streams` is led by another server than `lost`, as all but that one know it.
    pub async fn wait_led_without(&self, lost: usize, streams: &[String]) -> Result<()> {
        let others = || self.nodes.iter().enumerate().filter(|(index, _)| *index != lost).map(|(_, node)| node);
        let until = Instant::now() + HEALTHY_WITHIN;
        while Instant::now() < until {
            let is_led = others().all(|node| {
                let all = Self::streams(node).unwrap_or_default();
                let leader = |name: &String| all.iter().find(|one| one["name"] == **name)?["cluster"]["leader"].as_str().and_then(index_of);
                streams.iter().all(|name| leader(name).is_some_and(|leader| leader != lost))
            });
            if is_led {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("nobody leads what {} led", name_of(lost))
    }

    /// Begins to watch how long streams are without a leader.
    pub fn watch_leaders(&self) -> LeaderWatch {
        let servers = self.nodes.iter().enumerate().filter_map(|(index, node)| Some((name_of(index), node.monitor()?)));
        LeaderWatch::begin(servers.collect())
    }

    /// A connection of the operator, who may do anything.
    pub async fn operator(&self) -> Result<async_nats::Client> {
        let options = async_nats::ConnectOptions::with_nkey(self.operator.seed.clone());
        let servers: Vec<async_nats::ServerAddr> =
            self.nodes.iter().map(|node| node.client_url().parse()).collect::<std::result::Result<_, _>>()?;
        Ok(options.connect(servers).await?)
    }

    /// The leader of `stream` hands over to another server.
    pub async fn step_down(&self, stream: &str) -> Result<()> {
        let before = self.wait_leader_of(stream).await?;
        let subject = format!("$JS.API.STREAM.LEADER.STEPDOWN.{stream}");
        let answer = self.operator().await?.request(subject, "".into()).await?;
        let answer: Value = serde_json::from_slice(&answer.payload)?;
        ensure!(answer["success"] == true, "{answer}");
        let until = Instant::now() + HEALTHY_WITHIN;
        while Instant::now() < until {
            if self.leader_of(stream).is_some_and(|now| now != before) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("{stream} is still led by {before}")
    }

    /// Waits until every server runs and every stream has its leader and all copies up to date.
    pub async fn wait_healthy(&self) -> Result<()> {
        let until = Instant::now() + HEALTHY_WITHIN;
        while Instant::now() < until {
            if self.is_healthy() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("not healthy within {HEALTHY_WITHIN:?}")
    }

    /// Every server runs, and every stream has its leader and all copies up to date.
    pub fn is_healthy(&self) -> bool {
        let count = self.nodes.len();
        let is_whole = |stream: &Value| {
            let replicas = stream["cluster"]["replicas"].as_array().map(Vec::as_slice).unwrap_or_default();
            let wanted = stream["config"]["num_replicas"].as_u64().unwrap_or(1);
            let current = replicas.iter().filter(|replica| replica["current"] == true && replica["offline"] != true).count() as u64;
            stream["cluster"]["leader"].is_string() && current + 1 == wanted
        };
        let healthy = self.nodes.iter().filter(|node| node.tells("/healthz").is_some_and(|told| told["status"] == "ok")).count();
        if count == 1 {
            return healthy == 1;
        }
        // Only a stream's leader knows how its copies stand.
        let names = self.stream_names();
        healthy == count
            && names.iter().all(|name| {
                let told = self.leader_of(name).and_then(|leader| Self::streams(&self.nodes[leader])).unwrap_or_default();
                told.iter().any(|stream| stream["name"] == **name && is_whole(stream))
            })
    }

    fn wait_for(&self, what: &str, is: impl Fn(&Self) -> bool) -> Result<()> {
        let until = Instant::now() + HEALTHY_WITHIN;
        while !is(self) {
            if Instant::now() > until {
                let logs: Vec<_> = self.nodes.iter().map(NatsServer::log).collect();
                bail!("no {what} within {HEALTHY_WITHIN:?}:\n{}", logs.join("\n----\n"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

fn name_of(index: usize) -> String {
    format!("natter-{}", index + 1)
}

fn index_of(name: &str) -> Option<usize> {
    name.strip_prefix("natter-")?.parse::<usize>().ok()?.checked_sub(1)
}

/// Where one server listens.
struct Place {
    name: String,
    client: SocketAddr,
    route: SocketAddr,
    monitor: SocketAddr,
    within: Vec<OsString>,
}

impl Place {
    fn new(index: usize, network: Option<&Network>) -> Self {
        let (ip, within) = match network {
            Some(network) => (network.address(index), network.within(index)),
            None => (Ipv4Addr::LOCALHOST, Vec::new()),
        };
        // Free here; a place apart has all of its ports free.
        let port = || SocketAddr::from((ip, free_port()));
        Self { name: name_of(index), client: port(), route: port(), monitor: port(), within }
    }

    fn start(self, routes: &str, mut env: Vec<(String, String)>) -> Result<NatsServer> {
        let Self { name, client, route, monitor, within } = self;
        let directory = tempfile::Builder::new().prefix("natter-nats-").tempdir()?;
        let shipped = std::fs::read_to_string(shipped_config())?;
        let users = "        users: [\n";
        let config = shipped
            .replacen(users, &format!("{users}            {{ nkey: $NATTER_NKEY_OPERATOR }}\n"), 1)
            .replace("http: \"127.0.0.1:8222\"", &format!("http: \"{monitor}\""));
        ensure!(config.contains("OPERATOR") && config.contains(&monitor.to_string()), "deploy/nats.conf is another than it was");
        let path = directory.path().join("nats.conf");
        std::fs::write(&path, config)?;
        env.push(("NATTER_NATS_STORE".to_owned(), directory.path().join("store").display().to_string()));
        let (ip, port, route) = (client.ip().to_string(), client.port().to_string(), format!("nats://{route}"));
        let args = ["--name", &name, "-a", &ip, "-p", &port, "--cluster_name", "natter", "--cluster", &route, "--routes", routes];
        let args = [OsString::from("-c"), path.into()].into_iter().chain(args.into_iter().map(OsString::from)).collect();
        Ok(NatsServer::run(Launch { directory, address: client, monitor: Some(monitor), within, args, env })?)
    }
}
