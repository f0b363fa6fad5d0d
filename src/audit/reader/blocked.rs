//! Partitions that wait because a dead letter of theirs cannot be written. All others continue.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaResult;

use crate::kafka::backoff::Backoff;
use crate::log_limit::limited;
use crate::progress::Reason;

use super::super::batch::Batch;
use super::super::position::Log;
use super::state::ReaderState;
use super::{Decode, Reader};

/// Delay before a dead letter is tried again; it doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_secs(1);
/// Longest delay between two attempts to write a dead letter. Each attempt costs the other partitions one more write
/// of a batch, at most once per interval and partition.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// Maximum partitions that health names.
const MAX_NAMED_COUNT: usize = 3;
/// Subject of the condition in the pipeline's health.
pub(super) const CONDITION: &str = "dead-letters";

/// Blocked partitions by number.
#[derive(Debug, Default)]
pub(super) struct BlockedPartitions {
    blocked: BTreeMap<i32, Blocked>,
    /// Partitions that are paused in the consumer, so that nothing is fetched from them. librdkafka keeps a partition
    /// paused even if it was assigned elsewhere and came back.
    paused: BTreeSet<i32>,
}

#[derive(Debug)]
struct Blocked {
    /// Offset of the record whose dead letter cannot be written. Records before it are still written.
    offset: i64,
    why: Arc<str>,
    retry_at: Instant,
    backoff: Backoff,
}

impl BlockedPartitions {
    /// Blocks a partition at `offset`, for longer than the last time if it is the same record. Returns whether the
    /// partition was not blocked at this record before.
    fn block(&mut self, partition: i32, offset: i64, why: &str, now: Instant) -> bool {
        let before = self.blocked.remove(&partition).filter(|blocked| blocked.offset == offset);
        let is_new = before.is_none();
        let mut backoff = before.map_or(Backoff::new(MIN_BACKOFF, MAX_BACKOFF), |blocked| blocked.backoff);
        let retry_at = now + backoff.delay();
        self.blocked.insert(partition, Blocked { offset, why: why.into(), retry_at, backoff });
        is_new
    }

    /// Whether a record must not be read now.
    pub(super) fn stops(&self, partition: i32, offset: i64, now: Instant) -> bool {
        self.blocked.get(&partition).is_some_and(|blocked| offset >= blocked.offset && now < blocked.retry_at)
    }

    pub(super) fn contains(&self, partition: i32) -> bool {
        self.blocked.contains_key(&partition)
    }

    /// Whether a paused partition is to be read again.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let is_due = |partition| self.blocked.get(partition).is_none_or(|blocked| blocked.retry_at <= now);
        self.paused.iter().any(is_due)
    }

    /// Ends all blocks, because the offsets are those of another log.
    pub(super) fn clear(&mut self) {
        self.blocked.clear();
    }

    /// Removes the block if everything before `next` is written and that includes the record. Returns whether it did.
    fn pass(&mut self, partition: i32, next: i64) -> bool {
        let passed = self.blocked.get(&partition).is_some_and(|blocked| blocked.offset < next);
        passed && self.blocked.remove(&partition).is_some()
    }

    /// Marks these partitions as paused, and returns those that were not.
    fn pause(&mut self, partitions: &[i32]) -> Vec<i32> {
        partitions.iter().copied().filter(|partition| self.paused.insert(*partition)).collect()
    }

    /// Marks all partitions as not paused, and returns those that were.
    fn resume(&mut self) -> Vec<i32> {
        std::mem::take(&mut self.paused).into_iter().collect()
    }

    /// Human-readable summary; `None` without blocked partitions.
    fn text(&self, topic: &str, dead_letters: &str) -> Option<String> {
        let named = self.blocked.iter().take(MAX_NAMED_COUNT).map(|(partition, Blocked { offset, why, .. })| {
            format!(
                "topic {topic} partition {partition} waits at offset {offset}: its dead letter cannot be written to \
                 {dead_letters} ({why})"
            )
        });
        let named: Vec<_> = named.collect();
        let more = match self.blocked.len().saturating_sub(MAX_NAMED_COUNT) {
            0 => String::new(),
            more => format!("; and {more} more partitions"),
        };
        (!named.is_empty()).then(|| named.join("; ") + &more + "; the others continue")
    }
}

