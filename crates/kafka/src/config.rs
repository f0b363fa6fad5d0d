//! The connection to Kafka.

use std::collections::BTreeMap;

use super::Secret;

/// Protocol of consumer groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GroupProtocol {
    /// The members agree on the assignment in rebalances. Every broker supports it.
    #[default]
    Classic,
    /// The coordinator assigns the partitions (KIP-848). It needs Kafka 4.0 or later.
    Consumer,
}

/// Connection to Kafka.
#[derive(Debug, Clone)]
pub struct KafkaConfig {
    pub bootstrap_servers: String,
    /// Prefix of the ids of groups, clients and transactions.
    pub group_id: String,
    /// Name of this process, the second part of the ids of clients.
    pub instance: String,
    pub group_protocol: GroupProtocol,
    /// librdkafka properties (`security.protocol`, …) that override the built-in ones.
    pub client: BTreeMap<String, Secret>,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            bootstrap_servers: "localhost:9092".to_owned(),
            group_id: "flagstream".to_owned(),
            instance: "flagstream".to_owned(),
            group_protocol: GroupProtocol::default(),
            client: BTreeMap::new(),
        }
    }
}
