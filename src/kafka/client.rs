//! librdkafka client configuration from ours.

use std::time::Duration;

use rdkafka::client::Client;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::producer::{DeliveryResult, ProducerContext};
use rdkafka::{ClientConfig, ClientContext};

use crate::config::{Config, KafkaConfig};

/// How librdkafka's broker names its cluster.
const EMBEDDED_CLUSTER: &str = "mockCluster";

/// The context of a client that needs no more than its log lines among ours.
#[derive(Debug, Clone, Copy)]
pub struct Logged;

/// The settings that every client of this process shares; `role` becomes part of the client id.
pub fn base(kafka: &KafkaConfig, instance: &str, role: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &kafka.bootstrap_servers)
        .set("client.id", format!("{}-{instance}-{role}", kafka.group_id))
        // Keyed like Java's clients, so that a user's events and a Java service's requests share a partition.
        .set("partitioner", "murmur2_random")
        // A broker that is back is found within a second; the default may take ten.
        .set("reconnect.backoff.max.ms", "1000");
    for (name, value) in &kafka.client {
        config.set(name, value.expose());
    }
    // What is asked for with `debug` must not be filtered before our own logging sees it.
    if kafka.client.keys().any(|name| name == "debug") {
        config.set_log_level(RDKafkaLogLevel::Debug);
    }
    config
}

/// Whether this is the broker of `dev`, which knows neither times nor settings. Blocks.
pub fn is_embedded<C: ClientContext>(client: &Client<C>, patience: Duration) -> bool {
    client.fetch_cluster_id(patience).is_some_and(|id| id.starts_with(EMBEDDED_CLUSTER))
}

/// How the members of a group share out its partitions.
pub const ASSIGNMENT_STRATEGY: &str = "cooperative-sticky";

/// A static member of a role's group, which reads committed records from where the application says.
pub fn member(config: &Config, role: &str, client: &str, name: &str) -> ClientConfig {
    let session_timeout = config.delivery.session_timeout;
    let mut settings = base(&config.kafka, &config.instance, client);
    settings
        .set("group.id", format!("{}-{role}", config.kafka.group_id))
        .set("group.instance.id", name)
        .set("partition.assignment.strategy", ASSIGNMENT_STRATEGY)
        .set("session.timeout.ms", session_timeout.as_millis().to_string())
        .set("heartbeat.interval.ms", (session_timeout / 4).as_millis().min(1_000).to_string())
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed")
        // The default of a second would leave a partition that ran dry alone for as long.
        .set("fetch.queue.backoff.ms", "5")
        .set("fetch.message.max.bytes", "2097152")
        .set("allow.auto.create.topics", "false");
    // A request that waits for a coordinator that is gone holds up the next rebalance for so long; by default a minute.
    if !config.kafka.client.contains_key("socket.timeout.ms") {
        settings.set("socket.timeout.ms", "10000");
    }
    settings
}

/// librdkafka's own log lines, as ours.
pub fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    // Producers and consumers share their settings on purpose: each ignores what is for the other. And what ends a
    // producer at a gap is meant to.
    let meant = ["property and will be ignored by this", "enable.gapless.guarantee is experimental"];
    if facility == "CONFWARN" && meant.iter().any(|text| message.contains(text)) {
        return tracing::debug!(facility, "{message}");
    }
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error => {
            tracing::error!(facility, "{message}");
        }
        RDKafkaLogLevel::Warning => tracing::warn!(facility, "{message}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => tracing::info!(facility, "{message}"),
        RDKafkaLogLevel::Debug => tracing::debug!(facility, "{message}"),
    }
}

impl ClientContext for Logged {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }
}

impl ConsumerContext for Logged {}

impl ProducerContext for Logged {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}
