//! Removes a user from the audit trail, from experiments and from the history of flags, and records that this was done.
//!
//! ```text
//!  evaluations, exposures, conversions     removed, or kept without anything that says whose they are    rows.rs
//!  change log, versions, deleted flags     the user's id is replaced in lists of users                   history.rs
//!  flags in force, Kafka, Unleash, disks   not changed here: reported                                    Report::kept
//! ```
//!
//! Only the database is changed. Evaluations that are in Kafka and no rows yet become rows afterwards; `evaluation_count` counts what was
//! evaluated, whoever asked, and stays. The hash chains stay valid: digests of what was erased are kept, and count in its place.

mod history;
mod redact;
mod rows;

use chrono::Utc;
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use crate::database::audited::{self, Author, Entry, Kind};
use crate::database::{Database, DatabaseError, in_transaction};

use super::chain::Hasher;

/// What becomes of a user's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Erasure {
    /// The rows are deleted.
    Remove,
    /// The evaluation stays, nothing in it tells of whom.
    Anonymise,
}

/// An erasure that is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// The texts that this user is written as.
    pub users: &'a [String],
    pub how: Erasure,
    /// Who asks for it, and why.
    pub author: Author<'a>,
}

/// What was erased, and what is left.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The erasure's own id, by which the change log names it. Nothing in it refers to the user.
    pub erasure_id: String,
    /// Evaluations, exposures and conversions.
    pub rows: u64,
    /// Entries of the change log from which the user was taken.
    pub changes: u64,
    /// Recorded versions of flags from which the user was taken.
    pub versions: u64,
    /// Flags in force whose rules name the user, as `environment/name`. They mean something else without; change them where they are managed.
    pub flags_in_force: Vec<String>,
}

/// Erases a user and enters the erasure into the change log.
pub async fn user(database: &Database, hasher: &Hasher, order: &Order<'_>) -> Result<Report, DatabaseError> {
    let mut report = Report { erasure_id: Uuid::now_v7().to_string(), ..Report::default() };
    for user in order.users {
        report.rows += rows::erase(database, hasher, user, order.how, &report.erasure_id).await?;
        let of_history = history::erase(database, user, &report.erasure_id).await?;
        report.changes += of_history.changes;
        report.versions += of_history.versions;
        report.flags_in_force.extend(of_history.flags_in_force);
    }
    report.flags_in_force.sort();
    report.flags_in_force.dedup();
    record(database, order, &report).await?;
    Ok(report)
}

/// The change log says that there was an erasure, when, by whom and how much; not whose it was.
async fn record(database: &Database, order: &Order<'_>, report: &Report) -> Result<(), DatabaseError> {
    let action = match order.how {
        Erasure::Remove => "removed",
        Erasure::Anonymise => "anonymised",
    };
    let erased = json!({"rows": report.rows, "changes": report.changes, "versions": report.versions});
    let entry = Entry {
        kind: Kind::Erasure,
        subject: &report.erasure_id,
        action,
        author: order.author,
        before: None,
        after: Some(erased),
        at: Utc::now(),
    };
    in_transaction!(database, |transaction, sql| {
        audited::enter!(transaction, sql, &entry);
    });
    Ok(())
}
