//! Rejected records: finding them in their topic, and sending them to their original topics again.
//!
//! ```text
//!  feature-flag-dead-letters ─► latest, Finder ─► body (Avro as JSON) ─► edited by a person or a program
//!                                                                               │
//!  requests, conversions ◄─ Replayer: an input? readable? ◄─────────────────────┘
//! ```

pub mod body;
mod document;
mod find;
mod replay;

pub use document::{json, written_at};
pub use find::{FindError, Finder, Latest, LatestFilter, latest};
pub use replay::{Fate, ReplayError, Replayer};
