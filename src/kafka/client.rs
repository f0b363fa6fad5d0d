//! librdkafka client configuration from ours.

use std::time::Duration;

use rdkafka::client::Client;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::producer::{DeliveryResult, ProducerContext};
use rdkafka::{ClientConfig, ClientContext};

use crate::config::{Config, KafkaConfig};
use crate::log_limit::KeyedLogLimit;

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

/// The compression of what this process produces, unless `FLAGSTREAM_KAFKA__CLIENT__COMPRESSION_TYPE` names another.
const COMPRESSION: &str = "lz4";

/// Has batches compressed as the configuration says, or with lz4. (`kafka` may name the property's alias.)
pub fn compress<'c>(client: &'c mut ClientConfig, kafka: &KafkaConfig) -> &'c mut ClientConfig {
    let names = ["compression.type", "compression.codec"];
    if !names.iter().any(|name| kafka.client.contains_key(*name)) {
        client.set("compression.type", COMPRESSION);
    }
    client
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
        .set("allow.auto.create.topics", if config.reply.create_missing { "true" } else { "false" });
    // A request that waits for a coordinator that is gone holds up the next rebalance for so long; by default a minute.
    if !config.kafka.client.contains_key("socket.timeout.ms") {
        settings.set("socket.timeout.ms", "10000");
    }
    settings
}

/// The target of the lines that [`log`] writes.
pub(crate) const LOG_TARGET: &str = module_path!();

/// Most characters of a line that tell its kind.
const KIND_CHARS_MAX: usize = 120;

/// What a warning of librdkafka is about, without what differs from client to client and from line to line: thread, broker,
/// numbers, and what follows in parentheses. Each client tells that a broker is away, every 30 s.
fn kind(facility: &str, message: &str) -> String {
    let text = message.split_once("]: ").map_or(message, |(_, text)| text);
    let named = text.split_once(": ").filter(|(broker, _)| !broker.contains(' '));
    let text = named.map_or(text, |(_, text)| text);
    let text = text.split(" (").next().unwrap_or_default();
    let digit = |c: char| if c.is_ascii_digit() { '0' } else { c };
    let mut kind = format!("{facility} ");
    for c in text.chars().take(KIND_CHARS_MAX).map(digit) {
        // Numbers of any length are alike.
        if c != '0' || !kind.ends_with('0') {
            kind.push(c);
        }
    }
    kind
}

/// librdkafka's own log lines, as ours. Of warnings and errors of one kind a line a minute is written.
pub fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    static LIMIT: KeyedLogLimit = KeyedLogLimit::new();
    // Producers and consumers share their settings on purpose: each ignores what is for the other. And what ends a
    // producer at a gap is meant to.
    let meant = ["property and will be ignored by this", "enable.gapless.guarantee is experimental"];
    if facility == "CONFWARN" && meant.iter().any(|text| message.contains(text)) {
        return tracing::debug!(facility, "{message}");
    }
    if is_expected(facility, message) {
        return tracing::info!(facility, "{message}");
    }
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error => {
            if let Some(suppressed) = LIMIT.admit(&kind(facility, message)) {
                tracing::error!(facility, suppressed, "{message}");
            }
        }
        RDKafkaLogLevel::Warning => {
            if let Some(suppressed) = LIMIT.admit(&kind(facility, message)) {
                tracing::warn!(facility, suppressed, "{message}");
            }
        }
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => tracing::info!(facility, "{message}"),
        RDKafkaLogLevel::Debug => tracing::debug!(facility, "{message}"),
    }
}

/// What happens whenever members of a group come or go, or a transactional id changes hands: the transaction is aborted, or
/// the request is repeated, and nothing has to be done about it.
fn is_expected(facility: &str, message: &str) -> bool {
    const FACILITIES: [&str; 4] = ["TXNERR", "ADDPARTS", "ADDOFFSETS", "TXNOFFSETS"];
    const CAUSES: [&str; 8] = [
        "ILLEGAL_GENERATION",
        "UNKNOWN_MEMBER_ID",
        "REBALANCE_IN_PROGRESS",
        "CONCURRENT_TRANSACTIONS",
        "Specified group generation id is not valid",
        "Unknown member",
        "Group rebalance in progress",
        "Producer attempted to update a transaction while another concurrent operation on the same transaction was ongoing",
    ];
    FACILITIES.contains(&facility) && CAUSES.iter().any(|cause| message.contains(cause))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_trouble_of_any_client_and_broker_is_one_kind() {
        let refused = |client: &str, broker: &str, address: &str, count: u32| {
            format!(
                "[thrd:{broker}]: {client}{broker}: Connect to ipv4#{address} failed: Connection refused \
                 (after {count}ms in state CONNECT, {count} identical error(s) suppressed)"
            )
        };
        let one = kind("FAIL", &refused("", "10.0.0.1:9092/bootstrap", "10.0.0.1:9092", 140));
        assert_eq!(one, kind("FAIL", &refused("", "10.0.0.22:19092/3", "10.0.0.22:19092", 0)));
        assert!(one.contains("Connection refused"), "{one}");
        let other = "[thrd:sasl_ssl://k:9092/1]: sasl_ssl://k:9092/1: SASL authentication error: Authentication failed (after 5ms)";
        assert_ne!(one, kind("FAIL", other));
        assert!(kind("X", &"ä".repeat(1_000)).chars().count() <= KIND_CHARS_MAX + 2);
    }

    #[test]
    fn what_a_rebalance_brings_is_no_error() {
        let failed = |cause| {
            format!("Current transaction failed in state InTransaction: Failed to commit offsets ({cause})")
        };
        assert!(is_expected("TXNERR", &failed("ILLEGAL_GENERATION")));
        assert!(!is_expected("TXNERR", &failed("_TIMED_OUT")));
        assert!(!is_expected("TXNERR", "Fatal transaction error: fenced (_FENCED)"));
        assert!(!is_expected("FAIL", "ILLEGAL_GENERATION"));
    }
}
