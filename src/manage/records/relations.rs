//! Which local flags there are in an environment, and what they depend on.

use serde::Deserialize;

use crate::flag::local::{Dependency, Family, Status};

/// Waits for the change before, and makes the next one wait.
pub(super) const TURN: &str = "UPDATE local_flag_dependencies SET changes = changes + 1";
pub(super) const ALL: &str =
    "SELECT name, document::text FROM local_flags WHERE environment = $1 AND deleted_at IS NULL";

/// As much of a document as relations need.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Related {
    status: Status,
    depends_on: Vec<Dependency>,
}

/// A document that cannot be read depends on nothing: it is not in force either.
pub(super) fn read(rows: Vec<(String, String)>) -> Family {
    let mut family = Family::default();
    for (name, document) in rows {
        let related: Related = serde_json::from_str(&document).unwrap_or_default();
        if related.status == Status::Archived {
            family.archived.insert(name.clone());
        }
        let parents = related.depends_on.into_iter().map(|dependency| dependency.flag);
        family.parents.insert(name, parents.collect());
    }
    family
}
