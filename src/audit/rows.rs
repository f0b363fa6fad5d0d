//! What a database is to the sink.

use std::future::Future;
use std::ops::Range;

use crate::database::DatabaseError;

use super::batch::Batch;
use super::evaluation::Evaluation;
use super::position::{Log, Position};

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

    /// Writes the accepted entries and moves the positions, in one transaction, if they are where the batch says.
    fn write(
        &mut self,
        log: &Log,
        batch: &Batch,
    ) -> impl Future<Output = Result<Written, DatabaseError>> + Send;

    /// Writes the accepted entries among these, and takes it back: whether the database would take them.
    fn probe(
        &mut self,
        batch: &Batch,
        entries: Range<usize>,
    ) -> impl Future<Output = Result<(), DatabaseError>> + Send;

    /// Makes room for what will come and drops what is older than `retention_days`.
    fn keep_house(&mut self, retention_days: u32) -> impl Future<Output = Result<(), DatabaseError>> + Send;
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
