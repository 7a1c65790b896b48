//! A PostgreSQL of our own: a fresh cluster in a temporary directory on a free loopback port,
//! which can be stopped, killed and started again, and is gone with its owner.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;

use crate::process::{free_port, send_signal};

/// How long the server may take to answer, or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running PostgreSQL server with its own cluster.
#[derive(Debug)]
pub struct Postgres {
    binaries: PathBuf,
    directory: TempDir,
    port: u16,
    fsync: bool,
    /// Unset, everybody is trusted.
    password: Option<String>,
    /// Uid and gid to run as; the server refuses to run as root.
    user: Option<(u32, u32)>,
    server: Option<Child>,
    databases: AtomicU32,
}

impl Postgres {
    /// Makes a cluster and starts it, without syncs.
    pub fn start() -> anyhow::Result<Self> {
        Self::make(false, None)
    }

    /// Likewise, and whoever connects has to know the password, as where it is deployed.
    pub fn start_with_password(password: &str) -> anyhow::Result<Self> {
        Self::make(false, Some(password.to_owned()))
    }

    /// Makes a cluster and starts it. Without `fsync` it is faster, and does not survive a loss of
    /// power (it does survive [`Postgres::kill`]).
    pub fn start_with(fsync: bool) -> anyhow::Result<Self> {
        Self::make(fsync, None)
    }

    fn make(fsync: bool, password: Option<String>) -> anyhow::Result<Self> {
        let binaries = find_binaries().context("no PostgreSQL found: set NATTER_TEST_PG_BIN to the directory of initdb and postgres")?;
        let directory = tempfile::Builder::new().prefix("natter-pg-").tempdir()?;
        let user = unprivileged_user()?;
        if let Some((uid, gid)) = user {
            chown(directory.path(), Some(uid), Some(gid))?;
        }
        let mut postgres =
            Self { binaries, directory, port: free_port(), fsync, password, user, server: None, databases: AtomicU32::new(0) };
        let data = postgres.data();
        let mut initdb = postgres.command("initdb");
        initdb.args(["--username=natter", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "-D"]).arg(&data);
        match &postgres.password {
            None => drop(initdb.arg("--auth=trust")),
            Some(password) => {
                let file = postgres.directory.path().join("password");
                fs::write(&file, password)?;
                if let Some((uid, gid)) = user {
                    chown(&file, Some(uid), Some(gid))?;
                }
                initdb.args(["--auth=scram-sha-256", "--pwfile"]).arg(file);
            }
        }
        run(initdb)?;
        postgres.start_again()?;
        Ok(postgres)
    }

    /// The URL of the database that is always there.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// Where it listens, for a proxy in between.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The process that all others are children of, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Child::id)
    }

    /// Makes an empty database and returns its URL.
    pub fn create_database(&self) -> anyhow::Result<String> {
        let name = format!("natter_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut createdb = self.command("createdb");
        createdb.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "natter", &name]);
        createdb.envs(self.password.as_ref().map(|password| ("PGPASSWORD", password)));
        run(createdb)?;
        Ok(self.url_of(&name))
    }

    /// Starts the server, if it does not run, and waits until it answers.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.server.is_none() {
                self.server = Some(self.spawn()?);
            }
            if self.answers()? {
                return Ok(());
            }
            // After a kill its children may still hold the shared memory: then it ends, and is
            // started again.
            if let Some(status) = self.server.as_mut().map(Child::try_wait).transpose()?.flatten() {
                self.server = None;
                ensure!(Instant::now() < deadline, "PostgreSQL ends with {status}: {}", self.log());
            }
            ensure!(Instant::now() < deadline, "PostgreSQL does not answer: {}", self.log());
            pause(Duration::from_millis(50));
        }
    }

    /// Shuts the server down; open connections are cut.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.end(libc::SIGINT)
    }

    /// Kills the server as a crash would.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.end(libc::SIGKILL)
    }

    fn end(&mut self, signal: libc::c_int) -> anyhow::Result<()> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        let sent = send_signal(server.id(), signal);
        let deadline = Instant::now() + PATIENCE;
        while sent.is_ok() && Instant::now() < deadline {
            if server.try_wait()?.is_some() {
                return Ok(());
            }
            pause(Duration::from_millis(20));
        }
        server.kill()?;
        server.wait()?;
        Ok(())
    }

    fn spawn(&self) -> anyhow::Result<Child> {
        let log = fs::File::options().create(true).append(true).open(self.log_path())?;
        let onoff = if self.fsync { "on" } else { "off" };
        let mut command = self.command("postgres");
        command
            .arg("-D")
            .arg(self.data())
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-k"])
            .arg(self.directory.path())
            .args(["-c", "max_connections=200", "-c", "shared_buffers=256MB", "-c", "max_wal_size=4GB"])
            .args(["-c", &format!("fsync={onoff}"), "-c", &format!("full_page_writes={onoff}")])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        command.spawn().context("postgres")
    }

    fn answers(&self) -> anyhow::Result<bool> {
        let mut command = self.command("pg_isready");
        command.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string(), "-d", "postgres", "-U", "natter"]);
        Ok(command.status()?.success())
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.binaries.join(name));
        command.current_dir("/").env_remove("PGDATA").env_remove("PGHOST").env_remove("PGPORT");
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("server.log")
    }

    fn log(&self) -> String {
        let log = fs::read_to_string(self.log_path()).unwrap_or_default();
        log.lines().rev().take(10).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    fn url_of(&self, database: &str) -> String {
        let password = self.password.as_ref().map(|password| format!(":{password}")).unwrap_or_default();
        format!("postgres://natter{password}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The directory goes with it: there is nothing to save.
        let _ = self.end(libc::SIGINT);
    }
}

/// Where the binaries are: by the environment, `PATH`, or where Debian keeps them.
fn find_binaries() -> Option<PathBuf> {
    let has_both = |directory: &Path| directory.join("initdb").is_file() && directory.join("postgres").is_file();
    if let Some(directory) = std::env::var_os("NATTER_TEST_PG_BIN").map(PathBuf::from) {
        return Some(directory).filter(|directory| has_both(directory));
    }
    let configured = Command::new("pg_config").arg("--bindir").output().ok().map(|output| output.stdout);
    let configured = configured.and_then(|path| String::from_utf8(path).ok()).map(|path| PathBuf::from(path.trim()));
    let mut installed: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    installed.sort();
    let newest_first = installed.into_iter().rev().map(|(_, path)| path);
    configured.into_iter().chain(newest_first).find(|directory| has_both(directory))
}

/// Who to run as where we are root: the user of Debian's package, else `nobody`.
fn unprivileged_user() -> anyhow::Result<Option<(u32, u32)>> {
    let id = |args: &[&str]| -> io::Result<Option<u32>> {
        let output = Command::new("id").args(args).stderr(Stdio::null()).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().parse().ok())
    };
    if id(&["-u"])? != Some(0) {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let (Some(uid), Some(gid)) = (id(&["-u", name])?, id(&["-g", name])?) {
            return Ok(Some((uid, gid)));
        }
    }
    bail!("as root, a user `postgres` or `nobody` is needed to run the server")
}

#[allow(clippy::disallowed_methods, reason = "starting and stopping a server blocks its test, as dropping it must")]
fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

fn run(mut command: Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
