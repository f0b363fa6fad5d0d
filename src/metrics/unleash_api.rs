//! Metrics of the API for Unleash's SDKs. `flagstream_unleash_api_…`.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{EnvironmentLabels, OutcomeLabels};

#[derive(Debug, Clone, Default)]
pub struct UnleashApiMetrics {
    /// Number of tokens that Unleash has validated.
    pub tokens: Gauge,
    /// Validations of tokens by Unleash, by outcome.
    pub validations: Family<OutcomeLabels, Counter>,
    /// Evaluations for frontend SDKs that did not become events, by reason.
    pub unrecorded: Family<OutcomeLabels, Counter>,
    /// Evaluations that SDKs have reported.
    pub reported_evaluations: Counter,
    /// Calls that forward SDK metrics to Unleash, by outcome.
    pub forwarded: Family<OutcomeLabels, Counter>,
    /// Flags that Unleash's format cannot express.
    pub omitted_flags: Family<EnvironmentLabels, Gauge>,
}

impl UnleashApiMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "tokens",
            "Tokens of Unleash's SDKs that Unleash has validated",
            metrics.tokens.clone(),
        );
        let help = "Validations of tokens by Unleash, by outcome";
        registry.register("validations", help, metrics.validations.clone());
        let help = "Evaluations for frontend SDKs that did not become events, by reason";
        registry.register("unrecorded", help, metrics.unrecorded.clone());
        let help = "Evaluations that SDKs have reported";
        registry.register("reported_evaluations", help, metrics.reported_evaluations.clone());
        let help = "Calls that forward SDK metrics to Unleash, by outcome";
        registry.register("forwarded", help, metrics.forwarded.clone());
        let help = "Flags that server SDKs do not receive, because Unleash's format cannot express them";
        registry.register("omitted_flags", help, metrics.omitted_flags.clone());
        metrics
    }
}
