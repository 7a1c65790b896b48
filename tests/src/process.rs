//! A process under test: started with an environment, killed, ended, stopped, started again.

use std::{
    fs::{self, File, OpenOptions},
    io,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tokio::signal::unix::{SignalKind, signal};

/// Whether the logs of processes are left in their files instead of being shown at their end.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Whether somebody wants this process to end: what it started may have been told the same.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on logs are not shown when processes end.
pub fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Waits until somebody wants this process to end. Whoever drops what was started ends it; what is just
/// starting or stopping may block that for some seconds.
///
/// # Panics
/// Where signals cannot be waited for.
pub async fn interrupted() {
    let mut terminated = signal(SignalKind::terminate()).expect("signals");
    tokio::select! {
        _ = terminated.recv() => {}
        done = tokio::signal::ctrl_c() => done.expect("signals"),
    }
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// How long anything of ours may take to start or to end.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Ports that no system gives to whoever does not ask for one: below the ephemeral ones of Linux
/// (`net.ipv4.ip_local_port_range`) and of RFC 6335. A port of theirs may be another's before the
/// process it was meant for listens.
const PORTS: std::ops::Range<u32> = 10_000..32_000;

/// A loopback port that nobody listens on, and that nobody is given unasked.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Where a process begins is its own, so that two of them rarely try the same.
    let begin = std::process::id().wrapping_mul(2_654_435_761) % PORTS.len() as u32;
    (0..PORTS.len())
        .map(|_| PORTS.start + (begin + NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS.len() as u32)
        .filter_map(|port| u16::try_from(port).ok())
        .find(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        .expect("a free loopback port")
}

/// Sends a signal to a process that is a child of ours, or of one.
#[allow(unsafe_code, reason = "kill(2) has no safe wrapper in libc")]
pub(crate) fn send_signal(pid: u32, signal: libc::c_int) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: no memory is involved.
    if unsafe { libc::kill(pid, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// KiB of resident memory of a process.
pub fn rss(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}

/// The path of one of our binaries: beside our own executable or its folder, or in
/// `NATTER_TEST_BIN_DIR`.
pub fn binary(name: &str) -> PathBuf {
    let folder = std::env::var_os("NATTER_TEST_BIN_DIR").map(PathBuf::from).or_else(|| {
        let own = std::env::current_exe().ok()?;
        let beside = own.parent()?;
        if beside.join(name).exists() { Some(beside.to_owned()) } else { Some(beside.parent()?.to_owned()) }
    });
    let path = folder.expect("a folder of binaries").join(name);
    assert!(path.exists(), "{} is missing: cargo build --workspace --bins", path.display());
    path
}

/// A command with nothing of our own environment that begins with `NATTER_`.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("NATTER_") {
            command.env_remove(key);
        }
    }
    command
}

/// A process that ends with this value.
pub struct Process {
    name: String,
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    log: PathBuf,
    child: Option<Child>,
    /// It ended by itself or was ended by the test, as it should.
    excused: bool,
}

impl Process {
    /// Starts `program` with nothing of our own environment that begins with `NATTER_`; what it
    /// writes goes to `<name>.log` in `logs`.
    pub fn start(name: &str, program: &Path, args: &[&str], env: &[(String, String)], logs: &Path) -> Result<Self> {
        let mut process = Self {
            name: name.to_owned(),
            program: program.to_owned(),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            env: env.to_vec(),
            log: logs.join(format!("{name}.log")),
            child: None,
            excused: false,
        };
        process.start_again()?;
        Ok(process)
    }

    /// Starts it again as before, after it ended.
    pub fn start_again(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "{} still runs", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = command(&self.program);
        command.args(&self.args).envs(self.env.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().with_context(|| format!("starting {}", self.program.display()))?);
        self.excused = false;
        Ok(())
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("not running")?;
        if let Some(status) = child.try_wait()? {
            bail!("{} had ended by itself: {status}", self.name);
        }
        child.kill()?;
        child.wait()?;
        self.excused = true;
        Ok(())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: libc::c_int) -> Result<()> {
        let pid = self.pid().context("not running")?;
        send_signal(pid, signal).with_context(|| format!("signal {signal} to {}", self.name))
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(libc::SIGTERM)?;
        self.wait(PATIENCE)
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let child = self.child.as_mut().context("not running")?;
        let until = Instant::now() + patience;
        while Instant::now() < until {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                self.excused = true;
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("{} did not end within {patience:?}", self.name)
    }

    /// SIGKILL and a new start.
    pub fn kill_and_start(&mut self) -> Result<()> {
        self.kill()?;
        self.start_again()
    }

    /// Runs, and was not ended by the test.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// All it has written.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    fn print_log(&self) {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(60);
        eprintln!("---- {} ({} lines, the last):", self.name, lines.len());
        for line in &lines[from..] {
            eprintln!("{line}");
        }
    }

    /// Ends it, and says what was wrong with its life.
    fn finish(&mut self) -> Option<String> {
        let ended = match self.child.take() {
            Some(mut child) => {
                let ended = child.try_wait().ok().flatten();
                let _ = child.kill();
                let _ = child.wait();
                ended
            }
            None => None,
        };
        if INTERRUPTED.load(Ordering::Relaxed) {
            return None;
        }
        if let Some(status) = ended.filter(|_| !self.excused) {
            return Some(format!("{} ended by itself: {status}", self.name));
        }
        let log = self.log();
        let panic = log.lines().find(|line| line.contains("panicked at"));
        panic.map(|line| format!("{} panicked: {line}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let wrong = self.finish();
        // Shown for tests that fail, by a panic or by an error.
        if !QUIET.load(Ordering::Relaxed) {
            self.print_log();
        }
        match wrong {
            Some(wrong) if std::thread::panicking() => eprintln!("{wrong}"),
            Some(wrong) => panic!("{wrong}"),
            None => {}
        }
    }
}

/// The folder of a test's logs and data; kept when the test fails.
pub struct Folder(Option<tempfile::TempDir>);

impl Folder {
    /// A fresh one.
    pub fn new() -> Result<Self> {
        Ok(Self(Some(tempfile::Builder::new().prefix("natter-test-").tempdir()?)))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.as_ref().expect("kept until dropped").path()
    }

    /// An empty file in it.
    pub fn file(&self, name: &str) -> Result<File> {
        Ok(File::create(self.path().join(name))?)
    }
}

impl Folder {
    /// Leaves it where it is when this goes.
    pub fn keep(&mut self) -> Option<PathBuf> {
        self.0.take().map(tempfile::TempDir::keep)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(folder) = self.0.take()
        {
            eprintln!("logs and data are kept in {}", folder.keep().display());
        }
    }
}
