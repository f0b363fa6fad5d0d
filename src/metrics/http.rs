//! Metrics of the HTTP surface. `flagstream_http_…`.

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Default)]
pub struct HttpMetrics {
    /// Open streams of changes.
    pub listeners: Gauge,
}

impl HttpMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("listeners", "Open streams of changes", metrics.listeners.clone());
        metrics
    }
}
