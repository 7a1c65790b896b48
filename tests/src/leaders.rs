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

/// JetStream's own leader, beside the streams'.
const JETSTREAM: &str = "";

/// How long there was no leader at a time, at the longest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Absence {
    /// Of some stream.
    pub stream: Duration,
    /// Of JetStream itself, who makes consumers and is asked for other leaders.
    pub jetstream: Duration,
}

/// Watches until [`Self::end`]; without it, until the process ends.
pub struct LeaderWatch {
    stop: Arc<AtomicBool>,
    longest: JoinHandle<Absence>,
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
            spans.longest()
        });
        Self { stop, longest, asked }
    }

    /// What was seen.
    pub fn end(self) -> Absence {
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
    let jetstream = told["meta_cluster"]["leader"].as_str().map(|leader| (JETSTREAM.to_owned(), leader.to_owned()));
    leaders.chain(jetstream).collect()
}

/// Since when each stream is led by nobody, and the longest that it was.
#[derive(Default)]
struct Spans(HashMap<String, (Option<Instant>, Duration)>);

impl Spans {
    /// A stream is led when its leader and most of the `servers` say so.
    fn take_in(&mut self, now: Instant, servers: &[String], known: &[Option<&HashMap<String, String>>]) {
        for name in known.iter().flatten().flat_map(|leaders| leaders.keys()) {
            self.0.entry(name.clone()).or_default();
        }
        for (stream, (since, longest)) in &mut self.0 {
            let says = |index: usize, leader: &String| known[index].and_then(|leaders| leaders.get(stream)) == Some(leader);
            let is_led = servers.iter().enumerate().any(|(index, leader)| {
                says(index, leader) && (0..servers.len()).filter(|&index| says(index, leader)).count() * 2 > servers.len()
            });
            if is_led {
                *since = None;
            } else {
                *longest = (*longest).max(now - *since.get_or_insert(now));
            }
        }
    }

    fn longest(&self) -> Absence {
        let of = |is_wanted: fn(&str) -> bool| {
            let wanted = self.0.iter().filter(|(name, _)| is_wanted(name));
            wanted.map(|(_, (_, longest))| *longest).max().unwrap_or_default()
        };
        Absence { stream: of(|name| name != JETSTREAM), jetstream: of(|name| name == JETSTREAM) }
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
        assert_eq!(spans.longest().stream, at(0));
        // The leader is cut off; the others go on to name it, then another.
        spans.take_in(start + at(2), &servers, &[None, Some(&a), Some(&a)]);
        spans.take_in(start + at(4), &servers, &[None, Some(&b), Some(&none)]);
        spans.take_in(start + at(5), &servers, &[None, Some(&b), Some(&b)]);
        assert_eq!(spans.longest().stream, at(2));
        // It comes back, and they elect once more.
        spans.take_in(start + at(6), &servers, &[Some(&a), Some(&none), Some(&none)]);
        spans.take_in(start + at(11), &servers, &[Some(&b), Some(&none), Some(&none)]);
        spans.take_in(start + at(12), &servers, &[Some(&a), Some(&a), Some(&b)]);
        assert_eq!(spans.longest(), Absence { stream: at(5), jetstream: at(0) });
        let governed = HashMap::from([(JETSTREAM.to_owned(), "a".to_owned())]);
        spans.take_in(start + at(20), &servers, &[Some(&governed), None, None]);
        spans.take_in(start + at(23), &servers, &[Some(&governed), Some(&governed), None]);
        spans.take_in(start + at(26), &servers, &[Some(&governed), None, None]);
        assert_eq!(spans.longest().jetstream, at(0), "led at every second look");
        spans.take_in(start + at(27), &servers, &[Some(&governed), None, None]);
        assert_eq!(spans.longest().jetstream, at(1));
    }
}
