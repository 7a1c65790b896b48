//! Metrics in Prometheus' text format (OpenMetrics 1.0), all named `natter_…`.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{encoding::text, metrics::info::Info, registry};

/// What `/metrics` is served as.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of a process. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Registry(Arc<Mutex<registry::Registry>>);

impl Registry {
    /// One with `natter_build_info{service, version}`.
    pub fn new(service: &'static str) -> Self {
        let mut registry = registry::Registry::default();
        let build = Info::new(vec![("service", service), ("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("natter_build", "What runs here", build);
        Self(Arc::new(Mutex::new(registry)))
    }

    /// Adds metrics, by their full names (`natter_…`); counters get the suffix `_total`.
    pub fn register<T>(&self, register: impl FnOnce(&mut registry::Registry) -> T) -> T {
        register(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All of them, as text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn shows_build_and_what_was_registered() {
        let registry = Registry::new("gateway");
        let sent: Counter = registry.register(|registry| {
            let counter = Counter::default();
            registry.register("natter_frames_sent", "Frames sent", counter.clone());
            counter
        });
        sent.inc_by(3);
        let text = registry.encode().unwrap();
        assert!(text.contains("natter_build_info{service=\"gateway\",version=\""), "{text}");
        assert!(text.contains("natter_frames_sent_total 3"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
