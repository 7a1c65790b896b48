//! What a process tells of itself: logs and metrics.

pub mod logs;
pub mod metrics;
