//! Local flags: their model, validation, and translation into Unleash's format.
//!
//! Local flags use the same engine as all others: [`feature`] writes a local flag as Unleash would, so that
//! it is compiled, evaluated and drawn the same way. Extensions that Unleash's format cannot express are in
//! members named `local` ([`definition::local`](super::definition)). `schemas/local-flag.schema.json` defines
//! the fields of a local flag; reading validates against it first.

mod check;
mod condition;
mod graph;
mod labels;
mod model;
mod read;
mod schedule;
mod schema;
mod translate;
mod value;
mod weights;

use serde::Deserialize;

pub use check::warnings;
pub use graph::{Family, MAX_DEPENDENCY_LEVELS, check_dependencies};
pub use labels::{FlagType, Operator, Status, Strategy, ValueKind, Weights};
pub use model::{Attribute, Dependency, Link, LocalFlag, Rule, Step, Variant};
pub use read::{Change, Invalid, check_environment, check_name, created, updated};
pub use schedule::{last_step, next_step};
pub use schema::SCHEMA;
pub use translate::feature;

/// Revision of the local flag in a definition that [`feature`] generated; `None` for any other definition.
pub fn revision(definition: &str) -> Option<i64> {
    #[derive(Deserialize)]
    struct Feature {
        local: Local,
    }
    #[derive(Deserialize)]
    struct Local {
        revision: i64,
    }
    serde_json::from_str::<Feature>(definition).ok().map(|feature| feature.local.revision)
}

#[cfg(test)]
mod tests;
