//! Kafka clients of flagstream: configuration, readers of topics, and descriptions of topics.
//!
//! A client is configured with a [`KafkaConfig`]: [`client::base`] returns the settings that all clients of a process
//! share, to which each adds its own. Everything here blocks unless it is `async`.
//!
//! - [`member`] is a member of a consumer group. [`consumer`] returns its records in batches, and [`partition_consumer`]
//!   keeps a queue for each partition.
//! - [`producer`] reports failed deliveries by the id of each record.
//! - [`tail`] and [`range`] read a topic outside any group, [`compacted`] reads the state in a topic, and [`ends`] reads
//!   offsets.
//! - [`describe`] and [`identity`] read the metadata that the crate `rdkafka` does not return, such as topic ids.
//! - [`reach`] finds out why no broker can be used. [`sender`] produces single records.
//! - [`statistics`] collects what clients report about themselves.
//! - [`backoff`] and [`faults`] are for retries.
//! - [`parse`] and [`properties`] validate the settings of clients.
//! - [`mock`] is a broker inside the process, for development and tests.
//! - [`log_limit`] limits repeated log lines; librdkafka's go through it.

// Calls of librdkafka that the crate `rdkafka` does not wrap.
#![allow(unsafe_code)]

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod arrivals;
pub mod backoff;
pub mod client;
pub mod compacted;
mod config;
pub mod consumer;
pub mod describe;
pub mod ends;
pub mod exists;
pub mod faults;
pub mod identity;
pub mod log_limit;
pub mod member;
pub mod mock;
pub mod parse;
pub mod partition_consumer;
pub mod producer;
pub mod properties;
pub mod range;
pub mod reach;
pub mod reading;
mod record;
mod secret;
pub mod sender;
pub mod statistics;
pub mod table;
pub mod tail;

pub use config::{GroupProtocol, KafkaConfig};
pub use secret::Secret;
