//! librdkafka client configuration from ours.

use rdkafka::ClientConfig;

use crate::config::KafkaConfig;

/// The settings that every client of this process shares; `role` becomes part of the client id.
pub fn base(kafka: &KafkaConfig, instance: &str, role: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &kafka.bootstrap_servers)
        .set("client.id", format!("{}-{instance}-{role}", kafka.group_id))
        // Keyed like Java's clients, so that a user's events and a Java service's requests share a partition.
        .set("partitioner", "murmur2_random");
    for (name, value) in &kafka.client {
        config.set(name, value.expose());
    }
    config
}
