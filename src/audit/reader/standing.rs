//! The state of a reader: positions, the batch that is being filled, and what is known of the log's bounds.

use std::collections::BTreeMap;

use crate::config::AuditConfig;

use super::super::batch::Batch;
use super::super::position::{Log, Position};

/// The state of one reader.
#[derive(Debug, Default)]
pub(super) struct Standing {
    pub(super) log: Option<Log>,
    pub(super) positions: BTreeMap<i32, Position>,
    /// Whether the positions are those of the present assignment, and of the database.
    pub(super) sure: bool,
    pub(super) rebalances: usize,
    /// The next record cannot be taken yet: what was taken before is written, and then it is looked at again.
    pub(super) held_up: bool,
    /// The writer has a batch or a question that it has not answered yet.
    pub(super) waiting: bool,
    pub(super) batch: Box<Batch>,
    /// Used batches, whose memory serves again.
    pub(super) spare: Option<Box<Batch>>,
    /// By partition, the offset at which reading began, or up to which removed records are reported.
    pub(super) floors: BTreeMap<i32, i64>,
    /// By partition, the offset behind the last record of the log, where its end was reached.
    pub(super) ends: BTreeMap<i32, i64>,
    /// Partitions of which a record from before the position came.
    pub(super) receded: BTreeMap<i32, i64>,
    /// Partitions that seemed to be cut at the last look, with the position. A second look must agree.
    pub(super) cut: BTreeMap<i32, i64>,
}

impl Standing {
    /// Nothing that was read is certain any more.
    pub(super) fn doubt(&mut self) {
        self.sure = false;
        self.held_up = false;
        self.positions.clear();
        self.batch.clear();
        self.ends.clear();
    }

    /// The topic is `log` from now on. What is known of the log of another topic id is forgotten.
    pub(super) fn follow(&mut self, log: &Log) {
        if self.log.as_ref() != Some(log) {
            self.floors.clear();
            self.receded.clear();
            self.cut.clear();
            self.log = Some(log.clone());
        }
    }

    pub(super) fn is_full(&self, limits: &AuditConfig) -> bool {
        self.held_up
            || self.batch.entries.len() >= limits.batch_max_rows
            || self.batch.size_bytes() >= limits.batch_max_bytes
    }

    /// The offset up to which a partition is read and written: behind its last record where its end was reached, though
    /// transaction markers may follow the record. `None` while a batch is open, or nothing was read.
    pub(super) fn read_to(&self, partition: i32) -> Option<i64> {
        if self.waiting || !self.batch.is_empty() {
            return None;
        }
        let next = self.positions.get(&partition)?.next_offset;
        Some(self.ends.get(&partition).map_or(next, |end| next.max(*end)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_the_last_record_is_read_once_the_end_was_reached() {
        let mut standing = Standing::default();
        assert_eq!(standing.read_to(0), None);
        let position = Position {
            partition: 0,
            next_offset: 10,
            generation: 0,
            sources: Default::default(),
            streams: Default::default(),
            next_block: None,
        };
        standing.positions.insert(0, position);
        assert_eq!(standing.read_to(0), Some(10));
        // A transaction's marker.
        standing.ends.insert(0, 11);
        assert_eq!(standing.read_to(0), Some(11));
        standing.waiting = true;
        assert_eq!(standing.read_to(0), None);
    }
}
