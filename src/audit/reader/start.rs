//! Seeks to the database's positions, or to the first offsets that Kafka still has.

use rdkafka::consumer::Consumer;
use rdkafka::{Offset, TopicPartitionList};

use crate::log_limit::limited;

use super::super::position::Position;
use super::super::writer::Command;
use super::bounds::{Bounds, Start};
use super::state::ReaderState;
use super::{CALL_TIMEOUT, Decode, RETRY_BACKOFF, Reader, ReaderError};

impl<T: Decode> Reader<T> {
    /// Continues from the database's positions.
    pub(super) fn seek(
        &mut self,
        reader_state: &mut ReaderState,
        positions: Vec<Position>,
    ) -> Result<(), ReaderError> {
        self.resume_blocked(reader_state)?;
        let mut targets = TopicPartitionList::new();
        for position in &positions {
            let partition = position.partition;
            let bounds = match self.consumer.inner().fetch_watermarks(&self.topic, partition, CALL_TIMEOUT) {
                Ok((low, high)) => Bounds { low, high },
                Err(error) => {
                    self.wait_for_kafka(&error);
                    return Ok(());
                }
            };
            let reported = reader_state.floors.get(&partition).copied().unwrap_or_default();
            let receded = reader_state.receded.contains_key(&partition);
            let offset = match bounds.start(position.next_offset, reported, receded) {
                Start::At(offset) => offset,
                Start::Expired { from, lost, at } => {
                    self.report_expired(partition, from, lost);
                    at
                }
                Start::Cut => return self.begin_generation(reader_state, position, bounds),
            };
            reader_state.floors.insert(partition, offset);
            self.progress.starts_at(partition, offset);
            targets.add_partition_offset(&self.topic, partition, Offset::Offset(offset))?;
        }
        let sought = self.consumer.inner().seek_partitions(targets, CALL_TIMEOUT)?;
        if let Some(error) = sought.elements().iter().find_map(|element| element.error().err()) {
            tracing::debug!(%error, "the seek failed; retrying");
            std::thread::park_timeout(RETRY_BACKOFF);
            return Ok(());
        }
        reader_state.positions =
            positions.into_iter().map(|position| (position.partition, position)).collect();
        reader_state.receded.clear();
        reader_state.cut.clear();
        reader_state.sure = true;
        Ok(())
    }

    /// Starts a new generation of a partition whose log ends before the position under the same topic id. A second
    /// check must confirm this first. The partition is then read from the log's start; duplicates are recognised by
    /// source or sequence number as usual.
    fn begin_generation(
        &self,
        reader_state: &mut ReaderState,
        position: &Position,
        bounds: Bounds,
    ) -> Result<(), ReaderError> {
        let (partition, next) = (position.partition, position.next_offset);
        if reader_state.cut.insert(partition, next) != Some(next) {
            std::thread::park_timeout(RETRY_BACKOFF);
            return Ok(());
        }
        let Some(log) = reader_state.log.clone() else { return Ok(()) };
        let Bounds { low, high } = bounds;
        limited!(
            error,
            key = &partition.to_string(),
            topic = self.topic,
            partition,
            next,
            low,
            high,
            "the partition's log was truncated below the sink's position; it is read again from its \
             beginning",
        );
        let text = format!(
            "the log of {} [{partition}] was truncated (position {next}, log {low} to {high}): records may be lost; \
             it is read again from offset {low}",
            self.topic
        );
        self.health.notice(format!("{}/{partition}/cut", self.topic), text);
        self.command(reader_state, Command::Restart(log, Box::new(position.clone()), low))
    }

    /// Counts and reports records that retention removed before they were read.
    pub(super) fn report_expired(&self, partition: i32, from: i64, lost: u64) {
        self.metrics.audit.expired.inc_by(lost);
        let to = from.saturating_add_unsigned(lost);
        limited!(
            error,
            key = &partition.to_string(),
            topic = self.topic,
            partition,
            from,
            to,
            lost,
            "Kafka deleted records before the sink read them",
        );
        let text = format!(
            "Kafka deleted records of {} [{partition}] before the sink read them: offsets {from} to {to}",
            self.topic
        );
        self.health.notice(format!("{}/{partition}/expired", self.topic), text);
    }

    pub(super) fn report_recreated(&self) {
        self.metrics.audit.recreated.inc();
        limited!(
            error,
            key = &self.topic,
            topic = self.topic,
            "the topic was deleted and recreated; it is read from its beginning",
        );
        let text = format!(
            "topic {} was deleted and recreated: records that the sink had not read are lost",
            self.topic
        );
        self.health.notice(format!("{}/recreated", self.topic), text);
    }
}
