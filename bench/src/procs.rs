//! CPU time and memory of processes, from /proc: each with all that it has started.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// `USER_HZ` of Linux on all machines that Natter runs on (time(7)).
const TICKS_A_SECOND: f64 = 100.0;

/// A process that is watched, and what it is called.
#[derive(Debug, Clone)]
pub struct Watched {
    /// For the report.
    pub name: String,
    /// The process; its descendants count too.
    pub pid: u32,
}

impl FromStr for Watched {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, pid) = text.split_once('=').ok_or("NAME=PID")?;
        let pid = pid.parse().map_err(|error| format!("{pid:?}: {error}"))?;
        Ok(Self { name: name.to_owned(), pid })
    }
}

/// What one of them has used so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Seconds on a CPU.
    pub cpu_s: f64,
    /// Proportional set size, bytes. The kernel's memory for sockets is not in it.
    pub pss: u64,
}

/// What one of them used in between.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Cost {
    /// Seconds on a CPU.
    pub cpu_s: f64,
    /// Microseconds on a CPU for each thing that was counted.
    pub us_each: f64,
    /// Proportional set size at the end, in MB.
    pub pss_mb: f64,
    /// By how much it has grown for each thing that was counted, bytes.
    pub pss_bytes_each: f64,
}

/// What was used between two looks, for each of `count`. Those of one name count as one.
pub fn costs(watched: &[Watched], before: &[Usage], after: &[Usage], count: u64) -> BTreeMap<String, Cost> {
    let each = count.max(1) as f64;
    let mut costs: BTreeMap<String, Cost> = BTreeMap::new();
    for ((watched, before), after) in watched.iter().zip(before).zip(after) {
        let cpu_s = after.cpu_s - before.cpu_s;
        let cost = costs.entry(watched.name.clone()).or_default();
        cost.cpu_s += cpu_s;
        cost.us_each += cpu_s * 1e6 / each;
        cost.pss_mb += after.pss as f64 / 1e6;
        cost.pss_bytes_each += (after.pss as f64 - before.pss as f64) / each;
    }
    costs
}

/// What each has used so far.
pub fn look(watched: &[Watched]) -> Vec<Usage> {
    if watched.is_empty() {
        return Vec::new();
    }
    let children = children();
    let of = |watched: &Watched| {
        let mut family = vec![watched.pid];
        let mut usage = Usage::default();
        while let Some(pid) = family.pop() {
            usage.cpu_s += cpu_s(pid);
            usage.pss += pss(pid);
            family.extend(children.get(&pid).into_iter().flatten());
        }
        usage
    };
    watched.iter().map(of).collect()
}

/// Seconds that this process has been on a CPU.
pub fn own_cpu_s() -> f64 {
    cpu_s(std::process::id())
}

/// By the scheduler's account, which is exact, of all threads that live, and by clock ticks of the processes that
/// it started and that have ended: PostgreSQL's workers come and go.
fn cpu_s(pid: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let nanoseconds = tasks.filter_map(|task| {
        let told = fs::read_to_string(task.path().join("schedstat")).ok()?;
        told.split_whitespace().next()?.parse::<u64>().ok()
    });
    nanoseconds.sum::<u64>() as f64 / 1e9 + ended_children_s(pid).unwrap_or(0.0)
}

/// `cutime` and `cstime` of proc_pid_stat(5).
fn ended_children_s(pid: u32) -> Option<f64> {
    let fields = stat(pid)?;
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some((ticks(13)? + ticks(14)?) as f64 / TICKS_A_SECOND)
}

fn pss(pid: u32) -> u64 {
    let told = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = told.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn children() -> HashMap<u32, Vec<u32>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(parent) = stat(pid).and_then(|fields| fields.get(1)?.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    children
}

/// The fields of proc_pid_stat(5) after the name, which is in parentheses and may hold anything: state, parent, ….
fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_ended_child_used_is_seen() {
        let before = own_cpu_s();
        let spin = "i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done";
        assert!(std::process::Command::new("sh").args(["-c", spin]).status().unwrap().success());
        assert!(ended_children_s(std::process::id()).unwrap() >= 0.03 && own_cpu_s() >= before + 0.03);
    }

    #[test]
    fn what_this_process_uses_is_seen() {
        let watched: Watched = format!("self={}", std::process::id()).parse().unwrap();
        let watched = [watched];
        let before = look(&watched);
        let mut spun = 0_u64;
        while own_cpu_s() < before[0].cpu_s + 0.02 {
            spun = std::hint::black_box(spun.wrapping_add(1));
        }
        let costs = costs(&watched, &before, &look(&watched), 10);
        let cost = costs["self"];
        assert!(cost.cpu_s >= 0.02 && cost.pss_mb > 0.1, "{cost:?}");
        assert!((cost.us_each - cost.cpu_s * 1e5).abs() < 1.0, "{cost:?}");
        let twice = super::costs(
            &[watched[0].clone(), watched[0].clone()],
            &[before[0]; 2],
            &[Usage { cpu_s: before[0].cpu_s + 1.0, pss: 0 }; 2],
            1,
        );
        assert!((twice["self"].us_each - 2e6).abs() < 1.0, "{twice:?}");
        assert!("natter".parse::<Watched>().is_err());
    }
}
