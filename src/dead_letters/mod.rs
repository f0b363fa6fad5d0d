//! Rejected records: finding them in their topic, and sending them to their original topics again.
//!
//! ```text
//!  feature-flag-dead-letters ─► latest, Finder ─► body (Avro as JSON) ─► edited by a person or a program
//!                                                                               │
//!  requests, conversions ◄─ Replayer: an input? readable? ◄─────────────────────┘
//!  sources of taps, if the caller allows it
//! ```

pub mod body;
mod document;
mod find;
mod of_taps;
mod replay;

pub use document::{json, written_at};
pub use find::{FindError, Finder, Latest, LatestFilter, latest};
pub use replay::{Allowed, Fate, ReplayError, Replayer};
