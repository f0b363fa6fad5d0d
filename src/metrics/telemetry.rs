//! Spans and log events that were sent or dropped. `flagstream_telemetry_…`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Kind of telemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    Spans,
    Logs,
}

impl Signal {
    fn labels(self) -> SignalLabels {
        let signal = match self {
            Self::Spans => "spans",
            Self::Logs => "logs",
        };
        SignalLabels { signal }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SignalLabels {
    signal: &'static str,
}

#[derive(Debug, Clone)]
pub struct TelemetryMetrics {
    exported: Family<SignalLabels, Counter>,
    dropped: Family<SignalLabels, Counter>,
}

impl TelemetryMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let (exported, dropped) = (Family::default(), Family::default());
        let help = "Spans and log events that the OpenTelemetry endpoint has accepted";
        registry.register("exported", help, exported.clone());
        let help =
            "Spans and log events that were dropped: the queue was full, or the endpoint did not accept them";
        registry.register("dropped", help, dropped.clone());
        Self { exported, dropped }
    }

    pub fn exported(&self, signal: Signal, count: usize) {
        self.exported.get_or_create(&signal.labels()).inc_by(count as u64);
    }

    pub fn dropped(&self, signal: Signal, count: usize) {
        self.dropped.get_or_create(&signal.labels()).inc_by(count as u64);
    }
}
