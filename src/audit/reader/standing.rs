//! What a reader knows, and what it has in hand.

use std::collections::BTreeMap;

use crate::config::AuditConfig;

use super::super::batch::Batch;
use super::super::position::{Log, Position};

/// What the reader knows at the moment.
#[derive(Debug, Default)]
pub(super) struct Standing {
    pub(super) log: Option<Log>,
    pub(super) positions: BTreeMap<i32, Position>,
    /// Whether the positions are those of the present assignment, and of the database.
    pub(super) sure: bool,
    pub(super) rebalances: usize,
    /// The next record cannot be taken yet: what was taken before is written, and then it is looked at again.
    pub(super) held_up: bool,
    /// What the writer has: nothing, a question, or a batch.
    pub(super) waiting: bool,
    pub(super) batch: Box<Batch>,
    /// Used batches, whose memory serves again.
    pub(super) spare: Option<Box<Batch>>,
}

impl Standing {
    /// Nothing that was read is certain any more.
    pub(super) fn doubt(&mut self) {
        self.sure = false;
        self.held_up = false;
        self.positions.clear();
        self.batch.clear();
    }

    pub(super) fn is_full(&self, limits: &AuditConfig) -> bool {
        self.held_up
            || self.batch.entries.len() >= limits.batch_max_rows
            || self.batch.size_bytes() >= limits.batch_max_bytes
    }
}
