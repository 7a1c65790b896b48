//! How much memory the process has, and whether new connections would be its end: better refused
//! than all of them lost.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// How often it is looked at. Ten thousand handshakes in between take some 100 MB.
const EVERY: Duration = Duration::from_millis(500);

/// The part of what there is that may be used, in percent.
const PART: u64 = 85;

/// Resident memory of this process without mapped files, and its bound.
#[derive(Debug)]
pub struct Memory {
    limit: u64,
    resident: AtomicU64,
}

impl Memory {
    /// Bound by `limit` bytes; 0 derives the bound from what the process may have.
    pub fn new(limit: u64) -> Self {
        let limit = if limit == 0 { available().map_or(u64::MAX, |bytes| bytes / 100 * PART) } else { limit };
        Self { limit, resident: AtomicU64::new(0) }
    }

    /// Whether no more connections are to be taken.
    pub fn is_full(&self) -> bool {
        self.resident.load(Ordering::Relaxed) >= self.limit
    }

    /// Looks again and again until `stop`.
    pub(crate) async fn watch(&self, metrics: Arc<Metrics>, stop: CancellationToken) {
        loop {
            // Files of the kernel: reading them does not wait for a disk.
            if let Some(resident) = resident() {
                let before = self.is_full();
                self.set(resident);
                metrics.memory.set(i64::try_from(resident).unwrap_or(i64::MAX));
                if self.is_full() != before {
                    tracing::warn!(resident, limit = self.limit, refusing = self.is_full(), "memory_admission");
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    pub(crate) fn set(&self, resident: u64) {
        self.resident.store(resident, Ordering::Relaxed);
    }
}

/// A line as `VmRSS:     1234 kB`, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?.strip_prefix(':')?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn resident() -> Option<u64> {
    resident_of(&fs::read_to_string("/proc/self/status").ok()?)
}

/// Without what is mapped of files, such as an SQLite database: the kernel takes that back when it needs it.
fn resident_of(status: &str) -> Option<u64> {
    match (field(status, "RssAnon"), field(status, "RssShmem")) {
        (Some(anonymous), Some(shared)) => Some(anonymous.saturating_add(shared)),
        // Kernels before 4.5, and some that are not Linux's.
        _ => field(status, "VmRSS"),
    }
}

/// What the process may have: the least limit of its cgroups, else the machine's memory.
fn available() -> Option<u64> {
    let of_machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| field(&text, "MemTotal"));
    of_cgroup(Path::new("/sys/fs/cgroup"), &fs::read_to_string("/proc/self/cgroup").unwrap_or_default()).into_iter().chain(of_machine).min()
}

/// The limit of a cgroup, version 2 or 1, and of all above it.
fn of_cgroup(root: &Path, membership: &str) -> Option<u64> {
    let limits = membership.lines().flat_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let (folder, file) = if controllers.is_empty() {
            (root.to_owned(), "memory.max")
        } else {
            // Those of other controllers have no such file.
            (root.join(controllers), "memory.limit_in_bytes")
        };
        let ancestors: Vec<PathBuf> = Path::new(path).ancestors().map(Path::to_owned).collect();
        ancestors.into_iter().filter_map(move |above| {
            let above = above.strip_prefix("/").ok()?;
            fs::read_to_string(folder.join(above).join(file)).ok()?.trim().parse::<u64>().ok()
        })
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_from_the_bound_on() {
        let memory = Memory::new(1000);
        for (resident, full) in [(0, false), (999, false), (1000, true), (1001, true)] {
            memory.set(resident);
            assert_eq!(memory.is_full(), full, "{resident}");
        }
        assert!(resident().unwrap() > 1 << 20, "this process has some memory");
    }

    #[test]
    fn what_is_mapped_of_files_is_not_counted() {
        let status = "VmRSS:\t  1000 kB\nRssAnon:\t   100 kB\nRssFile:\t   870 kB\nRssShmem:\t    30 kB\n";
        assert_eq!(resident_of(status), Some(130 * 1024));
        assert_eq!(resident_of("VmRSS:\t  1000 kB\n"), Some(1000 * 1024));
        assert_eq!(resident_of(""), None);
    }

    #[test]
    fn the_least_limit_of_the_cgroups_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let file = root.path().join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        assert_eq!(of_cgroup(root.path(), "0::/pods/one\n"), None, "no limit");
        write("pods/one/memory.max", "max\n");
        write("pods/memory.max", "2147483648\n");
        assert_eq!(of_cgroup(root.path(), "0::/pods/one\n"), Some(2 << 30), "that of the one above");
        write("pods/one/memory.max", "1073741824\n");
        assert_eq!(of_cgroup(root.path(), "0::/pods/one\n"), Some(1 << 30));
        write("memory/docker/memory.limit_in_bytes", "536870912\n");
        assert_eq!(of_cgroup(root.path(), "5:memory:/docker\n1:pids:/docker\n"), Some(512 << 20), "version 1");
        assert_eq!(field("Name:\tx\nVmRSS:\t    12 kB\n", "VmRSS"), Some(12 * 1024));
    }
}
