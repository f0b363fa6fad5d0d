//! The evaluation core: flag definitions and their evaluation. It does no I/O, reads no clock and does not
//! panic.
//!
//! A definition (Unleash's client feature JSON) is read leniently and validated ([`definition`]), compiled
//! one flag at a time with Unleash's own engine ([`compile`]), and kept in an immutable [`Snapshot`]; a
//! changed snapshot shares every unchanged part with its predecessor. [`evaluate`] evaluates a flag of a
//! snapshot; [`value`] converts the outcome into the requested type; [`cacheability`] determines how long an
//! outcome may be cached. [`local`] defines local flags and translates them into Unleash's format.

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod cacheability;
pub mod compile;
pub mod context;
pub mod definition;
pub mod evaluate;
pub mod kill_switch;
mod killed;
pub mod local;
pub mod snapshot;
mod source;
pub mod value;

pub use cacheability::Cacheability;
pub use compile::{CompileError, CompiledFlag, MAX_FLAG_EXPRESSIONS, Payload, Provenance, Summary, Variant};
pub use context::{EvaluationContext, Moment};
pub use evaluate::Outcome;
pub use evaluate::explain::{Decision, Explanation};
pub use kill_switch::{KillSwitch, SwitchState};
pub use snapshot::{EnvironmentFlags, FlagChange, Snapshot};
pub use source::Source;
pub use value::{Answer, DefaultValue, ErrorCode, Lookup, Reason, Value, ValueType, answer};
