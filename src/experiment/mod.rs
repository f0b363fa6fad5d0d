//! Experiments on flags: who was exposed to which variant, who converted, and what may be concluded from it.

pub mod design;
pub mod results;
pub mod simulation;
pub mod statistics;
pub mod tally;

pub use design::{Design, Goal, Kind, Metric, Role};
pub use results::Results;
pub use tally::{Phase, Sample, Tally, VariantTally, Weighted};
