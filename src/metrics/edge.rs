//! Metrics of the edge API's cache layers. `flagstream_edge_…`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::OutcomeLabels;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LayerLabels {
    pub layer: &'static str,
    pub outcome: &'static str,
}

#[derive(Debug, Default)]
pub struct EdgeMetrics {
    /// Reads by outcome: `hit`, or one of the kinds of misses.
    pub reads: Family<LayerLabels, Counter>,
    pub writes: Family<OutcomeLabels, Counter>,
}

impl EdgeMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "Reads of the edge API's cache layers, by outcome";
        registry.register("reads", help, metrics.reads.clone());
        let help = "Writes to the edge API's cache layers, by outcome";
        registry.register("writes", help, metrics.writes.clone());
        metrics
    }

    pub fn count_read(&self, layer: &'static str, outcome: &'static str) {
        self.reads.get_or_create(&LayerLabels { layer, outcome }).inc();
    }

    pub fn count_write(&self, outcome: &'static str, count: u64) {
        if count > 0 {
            self.writes.get_or_create(&OutcomeLabels { outcome }).inc_by(count);
        }
    }

    /// Hits and misses of a layer since the process started.
    pub fn so_far(&self, layer: &'static str) -> (u64, u64) {
        let count = |outcome| self.reads.get(&LayerLabels { layer, outcome }).map_or(0, |count| count.get());
        let misses = ["absent", "stale", "unreadable", "unavailable"].into_iter().map(count).sum();
        (count("hit"), misses)
    }
}
