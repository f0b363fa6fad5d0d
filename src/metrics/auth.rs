//! Metrics of API tokens. `flagstream_access_…`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LookLabels {
    pub outcome: &'static str,
}

#[derive(Debug, Clone, Default)]
pub struct AuthMetrics {
    /// Number of valid tokens that this instance has cached.
    pub tokens: Gauge,
    /// Number of tokens that expire soon, of those that are not short-lived.
    pub expiring: Gauge,
    /// Reads of the table of tokens, by outcome.
    pub looks: Family<LookLabels, Counter>,
}

impl AuthMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("tokens", "Valid tokens that this instance knows", metrics.tokens.clone());
        let help = "Tokens that were valid for more than 30 days and expire within a week";
        registry.register("tokens_expiring", help, metrics.expiring.clone());
        registry.register("looks", "Reads of the table of tokens, by outcome", metrics.looks.clone());
        metrics
    }
}
