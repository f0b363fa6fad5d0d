//! Messages that flagstream reads from and writes to Kafka topics.

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod avro;
pub mod bulk_event;
pub mod change;
pub mod checkpoint;
pub mod conversion;
pub mod dead_letter;
pub mod definition;
pub mod evaluations;
pub mod event;
pub mod event_id;
pub mod exposure;
pub mod instance;
pub mod json;
pub mod kill_switch;
pub mod reply;
pub mod request;
pub mod result_size;
pub mod sequence;
pub mod source_status;
pub mod trace;
