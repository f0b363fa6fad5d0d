//! Kafka in the service: dead letters, orphaned partitions, and the service's topics. The clients are in the crate
//! `flagstream-kafka`.

pub mod dead_letter;
pub mod orphaned_partitions;
pub mod topics;

pub use flagstream_kafka::{
    GroupProtocol, KafkaConfig, Secret, backoff, client, compacted, consumer, describe, ends, exists,
    identity, member, mock, parse, partition_consumer, producer, properties, range, reach, reading, sender,
    statistics, table, tail,
};
