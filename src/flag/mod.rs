//! The evaluation core: what a flag is and what it answers. No I/O, no clock, no panic.
//!
//! A definition (Unleash's client feature JSON) is read leniently and validated ([`definition`]), compiled one
//! flag at a time with Unleash's own engine ([`compile`]), and kept in an immutable [`Snapshot`] that shares
//! everything a change did not touch. [`evaluate`] asks a snapshot; [`value`] turns the outcome into the type
//! that was asked for; [`steady`] says how long an outcome may be kept. [`local`] is what our own flags say, and that
//! in Unleash's words.

pub mod compile;
pub(crate) mod context;
pub mod definition;
pub mod evaluate;
mod killed;
pub mod local;
pub mod snapshot;
pub mod steady;
pub mod value;

pub use compile::{CompileError, CompiledFlag, MAX_FLAG_EXPRESSIONS, Payload, Provenance, Summary, Variant};
pub use context::{EvaluationContext, Moment};
pub use evaluate::Outcome;
pub use snapshot::{EnvironmentFlags, FlagChange, Snapshot};
pub use steady::Steady;
pub use value::{Answer, DefaultValue, ErrorCode, Lookup, Reason, Value, ValueType, answer};
