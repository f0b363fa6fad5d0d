//! All metrics of the process, by name, in one place.

mod evaluate;

use std::sync::Arc;

pub use evaluate::{BatchLabels, EvaluateMetrics, PartitionLabels, Seconds};

use prometheus_client::encoding::{self, EncodeLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EvaluationLabels {
    pub path: &'static str,
    pub reason: &'static str,
    pub environment: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EnvironmentLabels {
    pub environment: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CodeLabels {
    pub code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DropLabels {
    pub what: &'static str,
    pub reason: &'static str,
}

/// Every metric; cheap to share, safe to update from any thread.
#[derive(Debug)]
pub struct Metrics {
    pub registry: Registry,
    pub requests: Counter,
    pub evaluations: Family<EvaluationLabels, Counter>,
    pub events_published: Family<EnvironmentLabels, Counter>,
    pub dead_letters: Family<CodeLabels, Counter>,
    pub dropped: Family<DropLabels, Counter>,
    pub evaluate: EvaluateMetrics,
}

impl Metrics {
    pub fn new() -> Arc<Self> {
        let mut registry = Registry::with_prefix("flagstream");
        let requests = Counter::default();
        registry.register(
            "requests",
            "Requests answered: events or dead letters committed",
            requests.clone(),
        );
        let evaluations = Family::default();
        registry.register("evaluations", "Flags evaluated", evaluations.clone());
        let events_published = Family::default();
        registry.register(
            "events_published",
            "Evaluation events committed to Kafka",
            events_published.clone(),
        );
        let dead_letters = Family::default();
        registry.register(
            "dead_letters",
            "Records sent to the dead-letter topic",
            dead_letters.clone(),
        );
        let dropped = Family::default();
        registry.register("dropped", "What was dropped, by reason", dropped.clone());
        let evaluate = EvaluateMetrics::register(registry.sub_registry_with_prefix("evaluate"));
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "What this process was built from", build);
        Arc::new(Self {
            evaluate,
            registry,
            requests,
            evaluations,
            events_published,
            dead_letters,
            dropped,
        })
    }

    /// All metrics in the text format of OpenMetrics, which Prometheus reads.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of all metrics, also of families that the text does not show before they are used.
    fn names(registry: &Registry) -> Vec<String> {
        let debug = format!("{registry:?}");
        let mut prefix = String::new();
        let mut names = Vec::new();
        // A registry prints its prefix, then its metrics, then the registries below.
        for (place, _) in debug.match_indices('"') {
            let (before, after) = debug.split_at(place);
            let text = after[1..].split('"').next().unwrap_or_default();
            if before.ends_with("Prefix(") {
                prefix = text.to_owned();
            } else if before.ends_with("Descriptor { name: ") {
                names.push(format!("{prefix}_{text}"));
            }
        }
        names
    }

    #[test]
    fn every_metric_is_documented() {
        let documentation = include_str!("../docs/operations.md");
        let names = names(&Metrics::new().registry);
        assert!(names.contains(&"flagstream_evaluate_lag".to_owned()), "{names:?}");
        for name in names {
            assert!(documentation.contains(&format!("`{name}")), "docs/operations.md lacks {name}");
        }
    }
}
