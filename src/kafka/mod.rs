//! Shared access to Kafka: batch consumption, producers that report failed deliveries, and the topics of the service. The
//! clients themselves are in the crate `flagstream-kafka`.

pub mod consumer;
pub mod dead_letter;
pub mod exists;
pub mod orphaned_partitions;
pub mod producer;
pub mod reading;
mod record;
pub mod topics;

pub use flagstream_kafka::{
    KafkaConfig, Secret, backoff, client, compacted, describe, ends, identity, mock, parse, properties,
    range, reach, sender, tail,
};
