//! # flagstream
//!
//! flagstream evaluates feature flags in Kafka.
//!
//! ```text
//!             Unleash ──poll / hint──┐
//!                                    ▼
//!  feature-flag-changes ──hints──► feed ── one Kafka transaction ──┬─► feature-flag-definitions (compacted)
//!                                                                  ├─► feature-flag-events      (CREATED / UPDATED / DELETED)
//!                                                                  └─► feature-flag-updates     (invalidations)
//!  feature-flag-definitions ──► store (immutable snapshot, atomic swap)
//!                                 │
//!  feature-flag-evaluation-requests ─► evaluate ─► feature-flag-events (EVALUATED), replies, dead letters
//!                                 │                              │
//!                  REST, OFREP ─► http ─► outbox ──► the same topic ├─► audit ─► Postgres (one row per event)
//!                                                                   └─► redis_cache ─► Redis
//! ```
//!
//! The modules are declared in the order of the data flow. [`message`] defines the records of the topics, [`flag`] is
//! the pure evaluation core, [`feed`] copies definitions from Unleash to Kafka, and [`store`] loads them from Kafka
//! into memory. [`kill`] disables flags whatever their source returns. [`evaluate`] answers requests; [`privacy`]
//! restricts what is written about them. [`manage`] changes local flags, [`unleash_api`] serves Unleash's SDKs, [`http`] is the API for synchronous callers,
//! and [`outbox`] sends their events to Kafka. [`audit`] stores the evaluations, [`replay`] evaluates them again,
//! [`experiment`] computes results per variant, and [`redis_cache`] caches evaluations in Redis. [`kafka`], [`database`] and
//! [`config`] are shared; [`app`] builds every part once; [`cli`] is the command line; [`embed`] provides the store and
//! the core to other programs.

// The standard library's print macros panic when stdout or stderr is closed or full. `cli::print` does not.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

pub use flagstream_protocol as message;

pub use flagstream_evaluation as flag;

pub mod feed;

pub use flagstream_store as store;

pub mod kill;

pub mod attributes;

pub mod privacy;

pub mod evaluate;

pub mod experiment;

pub mod audit;

pub mod replay;

pub mod cluster;
pub mod dead_letters;
pub mod live;

pub mod outbox;

pub mod redis_cache;

pub mod auth;
pub mod manage;
pub mod unleash_api;

pub mod http;

pub mod dev;
pub mod doctor;
pub mod flag_file;

pub mod database;
pub mod kafka;
pub mod schema_registry;

pub mod config;

pub mod app;
pub mod asyncapi;
pub mod cli;
pub mod clock;
pub use flagstream_store::embed;
pub mod health;
pub use flagstream_kafka::log_limit;
pub mod metrics;
pub use flagstream_store::private_files;
pub mod progress;
pub mod shutdown;
pub mod telemetry;
#[cfg_attr(not(feature = "otel"), path = "traces_off.rs")]
pub mod traces;
