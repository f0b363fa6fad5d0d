//! Experiments on flags: which users were exposed to which variant, who converted, and the conclusions.
//!
//! ```text
//!  feature-flag-events ──► audit ── with the evaluations' own rows ──► exposures ──┐
//!  feature-flag-conversions ──► audit ──► conversions ────────────────────────────┤
//!  feature-flag-definitions ──► audit ──► versions of the flag ──► phases ────────┴─► counted, compared ──► results
//! ```
//!
//! The rows are the source of truth. Results are always recomputed from them and never incremented, so late or repeated
//! records and crashes cannot make them wrong.

pub mod aggregate;
pub mod conversion;
mod create_request;
pub mod design;
pub mod exposure;
pub mod key;
mod phases;
pub mod records;
pub mod results;
pub mod simulation;
mod start;
pub mod statistics;
pub mod tables;
pub mod tally;

pub use create_request::{CreateRequest, Ending};
pub use design::{Design, Goal, Kind, Metric, Role};
pub use records::{ExperimentError, Experiments, StoredExperiment};
pub use results::Results;
pub(crate) use start::wait_for_backfills;
pub use tally::{Phase, Sample, Tally, VariantTally, Weighted};
