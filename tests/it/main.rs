//! Tests from the outside: the binary as child processes, with real Kafka and real Unleash.
//!
//! `scripts/test` starts the services and passes their addresses (`FLAGSTREAM_TEST_…`). Tests share the services and
//! run in parallel, so each has its own topics, consumer group and flag names; the few that stop a service run alone
//! ([`harness::Stack::exclusive`]). A test waits for a condition with a deadline and never for a fixed time. To prove that
//! a record is absent it first waits for a later record: Kafka's order within a partition makes that a proof.
//!
//! `FLAGSTREAM_TEST_LONG=1` runs the fault tests with more rounds.
#![allow(unsafe_code)] // signals to processes
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;

mod abuse;
mod api;
mod attributes;
mod audit;
mod auth;
mod avro;
mod bulk_events;
mod changes;
mod clients;
mod commands;
mod console;
mod corner_cases;
mod dead_letters;
mod differential;
mod doctor;
mod edge;
mod experiments;
mod faults;
mod feeder;
mod guides;
mod kill;
mod manage;
mod ofrep;
mod opentelemetry;
mod operations;
mod operators;
mod partitions;
mod pipeline;
mod redis_cache;
mod replay;
mod seeds;
mod soak;
mod sources;
mod spec;
mod store;
mod taps;
mod unleash_api;
