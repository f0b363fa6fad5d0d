//! All metrics of the process, by name, in one place.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
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
    pub feed: FeedMetrics,
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
        let feed = FeedMetrics::register(registry.sub_registry_with_prefix("feed"));
        Arc::new(Self {
            registry,
            requests,
            evaluations,
            events_published,
            dead_letters,
            dropped,
            feed,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FeedLabels {
    pub environment: Arc<str>,
    pub outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabels {
    pub outcome: &'static str,
}

/// What brings flags into Kafka. `flagstream_feed_…`.
#[derive(Debug, Default)]
pub struct FeedMetrics {
    pub leader: Gauge,
    pub terms_ended: Family<OutcomeLabels, Counter>,
    pub polls: Family<FeedLabels, Counter>,
    pub hints: Family<OutcomeLabels, Counter>,
    pub changes: Family<FeedLabels, Counter>,
    pub flags_refused: Family<EnvironmentLabels, Gauge>,
    pub propagation: Propagation,
    pub usage_reports: Family<FeedLabels, Counter>,
}

/// Seconds from seeing a change to its transaction's commit.
#[derive(Debug, Clone)]
pub struct Propagation(pub Histogram);

impl Default for Propagation {
    fn default() -> Self {
        Self(Histogram::new([
            0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
        ]))
    }
}

impl FeedMetrics {
    fn register(registry: &mut Registry) -> Self {
        let feed = Self::default();
        registry.register("leader", "1 where this instance leads", feed.leader.clone());
        registry.register(
            "terms_ended",
            "Ends of a leader's term, by reason",
            feed.terms_ended.clone(),
        );
        registry.register(
            "polls",
            "Looks at a source, by what came of it",
            feed.polls.clone(),
        );
        registry.register(
            "hints",
            "Records on the changes topic, by how they were read",
            feed.hints.clone(),
        );
        registry.register("changes", "Changes published, by kind", feed.changes.clone());
        registry.register(
            "flags_refused",
            "Flags whose new definition is refused",
            feed.flags_refused.clone(),
        );
        let help = "From seeing a change to its commit in Kafka";
        registry.register("propagation_seconds", help, feed.propagation.0.clone());
        let help = "Reports to Unleash of flags used, by what came of it";
        registry.register("usage_reports", help, feed.usage_reports.clone());
        feed
    }
}
