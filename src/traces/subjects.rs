//! Messages and batches that spans describe. Also part of a build without OpenTelemetry.

use std::time::Duration;

/// A message that a record leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    Event,
    Reply,
}

/// A batch that is in the database.
#[derive(Debug)]
pub struct WrittenBatch<'a> {
    pub topic: &'a str,
    /// `db.system.name` of the semantic conventions.
    pub database: &'static str,
    /// Number of records in the batch.
    pub records: usize,
    pub took: Duration,
}

/// A record of a batch, with its header `traceparent`.
#[derive(Debug)]
pub struct WrittenRecord<'a> {
    pub partition: i32,
    pub offset: i64,
    pub traceparent: &'a [u8],
}
