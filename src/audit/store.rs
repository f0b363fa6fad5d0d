//! Interface between the sink and its database.

use std::future::Future;
use std::ops::Range;

use chrono::{DateTime, Utc};

use crate::database::DatabaseError;

use super::batch::{Batch, Refusal};
use super::dead_letters::{DeadLetters, UnsentDeadLetter};
use super::evaluation::Evaluation;
use super::position::{Log, Position};
use super::retention::Kept;

/// Database that stores batches; implemented by [`super::postgres`] and [`super::sqlite`].
pub trait AuditStore: Send + 'static {
    /// `db.system.name` in the semantic conventions of OpenTelemetry.
    const SYSTEM: &'static str;

    /// Appends an evaluation in the encoding that `write` expects. Runs on the reader's thread, concurrently with the
    /// `write` of the previous batch.
    fn encode(evaluation: &Evaluation<'_>, out: &mut Vec<u8>);

    /// Returns the sink's positions in these partitions; offset 0 where it has none.
    fn positions(
        &mut self,
        log: &Log,
        partitions: &[i32],
    ) -> impl Future<Output = Result<Vec<Position>, DatabaseError>> + Send;

    /// Starts a new generation of a partition at `offset`, if the partition is still at `position`. `false`: another
    /// sink moved it first.
    fn restart(
        &mut self,
        log: &Log,
        position: &Position,
        offset: i64,
    ) -> impl Future<Output = Result<bool, DatabaseError>> + Send;

    /// Writes the accepted entries and moves the positions in one transaction, if the positions are those of the batch.
    /// The refused entries are sent as dead letters immediately before the commit.
    fn write(
        &mut self,
        log: &Log,
        batch: &Batch,
        pending_dead_letters: &mut DeadLetters,
    ) -> impl Future<Output = Result<Written, WriteError>> + Send;

    /// Checks whether the database accepts these entries, by writing them and rolling back.
    fn probe(
        &mut self,
        batch: &Batch,
        entries: Range<usize>,
    ) -> impl Future<Output = Result<(), DatabaseError>> + Send;

    /// Creates partitions ahead of time and removes what is older than `retention_days` by the database's clock, unless
    /// a clock seems wrong. `process` is the time of this machine's clock.
    fn maintain(
        &mut self,
        retention_days: u32,
        process: DateTime<Utc>,
    ) -> impl Future<Output = Result<Kept, DatabaseError>> + Send;
}

/// Reason why a batch was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("{0}")]
    Database(#[from] DatabaseError),
    /// The first dead letter of each partition that cannot be written.
    #[error("{} dead letters are not written", .0.len())]
    DeadLetters(Vec<UnsentDeadLetter>),
    /// Entries, by index in the batch, that turned out to be invalid.
    #[error("{} entries of the batch are invalid", .0.len())]
    Refused(Vec<(usize, Refusal)>),
}

impl From<sqlx::Error> for WriteError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// Sends the dead letters of a batch, if it has any.
pub fn send_dead_letters(
    pending_dead_letters: &mut DeadLetters,
    log: &Log,
    batch: &Batch,
) -> Result<(), WriteError> {
    if batch.entries.iter().all(|entry| entry.refusal.is_none()) {
        return Ok(());
    }
    tokio::task::block_in_place(|| pending_dead_letters.send(log, batch)).map_err(WriteError::DeadLetters)
}

/// Result of a write that the database has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    Committed,
    /// An earlier commit of this batch succeeded, but its confirmation was lost.
    Before,
    /// Another sink has moved a position, so nothing was written.
    Conflict,
}
