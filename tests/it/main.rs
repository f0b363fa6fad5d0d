//! Everything from the outside: the binary as child processes, real Kafka and real Unleash around it.
//!
//! `scripts/test` starts the services and tells where they are (`FLAGSTREAM_TEST_…`). Tests share them and run
//! side by side, so each has topics, a consumer group and flag names of its own; the few that stop a service wait
//! until they are alone ([`harness::Stack::alone`]). A test waits for a condition with a deadline, never for a time,
//! and believes in an absence only after a sign of life: Kafka's order within a partition is what makes that proof.
//!
//! `FLAGSTREAM_TEST_LONG=1` runs the fault tests longer and harder.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;

mod abuse;
mod api;
mod audit;
mod auth;
mod avro;
mod changes;
mod clients;
mod commands;
mod corner_cases;
mod dead_letters;
mod differential;
mod doctor;
mod edge;
mod experiments;
mod faults;
mod feeder;
mod kill;
mod manage;
mod ofrep;
mod partitions;
mod pipeline;
mod redis_cache;
mod replay;
mod seeds;
mod sources;
mod spec;
mod store;
