//! Shared access to Kafka: client configuration, batch consumption, and producers that report failed deliveries.

pub mod client;
mod config;
pub mod consumer;
pub mod dead_letter;
pub mod describe;
pub mod ends;
pub mod exists;
pub mod identity;
pub mod orphaned_partitions;
pub mod parse;
pub mod producer;
pub mod properties;
pub mod range;
pub mod reach;
pub mod reading;
mod record;
mod secret;
pub mod sender;
pub mod tail;
pub mod topics;

pub use config::KafkaConfig;
pub use secret::Secret;
