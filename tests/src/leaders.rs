//! How long shards of a NATS cluster were without a leader, as seen from outside while a fault lasts:
//! when a leader is lost, and once more when one that was cut off comes back with a later term.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::Value;

use crate::nats::monitor;

/// How often each server is asked.
const EVERY: Duration = Duration::from_millis(100);

/// What a server said is what it knows for so long.
const HOLDS: Duration = Duration::from_secs(1);

/// Who leads each stream, as one server knows it, and when it said so.
type Told = Mutex<Option<(Instant, HashMap<String, String>)>>;

/// Watches until [`Self::end`]; without it, until the process ends.
pub struct LeaderWatch {
    stop: Arc<AtomicBool>,
    longest: JoinHandle<Duration>,
    asked: Vec<JoinHandle<()>>,
}

impl LeaderWatch {
    /// Begins to watch servers by name and monitor.
    pub fn begin(servers: Vec<(String, SocketAddr)>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (names, monitors): (Vec<_>, Vec<_>) = servers.into_iter().unzip();
        let told: Arc<Vec<Told>> = Arc::new(names.iter().map(|_| Mutex::new(None)).collect());
        let asked = monitors.into_iter().enumerate().map(|(index, address)| {
            let (stop, told) = (Arc::clone(&stop), Arc::clone(&told));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let leaders = monitor(address, "/jsz?accounts=true&streams=true").map(|told| leaders_in(&told));
                    *told[index].lock() = leaders.map(|leaders| (Instant::now(), leaders));
                    std::thread::sleep(EVERY);
                }
            })
        });
        let asked = asked.collect();
        let stopped = Arc::clone(&stop);
        let longest = std::thread::spawn(move || {
            let mut spans = Spans::default();
            while !stopped.load(Ordering::Relaxed) {
                let now = Instant::now();
                let current: Vec<_> = told.iter().map(|told| told.lock().clone().filter(|(at, _)| now - *at < HOLDS)).collect();
                let known: Vec<_> = current.iter().map(|told| told.as_ref().map(|(_, leaders)| leaders)).collect();
                spans.take_in(now, &names, &known);
                std::thread::sleep(EVERY / 2);
            }
            spans.longest
        });
        Self { stop, longest, asked }
    }

    /// The longest that any stream was without a leader.
    pub fn end(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.asked {
            thread.join().expect("a thread that asks");
        }
        self.longest.join().expect("a thread that watches")
    }
}

fn leaders_in(told: &Value) -> HashMap<String, String> {
    let accounts = told["account_details"].as_array().map(Vec::as_slice).unwrap_or_default();
    let streams = accounts.iter().filter_map(|account| account["stream_detail"].as_array()).flatten();
    let leaders =
        streams.filter_map(|stream| Some((stream["name"].as_str()?.to_owned(), stream["cluster"]["leader"].as_str()?.to_owned())));
    leaders.collect()
}

/// Since when each stream is led by nobody, and the longest that one was.
#[derive(Default)]
struct Spans {
    without: HashMap<String, Option<Instant>>,
    longest: Duration,
}

impl Spans {
    /// A stream is led when its leader and most of the `servers` say so.
    fn take_in(&mut self, now: Instant, servers: &[String], known: &[Option<&HashMap<String, String>>]) {
        for name in known.iter().flatten().flat_map(|leaders| leaders.keys()) {
            self.without.entry(name.clone()).or_default();
        }
        for (stream, since) in &mut self.without {
            let says = |index: usize, leader: &String| known[index].and_then(|leaders| leaders.get(stream)) == Some(leader);
            let is_led = servers.iter().enumerate().any(|(index, leader)| {
                says(index, leader) && (0..servers.len()).filter(|&index| says(index, leader)).count() * 2 > servers.len()
            });
            if is_led {
                *since = None;
            } else {
                self.longest = self.longest.max(now - *since.get_or_insert(now));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(leader: &str) -> HashMap<String, String> {
        HashMap::from([("s".to_owned(), leader.to_owned())])
    }

    #[test]
    fn a_stream_is_led_when_its_leader_and_most_say_so() {
        let servers = ["a", "b", "c"].map(str::to_owned);
        let (a, b, none) = (all("a"), all("b"), HashMap::new());
        let at = |seconds| Duration::from_secs(seconds);
        let start = Instant::now();
        let mut spans = Spans::default();
        spans.take_in(start, &servers, &[Some(&a), Some(&a), Some(&a)]);
        spans.take_in(start + at(1), &servers, &[Some(&a), Some(&a), None]);
        assert_eq!(spans.longest, at(0));
        // The leader is cut off; the others go on to name it, then another.
        spans.take_in(start + at(2), &servers, &[None, Some(&a), Some(&a)]);
        spans.take_in(start + at(4), &servers, &[None, Some(&b), Some(&none)]);
        spans.take_in(start + at(5), &servers, &[None, Some(&b), Some(&b)]);
        assert_eq!(spans.longest, at(2));
        // It comes back, and they elect once more.
        spans.take_in(start + at(6), &servers, &[Some(&a), Some(&none), Some(&none)]);
        spans.take_in(start + at(11), &servers, &[Some(&b), Some(&none), Some(&none)]);
        spans.take_in(start + at(12), &servers, &[Some(&a), Some(&a), Some(&b)]);
        assert_eq!(spans.longest, at(5));
    }
}
