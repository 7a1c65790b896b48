//! How long things took, from 1 µs to a minute, to three digits.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Beyond this it counts as this.
const LONGEST_US: u64 = 60_000_000;

/// Times as they were counted.
#[derive(Debug)]
pub struct Latency(Histogram<u64>);

/// What is told of them, in milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Quantiles {
    /// Half are below.
    pub p50_ms: f64,
    /// 99 of 100 are.
    pub p99_ms: f64,
    /// 999 of 1,000 are.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl Latency {
    /// None yet.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, LONGEST_US, 3)?))
    }

    /// Counts one.
    pub fn add(&mut self, nanoseconds: u64) {
        self.0.saturating_record(nanoseconds / 1_000);
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// What came of it.
    pub fn quantiles(&self) -> Quantiles {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1e3;
        Quantiles { p50_ms: at(0.5), p99_ms: at(0.99), p999_ms: at(0.999), max_ms: self.0.max() as f64 / 1e3 }
    }
}
