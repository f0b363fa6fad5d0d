//! The connection to Kafka.

use std::collections::BTreeMap;

use super::Secret;

/// Connection to Kafka.
#[derive(Debug, Clone)]
pub struct KafkaConfig {
    pub bootstrap_servers: String,
    /// Prefix of the ids of groups, clients and transactions.
    pub group_id: String,
    /// Name of this process, the second part of the ids of clients.
    pub instance: String,
    /// librdkafka properties (`security.protocol`, …) that override the built-in ones.
    pub client: BTreeMap<String, Secret>,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            bootstrap_servers: "localhost:9092".to_owned(),
            group_id: "flagstream".to_owned(),
            instance: "flagstream".to_owned(),
            client: BTreeMap::new(),
        }
    }
}
