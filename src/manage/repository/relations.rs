//! Local flags of an environment and their dependencies.

use serde::Deserialize;

use crate::flag::local::{Dependency, Family, Status};

/// Locks the single row of this table, which serializes changes of dependencies.
pub(super) const TURN: &str = "UPDATE local_flag_dependencies SET changes = changes + 1";
pub(super) const ALL: &str =
    "SELECT name, document::text FROM local_flags WHERE environment = $1 AND deleted_at IS NULL";

/// Part of a document that describes its dependencies.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Related {
    status: Status,
    depends_on: Vec<Dependency>,
}

/// Collects the dependencies. A document that cannot be read counts as having none: it is not in force either.
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
