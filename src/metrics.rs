//! All metrics of the process, grouped by component.

mod attributes;
mod audit;
mod auth;
mod certificates;
mod edge;
mod evaluate;
mod experiment;
mod flags;
mod http;
mod kafka;
mod outbox;
mod progress;
mod redis_cache;
mod taps;
mod telemetry;
mod unleash_api;

use std::sync::Arc;

use prometheus_client::encoding::{self, EncodeLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::clock::ClockSkew;

pub use attributes::{AttributeMetrics, TableMetrics};
pub use audit::{AuditBatchLabels, AuditMetrics, PausedLabels};
pub use auth::{AuthMetrics, LookLabels};
pub use certificates::Certificates;
pub use edge::EdgeMetrics;
pub use evaluate::{BatchLabels, EvaluateMetrics, PartitionLabels, Seconds};
pub use experiment::ExperimentMetrics;
pub use flags::{COUNTED_FLAGS_MAX, FlagMetrics};
pub use http::{CallLabels, HttpMetrics, RefusedLabels};
pub use kafka::KafkaMetrics;
pub use outbox::OutboxMetrics;
pub use progress::{PartitionGauges, StuckLabels};
pub use redis_cache::RedisCacheMetrics;
pub use taps::{TapBatchLabels, TapLabels, TapMetrics, TapOutputLabels, TapPartitionLabels, TapPassedLabels};
pub use telemetry::{Signal, TelemetryMetrics};
pub use unleash_api::UnleashApiMetrics;

pub use crate::store::metrics::{Propagation, StoreMetrics};

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

/// All metrics of the process. They can be shared cheaply and updated from any thread.
#[derive(Debug)]
pub struct Metrics {
    pub registry: Registry,
    pub requests: Counter,
    /// Requests that Kafka deleted before they were read.
    pub requests_expired: Family<PartitionLabels, Counter>,
    /// Requests that existed when a partition without a committed offset was first read.
    pub requests_without_offset: Family<PartitionLabels, Counter>,
    /// Number of times the requests topic was found deleted and created again.
    pub requests_topic_recreated: Counter,
    pub evaluations: Family<EvaluationLabels, Counter>,
    pub events_published: Family<EnvironmentLabels, Counter>,
    pub dead_letters: Family<CodeLabels, Counter>,
    pub dropped: Family<DropLabels, Counter>,
    pub schema_lookups: Family<OutcomeLabels, Counter>,
    /// How far other clocks are ahead of this machine's.
    pub clock: ClockSkew,
    pub evaluate: EvaluateMetrics,
    pub taps: TapMetrics,
    pub audit: AuditMetrics,
    pub feed: FeedMetrics,
    pub store: Arc<StoreMetrics>,
    pub redis_cache: RedisCacheMetrics,
    pub edge: EdgeMetrics,
    pub publish: OutboxMetrics,
    pub http: HttpMetrics,
    pub access: AuthMetrics,
    pub experiments: ExperimentMetrics,
    pub flags: FlagMetrics,
    pub kafka: KafkaMetrics,
    pub certificates: Certificates,
    pub unleash_api: UnleashApiMetrics,
    pub telemetry: TelemetryMetrics,
    pub attributes: AttributeMetrics,
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
        let requests_expired = Family::default();
        let help = "Requests that Kafka deleted before they were read";
        registry.register("requests_expired", help, requests_expired.clone());
        let requests_without_offset = Family::default();
        let help = "Requests present when a partition without a committed offset was started";
        registry.register("requests_without_offset", help, requests_without_offset.clone());
        let requests_topic_recreated = Counter::default();
        let help = "Number of times that the requests topic was deleted and recreated";
        registry.register("requests_topic_recreated", help, requests_topic_recreated.clone());
        let evaluations = Family::default();
        registry.register("evaluations", "Flags evaluated", evaluations.clone());
        let events_published = Family::default();
        registry.register(
            "events_published",
            "Evaluation events committed to Kafka",
            events_published.clone(),
        );
        let dead_letters = Family::default();
        registry.register("dead_letters", "Records sent to the dead-letter topic", dead_letters.clone());
        let dropped = Family::default();
        registry.register("dropped", "Items that were dropped, by kind and reason", dropped.clone());
        let schema_lookups = Family::default();
        registry.register("schema_lookups", "Lookups of schema ids, by outcome", schema_lookups.clone());
        let clock = ClockSkew::default();
        let help = "Seconds by which another clock is ahead of this machine's, for all roles";
        registry.register("clock_skew_seconds", help, clock.seconds.clone());
        let evaluate = EvaluateMetrics::register(registry.sub_registry_with_prefix("evaluate"));
        let taps = TapMetrics::register(registry.sub_registry_with_prefix("tap"));
        let audit = AuditMetrics::register(registry.sub_registry_with_prefix("audit"));
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Version of the build", build);
        let feed = FeedMetrics::register(registry.sub_registry_with_prefix("feed"));
        let store = Arc::new(StoreMetrics::register(registry.sub_registry_with_prefix("store")));
        let redis_cache = RedisCacheMetrics::register(registry.sub_registry_with_prefix("warm"));
        let edge = EdgeMetrics::register(registry.sub_registry_with_prefix("edge"));
        let http = HttpMetrics::register(registry.sub_registry_with_prefix("http"));
        let access = AuthMetrics::register(registry.sub_registry_with_prefix("access"));
        let publish = OutboxMetrics::register(registry.sub_registry_with_prefix("publish"));
        let experiments = ExperimentMetrics::register(registry.sub_registry_with_prefix("experiments"));
        let flags = FlagMetrics::register(registry.sub_registry_with_prefix("flag"));
        let kafka = KafkaMetrics::register(registry.sub_registry_with_prefix("kafka"));
        let certificates = Certificates::default();
        registry.register_collector(Box::new(certificates.clone()));
        let telemetry = TelemetryMetrics::register(registry.sub_registry_with_prefix("telemetry"));
        let unleash_api = UnleashApiMetrics::register(registry.sub_registry_with_prefix("unleash_api"));
        let attributes = AttributeMetrics::register(registry.sub_registry_with_prefix("attributes"));
        Arc::new(Self {
            attributes,
            flags,
            kafka,
            certificates,
            experiments,
            unleash_api,
            telemetry,
            evaluate,
            taps,
            audit,
            edge,
            publish,
            http,
            access,
            registry,
            requests,
            requests_expired,
            requests_without_offset,
            requests_topic_recreated,
            evaluations,
            events_published,
            dead_letters,
            dropped,
            schema_lookups,
            clock,
            feed,
            store,
            redis_cache,
        })
    }

    /// Adds `count` dropped items under the given labels.
    pub fn drop_counted(&self, what: &'static str, reason: &'static str, count: u64) {
        if count > 0 {
            self.dropped.get_or_create(&DropLabels { what, reason }).inc_by(count);
        }
    }

    /// All metrics in OpenMetrics text format, which Prometheus reads.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
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

/// Metrics of the feeder, which writes flags to Kafka. `flagstream_feed_…`.
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

impl FeedMetrics {
    fn register(registry: &mut Registry) -> Self {
        let feed = Self::default();
        registry.register(
            "leader",
            "1 if this instance is the leader of the feeder, else 0",
            feed.leader.clone(),
        );
        registry.register(
            "terms_ended",
            "Terms of the feeder's leader that ended, by reason",
            feed.terms_ended.clone(),
        );
        registry.register("polls", "Polls of a flag source, by outcome", feed.polls.clone());
        registry.register("hints", "Records of the changes topic, by result of decoding", feed.hints.clone());
        registry.register("changes", "Changes published, by kind", feed.changes.clone());
        registry.register(
            "flags_refused",
            "Flags whose latest definition is refused",
            feed.flags_refused.clone(),
        );
        let help = "Time from detecting a change to its commit in Kafka";
        registry.register("propagation_seconds", help, feed.propagation.0.clone());
        let help = "Usage reports to Unleash, by outcome";
        registry.register("usage_reports", help, feed.usage_reports.clone());
        feed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of all metrics, including families without a series yet.
    fn names(registry: &Registry) -> Vec<String> {
        let debug = format!("{registry:?}");
        let mut prefix = String::new();
        let mut names = Vec::new();
        // The `Debug` output of a registry has its prefix, its metrics, and then its sub-registries.
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
