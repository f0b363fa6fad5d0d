//! What a session reports of its partitions between two batches: which it has, how far they were read, where they end.

use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::consumer::Consumer;

use super::Session;
use crate::evaluate::error::SessionError;

/// How often positions and ends of the partitions are reported.
const POSITIONS_INTERVAL: Duration = Duration::from_secs(1);

impl Session<'_> {
    /// Reports which partitions this worker has, and that it works once it has them: also while there are no requests,
    /// and if the group has no partition for it.
    pub(super) fn follow_assignment(&mut self) -> Result<(), SessionError> {
        self.memory.tell_assigned(self.consumer.assigned(), &self.parts.metrics);
        let (standing, rebalances) = (&self.memory.standing, self.consumer.rebalances());
        if self.memory.rebalances.replace(rebalances) != Some(rebalances) {
            let assigned = self.consumer.inner().assignment().map_err(SessionError::Consumer)?;
            let assigned = assigned.elements_for_topic(&self.parts.config.topics.requests);
            let assigned: Vec<i32> = assigned.iter().map(|element| element.partition()).collect();
            standing.progress().assign(standing.index(), &assigned);
        }
        // After a failure it has to be shown that batches can be committed, unless there is nothing to commit.
        let works = !self.memory.has_failed || standing.progress().is_idle(standing.index());
        if rebalances > 0 && works {
            self.reports_well();
        }
        Ok(())
    }

    pub(super) fn reports_well(&mut self) {
        if self.memory.holds.is_empty() && !std::mem::replace(&mut self.well, true) {
            self.memory.standing.up();
        }
    }

    /// Reports how far each partition was read and where it ends. Between batches only: everything that was read is
    /// then committed, or held.
    pub(super) fn report_positions(&mut self) {
        if self.positions_reported.elapsed() < POSITIONS_INTERVAL {
            return;
        }
        self.positions_reported = Instant::now();
        let Ok(positions) = self.consumer.inner().position() else { return };
        let progress = self.memory.standing.progress();
        for element in positions.elements_for_topic(&self.parts.config.topics.requests) {
            let partition = element.partition();
            // Nothing is fetched for it, so its end is not known here.
            if self.memory.holds.has_partition(partition) {
                continue;
            }
            if let Offset::Offset(position) = element.offset() {
                progress.position(partition, position);
            }
            if let Some(end) = self.consumer.high_watermark(&self.requests, partition) {
                progress.end(partition, end);
            }
        }
    }
}
