//! Erases a user from the audit trail, from experiments and from the flags' history, and records the erasure in the
//! change log.
//!
//! ```text
//!  evaluations, exposures, conversions     deleted, or kept without anything that identifies the user    rows.rs
//!  change log, versions, deleted flags     the user's id is replaced in lists of users                   history.rs
//!  flags in force, Kafka, Unleash, disks   not changed here; flags in force are reported                 Report
//! ```
//!
//! Only the database is changed. Evaluations that are in Kafka but not yet in the database become rows afterwards.
//! `evaluation_count` counts evaluations of all users and is not reduced. The hash chains stay valid, because the
//! digests of erased rows are kept and replace the rows in a verification.

mod history;
mod redact;
mod rows;

use chrono::Utc;
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use crate::database::audited::{self, Actor, Entry, Kind};
use crate::database::{Database, DatabaseError, in_transaction};

use super::chain::Hasher;

/// Treatment of a user's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Erasure {
    /// The rows are deleted.
    Remove,
    /// The rows stay, without anything that identifies the user.
    Anonymise,
}

/// Request to erase one user.
#[derive(Debug, Clone, Copy)]
pub struct ErasureRequest<'a> {
    /// Spellings of the user's id in the database.
    pub users: &'a [String],
    pub how: Erasure,
    /// User who requests the erasure, and the reason.
    pub author: Actor<'a>,
}

/// Result of an erasure.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct ErasureReport {
    /// Id of the erasure in the change log. Nothing in it refers to the user.
    pub erasure_id: String,
    /// Number of erased evaluations, exposures and conversions.
    pub rows: u64,
    /// Number of change log entries from which the user was removed.
    pub changes: u64,
    /// Number of recorded flag versions from which the user was removed.
    pub versions: u64,
    /// Flags in force whose rules name the user, as `environment/name`. They are not changed, because without the user
    /// they would evaluate differently; edit them where they are managed.
    pub flags_in_force: Vec<String>,
}

/// Erases a user and adds an entry to the change log.
pub async fn user(
    database: &Database,
    hasher: &Hasher,
    order: &ErasureRequest<'_>,
) -> Result<ErasureReport, DatabaseError> {
    let mut report = ErasureReport { erasure_id: Uuid::now_v7().to_string(), ..ErasureReport::default() };
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

/// Adds an entry to the change log with the time, author and extent of the erasure, but not the user.
async fn record(
    database: &Database,
    order: &ErasureRequest<'_>,
    report: &ErasureReport,
) -> Result<(), DatabaseError> {
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
