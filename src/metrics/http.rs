//! Metrics of the HTTP API. `flagstream_http_…`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusedLabels {
    pub status: &'static str,
}

impl RefusedLabels {
    /// The label of a status; `None` for a status that is not counted as refused.
    pub fn of(status: u16) -> Option<Self> {
        let status = match status {
            401 => "401",
            403 => "403",
            429 => "429",
            503 => "503",
            _ => return None,
        };
        Some(Self { status })
    }
}

#[derive(Debug, Default)]
pub struct HttpMetrics {
    /// Calls refused for lack of authorization, by a rate limit, or because the service is not available.
    pub refused: Family<RefusedLabels, Counter>,
    /// Number of open change streams.
    pub listeners: Gauge,
}

impl HttpMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("listeners", "Open change streams", metrics.listeners.clone());
        registry.register(
            "refused",
            "Requests refused because of authorization, rate limit or load",
            metrics.refused.clone(),
        );
        metrics
    }
}
