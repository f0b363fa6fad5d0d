//! Statistics of experiments on feature flags: results per variant, the decision, planning and simulation.
//!
//! Everything here is pure: a [`Tally`] of exposed users and their conversions goes in, [`Results`] come out. There is no
//! I/O and no clock.
//!
//! ```text
//!  Draws (of the flag's versions) ─► phases ─┐
//!  Counts (of exposures and conversions) ────┴─► Tally ─┐
//!  Design (metrics, goals, guardrails) ─────────────────┴─► sample ratio ─► comparisons ─► verdicts ─► decision
//! ```
//!
//! ```
//! use flagstream_experiments::statistics::sample_ratio;
//!
//! // 5,000 and 5,020 users of an experiment that assigns one half to each variant: no sample ratio mismatch.
//! let fit = sample_ratio::fit(&[5_000, 5_020], &[0.5, 0.5]).unwrap();
//! assert!(fit.p_value > 0.05);
//! ```

pub mod assignment;
pub mod counts;
pub mod design;
pub mod phases;
pub mod results;
pub mod rows;
#[cfg(any(test, feature = "sample-data"))]
pub mod sample_data;
pub mod simulation;
pub mod statistics;
pub mod tally;

pub use assignment::{Assignment, DrawList, Draws};
pub use counts::Counts;
pub use design::{Cap, Design, Dimension, DimensionSource, Goal, Kind, Layer, Metric, OnHarm, Role};
pub use results::Results;
pub use tally::{Excluded, Phase, QuantileSample, Sample, Stratum, Tally, VariantTally, Weighted};
