//! librdkafka client configuration, derived from the configuration of flagstream.

use std::time::Duration;

use rdkafka::client::Client;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::producer::{DeliveryResult, ProducerContext};
use rdkafka::{ClientConfig, ClientContext};

use super::{GroupProtocol, KafkaConfig, statistics};
use crate::log_limit::KeyedLogLimit;

/// Prefix of the cluster id of librdkafka's mock broker, which `dev` embeds.
const EMBEDDED_CLUSTER: &str = "mockCluster";

/// A client context that only forwards librdkafka's log lines to our log.
#[derive(Debug, Clone, Copy)]
pub struct Logged;

/// The settings that all clients of this process share. `role` becomes part of the client id.
pub fn base(kafka: &KafkaConfig, role: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &kafka.bootstrap_servers)
        .set("client.id", format!("{}-{}-{role}", kafka.group_id, kafka.instance))
        // The partitioner of the Java client, so that a user's events and a Java service's requests share a partition.
        .set("partitioner", "murmur2_random")
        // A restarted broker is reconnected within a second; the default may take ten.
        .set("reconnect.backoff.max.ms", "1000");
    for (name, value) in &kafka.client {
        config.set(name, value.expose());
    }
    // Otherwise librdkafka would filter the lines requested with `debug` before they reach our log.
    if kafka.client.keys().any(|name| name == "debug") {
        config.set_log_level(RDKafkaLogLevel::Debug);
    }
    config
}

/// Compression of produced records, unless `FLAGSTREAM_KAFKA__CLIENT__COMPRESSION_TYPE` sets another one.
const COMPRESSION: &str = "lz4";

/// Sets the compression of batches to lz4, unless `kafka` configures one, possibly by the property's alias.
pub fn compress<'c>(client: &'c mut ClientConfig, kafka: &KafkaConfig) -> &'c mut ClientConfig {
    let names = ["compression.type", "compression.codec"];
    if !names.iter().any(|name| kafka.client.contains_key(*name)) {
        client.set("compression.type", COMPRESSION);
    }
    client
}

/// Longest time that the broker keeps the fetch of a consumer waiting, where nothing has to be noticed sooner than records.
pub const RECORDS_WAIT: Duration = Duration::from_millis(100);

/// Sets how long the broker may wait for records before it answers a fetch without any, unless `kafka` configures it.
/// Records are sent as soon as they are there. The time decides how many requests an idle consumer sends, and how long the
/// end of a partition, or a partition that was left out of the last request, waits for the next request.
pub fn wait_for_records<'c>(
    client: &'c mut ClientConfig,
    kafka: &KafkaConfig,
    wait: Duration,
) -> &'c mut ClientConfig {
    const NAME: &str = "fetch.wait.max.ms";
    if !kafka.client.contains_key(NAME) {
        client.set(NAME, wait.as_millis().to_string());
    }
    client
}

/// Whether this is the embedded broker of `dev`, which supports neither timestamp lookups nor topic settings. Blocks.
pub fn is_embedded<C: ClientContext>(client: &Client<C>, timeout: Duration) -> bool {
    client.fetch_cluster_id(timeout).is_some_and(|id| id.starts_with(EMBEDDED_CLUSTER))
}

/// Assignment strategy of all groups with the classic protocol.
pub const ASSIGNMENT_STRATEGY: &str = "cooperative-sticky";

/// Settings of a group's members.
#[derive(Debug, Clone, Copy)]
pub struct Membership {
    /// Time without a heartbeat after which the group gives a member's partitions to the others.
    pub session_timeout: Duration,
    /// Whether a consumer's metadata request may create the topic that it names.
    pub creates_topics: bool,
}

/// Configuration of a static member of a role's group. It reads only committed records, and the application commits its
/// offsets. `client` becomes part of the client id, and `name` is the member's id in the group.
pub fn member(
    kafka: &KafkaConfig,
    membership: Membership,
    role: &str,
    client: &str,
    name: &str,
) -> ClientConfig {
    let Membership { session_timeout, creates_topics } = membership;
    let mut settings = base(kafka, client);
    settings
        .set("group.id", format!("{}-{role}", kafka.group_id))
        .set("group.instance.id", name)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed")
        // With the default of one second, a partition whose queue ran empty would not be fetched again for that long.
        .set("fetch.queue.backoff.ms", "5")
        .set("fetch.message.max.bytes", "2097152")
        .set("allow.auto.create.topics", if creates_topics { "true" } else { "false" });
    match kafka.group_protocol {
        GroupProtocol::Classic => {
            settings
                .set("partition.assignment.strategy", ASSIGNMENT_STRATEGY)
                .set("session.timeout.ms", session_timeout.as_millis().to_string())
                .set("heartbeat.interval.ms", (session_timeout / 4).as_millis().min(1_000).to_string());
        }
        // Assignment, session timeout and heartbeat interval are settings of the broker or of the group there.
        GroupProtocol::Consumer => {
            settings.set("group.protocol", "consumer");
        }
    }
    statistics::enable(&mut settings, client);
    // A request to a coordinator that has gone delays the next rebalance for this long; the default is a minute.
    if !kafka.client.contains_key("socket.timeout.ms") {
        settings.set("socket.timeout.ms", "10000");
    }
    settings
}

/// The log target of the lines that [`log`] writes.
pub const LOG_TARGET: &str = module_path!();

/// Upper bound in characters of a line's kind.
const KIND_CHARS_MAX: usize = 120;

/// The kind of a librdkafka warning, without the parts that differ between clients and lines: thread, broker, numbers,
/// and text in parentheses. Every client logs an unreachable broker every 30 s.
fn kind(facility: &str, message: &str) -> String {
    let text = message.split_once("]: ").map_or(message, |(_, text)| text);
    let named = text.split_once(": ").filter(|(broker, _)| !broker.contains(' '));
    let text = named.map_or(text, |(_, text)| text);
    let text = text.split(" (").next().unwrap_or_default();
    let digit = |c: char| if c.is_ascii_digit() { '0' } else { c };
    let mut kind = format!("{facility} ");
    for c in text.chars().take(KIND_CHARS_MAX).map(digit) {
        // Digits are collapsed, so that numbers of any length are equal.
        if c != '0' || !kind.ends_with('0') {
            kind.push(c);
        }
    }
    kind
}

/// Writes a librdkafka log line to our log. Of warnings and errors of one kind, one line per minute is written.
pub fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    static LIMIT: KeyedLogLimit = KeyedLogLimit::new();
    // Intended: producers and consumers share their settings and each ignores those of the other, and the gapless
    // guarantee is configured on purpose.
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

/// Whether the line is expected when members of a group join or leave, or when a transactional id changes hands. The
/// transaction is then aborted or the request retried without any intervention.
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
