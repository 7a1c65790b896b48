//! A real NATS server with JetStream on a port and store of its own, which can be killed, restarted
//! and wiped. Dropping it kills it and removes its store. It runs under a plain config, or under the
//! one that is shipped, deploy/nats.conf, as it is.

use std::{
    ffi::OsString,
    io::{self, BufRead as _, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::process::{free_port, send_signal};

/// How long it may take to answer.
const START_WITHIN: Duration = Duration::from_secs(20);

/// How a server is run.
#[derive(Debug, Clone, Default)]
pub struct NatsConfig {
    /// Sync every write before it is acknowledged, as production does; slower.
    pub sync_always: bool,
    /// Lines of nats-server's config to add, for instance accounts.
    pub extra: String,
}

/// The identity of a service: an NKey.
#[derive(Debug, Clone)]
pub struct Identity {
    /// What the service keeps to itself.
    pub seed: String,
    /// What the server knows it by.
    pub public: String,
}

impl Identity {
    /// A new one.
    pub fn random() -> Self {
        let pair = nkeys::KeyPair::new_user();
        Self { seed: pair.seed().expect("a new pair has a seed"), public: pair.public_key() }
    }
}

/// All that deploy/nats.conf knows.
#[derive(Debug, Clone)]
pub struct Identities {
    /// Of gateways.
    pub gateway: Identity,
    /// Of persisters.
    pub persister: Identity,
    /// Of who watches the server.
    pub monitor: Identity,
}

impl Identities {
    /// New ones.
    pub fn random() -> Self {
        Self { gateway: Identity::random(), persister: Identity::random(), monitor: Identity::random() }
    }

    /// The variables that the config takes them from.
    pub fn env(&self) -> Vec<(String, String)> {
        let of = |name: &str, identity: &Identity| (format!("NATTER_NKEY_{name}"), identity.public.clone());
        vec![of("GATEWAY", &self.gateway), of("PERSISTER", &self.persister), of("MONITOR", &self.monitor)]
    }
}

/// The config that is shipped.
pub fn shipped_config() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/nats.conf")
}

/// How a server's process is started, each time.
pub(crate) struct Launch {
    /// Its config, store and log.
    pub(crate) directory: TempDir,
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    /// Where it tells of itself, by HTTP.
    pub(crate) monitor: Option<SocketAddr>,
    /// What its command line begins with, if not with its binary.
    pub(crate) within: Vec<OsString>,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(String, String)>,
}

/// A running (or killed) server.
pub struct NatsServer {
    launch: Launch,
    child: Option<Child>,
}

impl NatsServer {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// Without a binary, or when it does not come up.
    pub fn start(config: &NatsConfig) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("natter-nats-").tempdir()?;
        let port = free_port();
        let sync = if config.sync_always { "sync_interval: always" } else { "" };
        let store = directory.path().join("store").display().to_string();
        let text = format!(
            "listen: \"127.0.0.1:{port}\"\nserver_name: \"natter-test-{port}\"\n\
             jetstream {{ store_dir: {store:?}, max_file_store: 20GB, max_memory_store: 1GB, {sync} }}\n{}\n",
            config.extra
        );
        let path = directory.path().join("nats.conf");
        std::fs::write(&path, text)?;
        let args = vec!["-c".into(), path.into()];
        let address = (Ipv4Addr::LOCALHOST, port).into();
        Self::run(Launch { directory, address, monitor: None, within: Vec::new(), args, env: Vec::new() })
    }

    /// Starts one under deploy/nats.conf, told only where to listen and to store, with the variables
    /// that the file asks for; and with `more` options.
    ///
    /// # Errors
    /// Without a binary, or when it does not come up.
    pub fn start_shipped(env: Vec<(String, String)>, more: &[&str]) -> io::Result<Self> {
        Self::start_under(&shipped_config(), env, more)
    }

    /// Likewise, under a config that was made of the shipped one.
    ///
    /// # Errors
    /// Without a binary, or when it does not come up.
    pub fn start_under(config: &Path, mut env: Vec<(String, String)>, more: &[&str]) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("natter-nats-").tempdir()?;
        let (port, monitoring) = (free_port(), free_port());
        let mut args: Vec<OsString> = vec!["-c".into(), config.into(), "-a".into(), "127.0.0.1".into()];
        args.extend(["-p".into(), port.to_string().into(), "-m".into(), monitoring.to_string().into()]);
        args.extend(more.iter().map(Into::into));
        env.push(("NATTER_NATS_STORE".to_owned(), directory.path().join("store").display().to_string()));
        let [address, monitor] = [port, monitoring].map(|port| (Ipv4Addr::LOCALHOST, port).into());
        Self::run(Launch { directory, address, monitor: Some(monitor), within: Vec::new(), args, env })
    }

    pub(crate) fn run(launch: Launch) -> io::Result<Self> {
        let mut server = Self { launch, child: None };
        server.restart()?;
        Ok(server)
    }

    /// Where clients connect.
    pub fn client_url(&self) -> String {
        format!("nats://{}", self.launch.address)
    }

    /// Where clients connect, for a proxy in between.
    pub fn address(&self) -> SocketAddr {
        self.launch.address
    }

    /// Where it tells of itself, if it does.
    pub fn monitor(&self) -> Option<SocketAddr> {
        self.launch.monitor
    }

    /// What it tells of itself at `path`, for instance `/jsz?streams=true`; nothing while it does not.
    pub fn tells(&self, path: &str) -> Option<serde_json::Value> {
        monitor(self.launch.monitor?, path)
    }

    /// Where its store is.
    pub fn store(&self) -> PathBuf {
        self.launch.directory.path().join("store")
    }

    /// The process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// What it has written to its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.launch.directory.path().join("nats.log")
    }

    /// Ends it without warning (SIGKILL).
    pub fn kill(&mut self) -> io::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill()?;
        child.wait().map(drop)
    }

    /// Ends it as an operator does (SIGTERM).
    pub fn stop(&mut self) -> io::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        send_signal(child.id(), libc::SIGTERM)?;
        child.wait().map(drop)
    }

    /// Stops it in its tracks (SIGSTOP): its connections stay open, and nothing is answered.
    pub fn pause(&self) -> io::Result<()> {
        send_signal(self.running()?, libc::SIGSTOP)
    }

    /// Lets it go on after [`Self::pause`].
    pub fn go_on(&self) -> io::Result<()> {
        send_signal(self.running()?, libc::SIGCONT)
    }

    fn running(&self) -> io::Result<u32> {
        self.pid().ok_or_else(|| io::Error::other("the server does not run"))
    }

    /// Starts it on the same port and store, ending it first if it runs.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill()?;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let mut line = self.launch.within.clone();
        line.push(binary()?.into());
        let child = Command::new(&line[0])
            .args(&line[1..])
            .args(&self.launch.args)
            .envs(self.launch.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        self.wait_ready()
    }

    /// Loses the store, ending the server first if it runs; [`Self::restart`] starts it empty.
    pub fn wipe(&mut self) -> io::Result<()> {
        self.kill()?;
        std::fs::remove_dir_all(self.launch.directory.path().join("store"))
    }

    fn wait_ready(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + START_WITHIN;
        loop {
            if let Some(status) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
                return Err(io::Error::other(format!("nats-server ended with {status}:\n{}", self.log())));
            }
            match self.greeting() {
                Ok(true) => return Ok(()),
                Ok(false) | Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                Ok(false) | Err(_) => {
                    return Err(io::Error::other(format!("nats-server does not answer:\n{}", self.log())));
                }
            }
        }
    }

    fn greeting(&self) -> io::Result<bool> {
        Ok(self.info()?.starts_with("INFO"))
    }

    /// What it says of itself to whoever connects.
    ///
    /// # Errors
    /// It does not answer.
    pub fn info(&self) -> io::Result<String> {
        let stream = TcpStream::connect_timeout(&self.address(), Duration::from_millis(200))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        let mut line = String::new();
        io::BufReader::new(stream).read_line(&mut line)?;
        Ok(line)
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        // Nothing to be done about a failure here.
        let _ = self.kill();
    }
}

/// What the server with this monitor tells of itself; nothing while it does not.
pub(crate) fn monitor(address: SocketAddr, path: &str) -> Option<serde_json::Value> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(500)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    serde_json::from_str(body).ok()
}

/// The server's binary: `NATTER_TEST_NATS_SERVER`, else the workspace's cache, else the path's.
pub fn binary() -> io::Result<PathBuf> {
    if let Some(named) = std::env::var_os("NATTER_TEST_NATS_SERVER") {
        return Ok(named.into());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let cached = root.join(".cache/nats/bin/nats-server");
    if cached.exists() {
        return Ok(cached);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join("nats-server"))
        .find(|candidate| candidate.exists())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no nats-server: set NATTER_TEST_NATS_SERVER"))
}
