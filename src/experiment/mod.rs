//! Experiments on flags: which users were exposed to which variant, who converted, and the conclusions.
//!
//! ```text
//!  feature-flag-events ──► audit ── with the evaluations' own rows ──► exposures ──┐──► feature-flag-exposures
//!  feature-flag-conversions ──► audit ──► conversions ────────────────────────────┤
//!  feature-flag-definitions ──► audit ──► versions of the flag ──► phases ────────┴─► counted, compared ──► results
//! ```
//!
//! The rows are the source of truth. Results are always recomputed from them and never incremented, so late or repeated
//! records and crashes cannot make them wrong.

pub mod aggregate;
pub mod conversion;
mod counting;
mod create_request;
pub(crate) mod dimensions;
pub mod export;
pub mod exposure;
pub mod exposure_events;
pub mod freshness;
pub mod key;
mod layer;
pub mod records;
mod start;
pub mod tables;
mod tracked;

pub use create_request::{CreateRequest, Ending};
pub use flagstream_experiments::Results;
pub use flagstream_experiments::{Assignment, DrawList, Draws};
pub use flagstream_experiments::{
    Cap, Design, Dimension, DimensionSource, Goal, Kind, Layer, Metric, OnHarm, Role,
};
pub use flagstream_experiments::{Phase, Sample, Tally, VariantTally, Weighted};
pub use flagstream_experiments::{counts, design, phases, results, rows, simulation, statistics, tally};
pub use records::{ExperimentError, Experiments, StoredExperiment};
pub(crate) use start::wait_for_backfills;

/// Ways of choosing a variant by key.
pub(crate) type Assignments = std::collections::BTreeMap<i64, Assignment>;