impl<T: Decode> Reader<T> {
    /// Blocks the partitions that the writer had to leave out of a batch, and ends the block of those whose record is
    /// written.
    pub(super) fn note_written(&self, reader_state: &mut ReaderState, batch: &Batch) {
        let blocked = &mut reader_state.blocked;
        let mut has_changed = false;
        for moved in &batch.moves {
            if blocked.pass(moved.partition, moved.to) {
                has_changed = true;
                tracing::info!(
                    topic = self.topic,
                    partition = moved.partition,
                    "dead letters are written again"
                );
            }
        }
        for left_out in &batch.left_out {
            has_changed = true;
            let (partition, offset) = (left_out.partition, left_out.offset);
            if blocked.block(partition, offset, &left_out.why, Instant::now()) {
                let why = &left_out.why;
                limited!(
                    warn,
                    key = &partition.to_string(),
                    topic = self.topic,
                    partition,
                    offset,
                    "a dead letter cannot be written, its partition waits: {why}",
                );
            }
        }
        if has_changed {
            self.report_blocked(reader_state);
        }
        // The left out records are read again, up to the one that is not written.
        if !batch.left_out.is_empty() {
            reader_state.doubt();
        }
    }

    /// Ends the blocks of partitions that are not assigned any more, or whose topic was recreated.
    pub(super) fn retain_blocked(&self, reader_state: &mut ReaderState, log: &Log, assigned: &[i32]) {
        let before = reader_state.blocked.blocked.len();
        reader_state.follow(log);
        reader_state.blocked.blocked.retain(|partition, _| assigned.contains(partition));
        if reader_state.blocked.blocked.len() != before {
            self.report_blocked(reader_state);
        }
    }

    /// Stops fetching from partitions of which a record was skipped.
    pub(super) fn pause_blocked(
        &self,
        reader_state: &mut ReaderState,
        partitions: &[i32],
    ) -> KafkaResult<()> {
        let paused = reader_state.blocked.pause(partitions);
        if paused.is_empty() { Ok(()) } else { self.consumer.inner().pause(&self.list(&paused)) }
    }

    /// Fetches from all partitions again. The caller seeks to their positions.
    pub(super) fn resume_blocked(&self, reader_state: &mut ReaderState) -> KafkaResult<()> {
        let paused = reader_state.blocked.resume();
        if paused.is_empty() { Ok(()) } else { self.consumer.inner().resume(&self.list(&paused)) }
    }

    /// Keeps the reason in the progress report, which loses it when records before the blocked one are written.
    pub(super) fn note_blocked(&self, reader_state: &ReaderState) {
        for (partition, blocked) in &reader_state.blocked.blocked {
            self.progress.blocked(*partition, Reason::DeadLetter, Arc::clone(&blocked.why));
        }
    }

    pub(super) fn report_blocked(&self, reader_state: &ReaderState) {
        self.health.condition(CONDITION, reader_state.blocked.text(&self.topic, &self.dead_letters));
    }

    fn list(&self, partitions: &[i32]) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            list.add_partition(&self.topic, *partition);
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_waits_at_its_record_and_is_tried_again_less_and_less_often() {
        let (mut blocked, mut now) = (BlockedPartitions::default(), Instant::now());
        assert!(blocked.block(1, 7, "too large", now));
        assert!(blocked.stops(1, 7, now) && blocked.stops(1, 8, now));
        assert!(!blocked.stops(1, 6, now) && !blocked.stops(0, 7, now));
        assert_eq!((blocked.pause(&[1]), blocked.pause(&[1])), (vec![1], vec![]));
        let mut waits = Vec::new();
        for _ in 0..7 {
            let begun = now;
            while !blocked.is_due(now) {
                now += Duration::from_millis(500);
            }
            waits.push((now - begun).as_secs());
            assert!(!blocked.stops(1, 7, now), "it is tried now");
            assert_eq!(blocked.resume(), [1]);
            assert!(!blocked.is_due(now), "while it is tried");
            assert!(!blocked.block(1, 7, "too large", now));
            blocked.pause(&[1]);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        // The next record that cannot be written is another one.
        assert!(blocked.block(1, 9, "too large", now));
        assert!(!blocked.stops(1, 9, now + MIN_BACKOFF));
    }

    #[test]
    fn a_block_ends_when_its_record_is_written() {
        let mut blocked = BlockedPartitions::default();
        for partition in 0..5 {
            blocked.block(partition, 7, "not authorized", Instant::now());
        }
        let text = blocked.text("events", "letters").unwrap_or_default();
        assert!(text.starts_with("topic events partition 0 waits at offset 7: its dead letter"), "{text}");
        assert!(
            text.contains("letters (not authorized)") && text.contains("; and 2 more partitions"),
            "{text}"
        );
        assert!(!blocked.pass(0, 7) && blocked.contains(0));
        assert!(blocked.pass(0, 8) && !blocked.contains(0) && !blocked.pass(0, 9));
        (1..5).for_each(|partition| assert!(blocked.pass(partition, 100)));
        assert_eq!(blocked.text("events", "letters"), None);
    }
}
