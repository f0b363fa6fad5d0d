//! Experiments on flags: who was exposed to which variant, who converted, and what may be concluded from it.
//!
//! ```text
//!  feature-flag-events ──► audit ── with the evaluations' own rows ──► exposures ──┐
//!  feature-flag-conversions ──► audit ──► conversions ────────────────────────────┤
//!  feature-flag-definitions ──► audit ──► versions of the flag ──► phases ────────┴─► counted, compared ──► results
//! ```
//!
//! The rows are the truth: results are counted anew from them, never added to, so that nothing which comes late, twice or
//! after a crash can make them differ from a recount.

pub mod conversion;
pub mod design;
pub mod exposure;
pub mod key;
mod phases;
pub mod records;
pub mod recount;
pub mod results;
pub mod simulation;
pub mod statistics;
pub mod tables;
pub mod tally;
mod wanted;

pub use design::{Design, Goal, Kind, Metric, Role};
pub use records::{ExperimentError, Experiments, Kept};
pub use results::Results;
pub use tally::{Phase, Sample, Tally, VariantTally, Weighted};
pub use wanted::{Ending, Wanted};
