//! Verifies the audit trail against its hash chains and against the checkpoints in Kafka.
//!
//! ```text
//!  audit_blocks          each block's hash follows from the one before it       blocks.rs
//!  evaluations           the rows of a block add up to its digest               rows.rs
//!  change logs           each entry matches its link, none is missing           changes.rs
//!  checkpoints in Kafka  each is signed, and the chains contain its hashes      checkpoints.rs
//! ```

mod blocks;
mod changes;
mod checkpoints;
mod rows;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::config::Config;
use crate::database::{DatabaseError, PostgresDatabase};
use crate::kafka::tail::FollowError;
use crate::replay::ReplayError;

use super::chain::{Digest, Hasher};

/// Upper bound of problems that are listed; all are counted.
pub const PROBLEMS_MAX: usize = 1_000;

/// Time range of a verification.
#[derive(Debug, Clone, Default)]
pub struct Range {
    /// Rows written before this moment are not compared. `None`: from the beginning.
    pub from: Option<DateTime<Utc>>,
    /// Rows written from this moment on are not compared. `None`: to the end.
    pub to: Option<DateTime<Utc>>,
}

/// Progress of a verification, which can be read while it runs.
#[derive(Debug, Default)]
pub struct Progress {
    /// Number of blocks whose rows are compared.
    pub blocks: AtomicU64,
    /// Number of blocks to compare; 0 until it is known.
    pub expected: AtomicU64,
}

/// Result of a verification.
#[derive(Debug, Default, Serialize)]
pub struct Verified {
    /// Number of chains of evaluations with at least one block, one per partition of an events topic.
    pub chains: u64,
    /// Number of blocks whose hash was checked.
    pub blocks: u64,
    /// Number of blocks whose rows were removed by retention, in whole or in part.
    pub blocks_past_retention: u64,
    /// Number of rows compared with their block.
    pub rows: u64,
    /// Number of rows that an erasure removed or anonymised.
    pub erased_rows: u64,
    /// Number of rows that were written before the chain existed, or by a version of flagstream without it.
    pub rows_without_block: u64,
    /// Number of entries of the change logs.
    pub changes: u64,
    /// Number of change log entries from which an erasure removed a user.
    pub erased_changes: u64,
    /// Number of checkpoints compared. `None`: they were not read.
    pub checkpoints: Option<u64>,
    /// Number of checkpoints without a signature, which anyone who can write to the topic could have made.
    pub unsigned_checkpoints: u64,
    /// Number of problems, including those that are not listed.
    pub problem_count: u64,
    /// The first [`PROBLEMS_MAX`] problems.
    pub problems: Vec<Problem>,
}

/// One difference between the audit trail and its chains or checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Kind of the difference.
    pub kind: ProblemKind,
    /// Affected chain or change log: `topic/partition`, `feature_flag_changes` or `audited_changes`.
    pub chain: String,
    /// Number of the block, or of the change log's link.
    pub number: i64,
    /// Human-readable description, one sentence.
    pub detail: String,
}

/// Kinds of differences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// A block or link of the chain is missing.
    Missing,
    /// A block or link does not follow from the one before it.
    BrokenChain,
    /// The rows of a block, or the entry of a link, differ from what was written.
    Changed,
    /// A row or entry belongs to no block or link.
    Added,
    /// A checkpoint disagrees with the chain.
    CheckpointDiffers,
    /// A checkpoint's signature was not made with this deployment's key.
    BadSignature,
}

/// Reason why a verification could not be completed.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("{0}")]
    Database(#[from] DatabaseError),
    #[error("{0}")]
    AuditStore(#[from] ReplayError),
    #[error("{0}")]
    Kafka(#[from] FollowError),
    #[error("the task that reads the checkpoints ended unexpectedly")]
    Ended,
}

impl From<sqlx::Error> for VerifyError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl Verified {
    fn add(&mut self, kind: ProblemKind, chain: impl Into<String>, number: i64, detail: impl Into<String>) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem { kind, chain: chain.into(), number, detail: detail.into() });
        }
    }
}

/// Verifies the whole trail. `kafka` is the configuration for reading the checkpoints; `None` skips them.
pub async fn verify(
    database: &PostgresDatabase,
    kafka: Option<&Arc<Config>>,
    hasher: &Hasher,
    range: &Range,
    progress: &Progress,
) -> Result<Verified, VerifyError> {
    let mut verified = Verified::default();
    blocks::verify(database, hasher, &mut verified).await?;
    rows::verify(database, hasher, range, &mut verified, progress).await?;
    changes::verify(database, &mut verified).await?;
    if let Some(config) = kafka {
        checkpoints::verify(database, config, hasher, &mut verified).await?;
    }
    Ok(verified)
}

/// Decodes a digest column. `None` if its length is wrong.
fn digest(bytes: &[u8]) -> Option<Digest> {
    Digest::try_from(bytes).ok()
}

fn count(number: &AtomicU64, more: u64) {
    number.fetch_add(more, Ordering::Relaxed);
}
