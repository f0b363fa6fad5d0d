//! librdkafka properties that an operator may set, and those that carry a guarantee.

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

/// Properties that are ours, and why.
const REFUSED: &[(&str, &str)] = &[
    ("bootstrap.servers", "set KAFKA_BOOTSTRAP_SERVERS"),
    ("metadata.broker.list", "set KAFKA_BOOTSTRAP_SERVERS"),
    ("client.id", "it is made of the group and FLAGSTREAM_INSTANCE"),
    ("group.id", "set FLAGSTREAM_KAFKA__GROUP_ID"),
    ("group.instance.id", "it is made of FLAGSTREAM_INSTANCE"),
    ("group.protocol", "rebalances are handled by assignor"),
    ("partition.assignment.strategy", "rebalances are handled by assignor"),
    ("session.timeout.ms", "set FLAGSTREAM_DELIVERY__SESSION_TIMEOUT"),
    ("transactional.id", "it is made of FLAGSTREAM_INSTANCE"),
    ("transaction.timeout.ms", "set FLAGSTREAM_DELIVERY__TRANSACTION_TIMEOUT"),
    ("enable.idempotence", EXACTLY_ONCE),
    ("enable.gapless.guarantee", EXACTLY_ONCE),
    ("acks", EXACTLY_ONCE),
    ("request.required.acks", EXACTLY_ONCE),
    ("retries", EXACTLY_ONCE),
    ("message.send.max.retries", EXACTLY_ONCE),
    ("max.in.flight", EXACTLY_ONCE),
    ("max.in.flight.requests.per.connection", EXACTLY_ONCE),
    ("message.timeout.ms", EXACTLY_ONCE),
    ("delivery.timeout.ms", EXACTLY_ONCE),
    ("isolation.level", EXACTLY_ONCE),
    ("enable.auto.commit", EXACTLY_ONCE),
    ("auto.commit.enable", EXACTLY_ONCE),
    ("enable.auto.offset.store", EXACTLY_ONCE),
    ("auto.offset.reset", EXACTLY_ONCE),
    ("enable.partition.eof", "the end of a topic is found with it"),
    ("delivery.report.only.error", "deliveries are counted with it"),
    ("partitioner", "a user's results stay in the partition of the user's requests"),
    ("allow.auto.create.topics", "a reply must not create a topic"),
];

const EXACTLY_ONCE: &str = "exactly-once delivery depends on it";

/// The property that a variable's last part names: `SECURITY_PROTOCOL` is `security.protocol`.
pub(super) fn property_of(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', ".")
}

/// Whether librdkafka knows the property, takes the value, and nothing of ours depends on it. The error never
/// repeats the value: it may be a secret.
pub(super) fn check(property: &str, value: &str) -> Result<(), String> {
    if let Some((_, reason)) = REFUSED.iter().find(|(refused, _)| *refused == property) {
        return Err(format!("`{property}` cannot be changed: {reason}"));
    }
    match ClientConfig::new().set(property, value).create_native_config() {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => {
            Err(format!("`{property}` is not a property of librdkafka"))
        }
        Err(_) => Err(format!("`{property}` does not take this value")),
    }
}
