//! Metrics of the HTTP API. `flagstream_http_…`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
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

/// Labels of an answered call. The route is the pattern of the path, so the number of series is limited.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CallLabels {
    pub method: &'static str,
    pub route: String,
    pub status: &'static str,
}

/// Upper bounds of the buckets of a call's duration, in seconds.
const CALL_BUCKETS: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

fn call_seconds() -> Histogram {
    Histogram::new(CALL_BUCKETS)
}

#[derive(Debug)]
pub struct HttpMetrics {
    /// Duration of calls until the answer begins, by route and class of the status.
    pub calls: Family<CallLabels, Histogram, fn() -> Histogram>,
    /// Calls refused for lack of authorization, by a rate limit, or because the service is not available.
    pub refused: Family<RefusedLabels, Counter>,
    /// Number of open change streams.
    pub listeners: Gauge,
}

impl HttpMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            calls: Family::new_with_constructor(call_seconds),
            refused: Family::default(),
            listeners: Gauge::default(),
        };
        let help = "Time from a request's header to the beginning of its answer";
        registry.register("request_seconds", help, metrics.calls.clone());
        registry.register("listeners", "Open change streams", metrics.listeners.clone());
        registry.register(
            "refused",
            "Requests refused because of authorization, rate limit or load",
            metrics.refused.clone(),
        );
        metrics
    }
}
