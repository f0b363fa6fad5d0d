//! State of a reader: positions, the batch that is being filled, and what is known about the log's bounds.

use std::collections::BTreeMap;

use crate::config::AuditConfig;

use super::super::batch::Batch;
use super::super::position::{Log, Position};
use super::blocked::BlockedPartitions;

/// State of one reader.
#[derive(Debug, Default)]
pub(super) struct ReaderState {
    pub(super) log: Option<Log>,
    pub(super) positions: BTreeMap<i32, Position>,
    /// Whether the positions belong to the current assignment and come from the database.
    pub(super) sure: bool,
    pub(super) rebalances: usize,
    /// Whether the next record cannot be processed yet. It is read again once everything before it is written.
    pub(super) held_up: bool,
    /// Whether the writer has not yet answered the last batch or request.
    pub(super) waiting: bool,
    pub(super) batch: Box<Batch>,
    /// Used batch whose allocations are reused.
    pub(super) spare: Option<Box<Batch>>,
    /// Offset at which reading started, or up to which removed records are reported, by partition.
    pub(super) floors: BTreeMap<i32, i64>,
    /// Offset of the log's end by partition, if the reader has reached it.
    pub(super) ends: BTreeMap<i32, i64>,
    /// Offset of a record that was delivered although it is before the position, by partition.
    pub(super) receded: BTreeMap<i32, i64>,
    /// Position of a log that looked truncated at the last check, by partition. A second check must confirm it.
    pub(super) cut: BTreeMap<i32, i64>,
    pub(super) blocked: BlockedPartitions,
}

impl ReaderState {
    /// Discards the positions and the batch; both are read again from the database's positions.
    pub(super) fn doubt(&mut self) {
        self.sure = false;
        self.held_up = false;
        self.positions.clear();
        self.batch.clear();
        self.ends.clear();
    }

    /// Sets the current log. What is known about the log of another topic id is discarded.
    pub(super) fn follow(&mut self, log: &Log) {
        if self.log.as_ref() != Some(log) {
            self.floors.clear();
            self.receded.clear();
            self.cut.clear();
            self.blocked.clear();
            self.log = Some(log.clone());
        }
    }

    pub(super) fn is_full(&self, limits: &AuditConfig) -> bool {
        self.held_up
            || self.batch.entries.len() >= limits.batch_max_rows
            || self.batch.size_bytes() >= limits.batch_max_bytes
    }

    /// Offset up to which a partition is read and written. At the end of the log this is the end itself, which
    /// transaction markers may separate from the last record. `None` while a batch is open, if nothing was read, and for a
    /// blocked partition.
    pub(super) fn read_to(&self, partition: i32) -> Option<i64> {
        if self.waiting || !self.batch.is_empty() || self.blocked.contains(partition) {
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
        let mut reader_state = ReaderState::default();
        assert_eq!(reader_state.read_to(0), None);
        let position = Position {
            partition: 0,
            next_offset: 10,
            generation: 0,
            sources: Default::default(),
            streams: Default::default(),
            next_block: None,
        };
        reader_state.positions.insert(0, position);
        assert_eq!(reader_state.read_to(0), Some(10));
        // A transaction marker.
        reader_state.ends.insert(0, 11);
        assert_eq!(reader_state.read_to(0), Some(11));
        reader_state.waiting = true;
        assert_eq!(reader_state.read_to(0), None);
    }
}
