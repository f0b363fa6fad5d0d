//! Shared edges to Kafka: client configuration, transactions, topics.

pub mod client;
