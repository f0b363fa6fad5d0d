//! What a database is to the sink.

use std::future::Future;
use std::ops::Range;

use chrono::{DateTime, Utc};

use crate::database::DatabaseError;

use super::batch::{Batch, Refusal};
use super::evaluation::Evaluation;
use super::letters::{LetterError, Letters};
use super::position::{Log, Position};
use super::retention::Kept;

/// A database that takes batches. [`super::postgres`] and [`super::sqlite`] are the two there are.
pub trait Rows: Send + 'static {
    /// Appends an evaluation as `write` wants it. On the reader's thread, beside a `write` of the batch before.
    fn encode(evaluation: &Evaluation<'_>, out: &mut Vec<u8>);

    /// Where the sink stands in these partitions; at their beginning if it was never there.
    fn positions(
        &mut self,
        log: &Log,
        partitions: &[i32],
    ) -> impl Future<Output = Result<Vec<Position>, DatabaseError>> + Send;

    /// Begins a new generation of a partition at `offset`, if the partition still stands where `position` says. `false`:
    /// another sink was first.
    fn restart(
        &mut self,
        log: &Log,
        position: &Position,
        offset: i64,
    ) -> impl Future<Output = Result<bool, DatabaseError>> + Send;

    /// Writes the accepted entries and moves the positions, in one transaction, if they are where the batch says. The
    /// refused ones are sent as dead letters when nothing but the commit is missing.
    fn write(
        &mut self,
        log: &Log,
        batch: &Batch,
        letters: &mut Letters,
    ) -> impl Future<Output = Result<Written, WriteError>> + Send;

    /// Writes the accepted entries among these, and takes it back: whether the database would take them.
    fn probe(
        &mut self,
        batch: &Batch,
        entries: Range<usize>,
    ) -> impl Future<Output = Result<(), DatabaseError>> + Send;

    /// Makes room for what will come and removes what is older than `retention_days` by the database's clock, unless
    /// something points to a wrong clock. `process` is the time by this machine's clock.
    fn keep_house(
        &mut self,
        retention_days: u32,
        process: DateTime<Utc>,
    ) -> impl Future<Output = Result<Kept, DatabaseError>> + Send;
}

/// Why a batch is not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("{0}")]
    Database(#[from] DatabaseError),
    #[error("{0}")]
    Letters(#[from] LetterError),
    /// Entries, by their place in the batch, that turned out not to be what they should.
    #[error("{} entries are refused", .0.len())]
    Refused(Vec<(usize, Refusal)>),
}

impl From<sqlx::Error> for WriteError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// Sends the letters of a batch, if it has any.
pub fn send_letters(letters: &mut Letters, log: &Log, batch: &Batch) -> Result<(), LetterError> {
    if batch.entries.iter().all(|entry| entry.refusal.is_none()) {
        return Ok(());
    }
    tokio::task::block_in_place(|| letters.send(log, batch))
}

/// How a write ended that the database answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    Committed,
    /// A commit of this very batch had gone through, though nobody said so.
    Before,
    /// Another sink has moved a position: nothing was written.
    Conflict,
}
