//! The highest rate that still goes well: doubled until it does not, then halved in between.

use std::time::Duration;

use anyhow::Result;

use super::{Load, round::Outcome};

/// Tries at most.
const STEPS: usize = 16;

/// Two rates that are this near are the same.
const NEAR: f64 = 1.06;

/// Whether to look for the maximum, and what is too slow.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Search {
    /// Looks for the highest rate: doubles --rate until something is lost, refused, closed or too slow,
    /// then bisects
    #[arg(long)]
    pub search: bool,
    /// What is too slow, for --search: a greater 99th percentile, in ms
    #[arg(long, default_value_t = 250.0)]
    pub max_p99_ms: f64,
}

impl Load {
    /// The best round that went well, and after how many tries; the first that did not, if none did.
    pub(super) fn search(&mut self, from: f64, time: Duration, senders: usize, max_p99_ms: f64) -> Result<(Outcome, usize)> {
        let (mut best, mut first_bad): (Option<Outcome>, Option<Outcome>) = (None, None);
        let (mut rate, mut too_high, mut steps) = (from, f64::INFINITY, 0);
        let everybody = self.ready;
        while steps < STEPS {
            let outcome = self.round(rate, time, senders)?;
            steps += 1;
            let is_good = outcome.is_good(max_p99_ms);
            eprintln!(
                "  {rate:.0} messages/s: {:.0} deliveries/s, p99 {:.1} ms, lost {}, refused {}, closed {}: {}",
                outcome.deliveries_per_s,
                outcome.latency.p99_ms,
                outcome.lost,
                outcome.refused,
                outcome.closed,
                if is_good { "ok" } else { "too much" }
            );
            if is_good {
                best = Some(outcome);
            } else {
                too_high = too_high.min(rate);
                first_bad.get_or_insert(outcome);
                self.receive_for(Duration::from_secs(1))?;
            }
            let good = best.as_ref().map_or(0.0, |outcome| outcome.rate);
            // Without half of its members a room is another room.
            if too_high < good * NEAR || too_high < 1.5 || self.ready < everybody / 2 {
                break;
            }
            rate = if too_high.is_infinite() { good * 2.0 } else { f64::midpoint(good, too_high) };
        }
        Ok((best.or(first_bad).unwrap_or_default(), steps))
    }
}
