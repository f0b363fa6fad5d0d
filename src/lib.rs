//! # flagstream
//!
//! Feature flags evaluated where the events already are: in Kafka.
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
//!                  REST, OFREP ─► http ─► publish ─► the same topic ├─► audit ─► Postgres (one row per event)
//!                                                                   └─► warm ──► Redis
//! ```
//!
//! The modules stand in the order in which data flows through them: [`message`] is what crosses a topic,
//! [`flag`] the pure evaluation core, [`feed`] brings definitions from Unleash into Kafka, [`store`] brings
//! them from Kafka into memory, [`kill`] switches flags off whatever their source says, [`evaluate`] answers requests and writes of them what [`privacy`] allows,
//! [`manage`] changes local flags, [`http`] answers callers that cannot wait and [`publish`] brings their events to Kafka, [`audit`] keeps what was
//! answered, [`replay`] evaluates that again, [`experiment`] counts who did what under which variant, [`warm`] keeps answers at hand in Redis.
//! [`kafka`], [`database`] and [`config`] are what they share; [`app`] builds every part once; [`cli`] is the command line;
//! [`embed`] is what other programs take of all this: the store and the core.

// A macro that prints panics when stdout or stderr is closed or full. `cli::print` does not.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

pub mod message;

pub mod flag;

pub mod feed;

pub mod store;

pub mod kill;

pub mod privacy;

pub mod evaluate;

pub mod experiment;

pub mod audit;

pub mod replay;

pub mod publish;

pub mod warm;

pub mod access;
pub mod manage;

pub mod http;

pub mod dev;
pub mod doctor;
pub mod flag_file;

pub mod bench;

pub mod database;
pub mod kafka;
pub mod registry;

pub mod config;

pub mod app;
pub mod cli;
pub mod embed;
pub mod health;
pub mod log_limit;
pub mod metrics;
pub mod private_files;
pub mod progress;
pub mod shutdown;
pub mod telemetry;
