//! The state of an open batch: the position in each partition, and the results sent for each record.

use std::time::{Duration, Instant};

use crate::kafka::producer::ROUND_BYTES;
use crate::message::request::RefusalCode;

/// Work of a record, and of a result beside its bytes: the number of bytes that take as long.
const RECORD_WORK: usize = 256;
const RESULT_WORK: usize = 256;

/// Position of a record in the topic that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceOffset {
    pub partition: i32,
    pub offset: i64,
}

/// The kind of a sent result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    Event {
        index: u32,
        bytes: usize,
    },
    /// An event with the results of several flags.
    BulkEvent {
        bytes: usize,
    },
    /// A copy of the record in a tap's output topic, given by its index.
    Forwarded {
        output: usize,
        bytes: usize,
    },
    DeadLetter,
    /// A reply; `topic` is the index into the batch's reply topics.
    Reply {
        topic: usize,
    },
}

/// Reason why a tap forwards a record without flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    /// The record has a null value.
    Tombstone,
    NoUser,
}

/// One batch, from its first record to its commit.
#[derive(Debug)]
pub struct Batch {
    /// The offset after the last record of each partition, in order of first appearance.
    positions: Vec<(i32, i64)>,
    sent: Vec<(SourceOffset, Sent)>,
    reply_topics: Vec<String>,
    pub records: usize,
    pub bytes: usize,
    /// Bytes of events sent since the last flush, by partition.
    round: Vec<(i32, usize)>,
    round_of_others: usize,
    pub opened: Instant,
    /// Time spent processing the records, without waiting for the broker.
    pub busy: Duration,
    /// The earliest timestamp among the records, in milliseconds since 1970.
    pub oldest_ms: u64,
    /// Records that were forwarded without flags: tombstones, and those without a user.
    passed: [u64; 2],
    /// Number of records that were copied to each output topic of a tap.
    forwarded: Vec<u64>,
    /// Codes of the dead letters. They are counted when the batch is committed.
    pub dead_letters: Vec<RefusalCode>,
    /// Total bytes of the dead letters of the last record that had any.
    last_dead_letters: Option<(SourceOffset, usize)>,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            positions: Vec::new(),
            sent: Vec::new(),
            reply_topics: Vec::new(),
            records: 0,
            bytes: 0,
            round: Vec::new(),
            round_of_others: 0,
            opened: Instant::now(),
            busy: Duration::ZERO,
            oldest_ms: u64::MAX,
            passed: [0; 2],
            forwarded: Vec::new(),
            dead_letters: Vec::new(),
            last_dead_letters: None,
        }
    }
}

impl Batch {
    pub fn clear(&mut self) {
        self.positions.clear();
        self.sent.clear();
        self.reply_topics.clear();
        self.dead_letters.clear();
        self.passed = [0; 2];
        self.forwarded.clear();
        self.last_dead_letters = None;
        self.records = 0;
        self.bytes = 0;
        self.flushed();
        self.opened = Instant::now();
        self.busy = Duration::ZERO;
        self.oldest_ms = u64::MAX;
    }

    /// Records that a record was processed: the offset after it will be committed.
    pub fn advance(&mut self, place: SourceOffset, timestamp_ms: i64) {
        if self.records == 0 {
            self.opened = Instant::now();
        }
        self.records += 1;
        self.oldest_ms = self.oldest_ms.min(timestamp_ms.cast_unsigned());
        match self.positions.iter_mut().find(|(partition, _)| *partition == place.partition) {
            Some((_, next)) => *next = place.offset + 1,
            None => self.positions.push((place.partition, place.offset + 1)),
        }
    }

    /// Total bytes of the record's dead letters in this batch, including a further one of `bytes`.
    pub fn letter_bytes(&mut self, place: SourceOffset, bytes: usize) -> usize {
        let before = self.last_dead_letters.filter(|(last, _)| *last == place).map_or(0, |(_, sum)| sum);
        self.last_dead_letters = Some((place, before + bytes));
        before + bytes
    }

    /// Work done for the batch so far: records, results and their bytes.
    pub fn work(&self) -> u64 {
        let work = self.bytes + RECORD_WORK * self.records + RESULT_WORK * self.sent.len();
        u64::try_from(work).unwrap_or(u64::MAX)
    }

    /// Number of results sent.
    pub fn sent_count(&self) -> usize {
        self.sent.len()
    }

    /// Registers a result of `bytes`, key and headers included, and returns the delivery id under which a failed
    /// delivery is reported.
    pub fn delivery_id(&mut self, place: SourceOffset, sent: Sent, bytes: usize) -> usize {
        self.bytes += bytes;
        match sent {
            Sent::Event { .. } | Sent::BulkEvent { .. } | Sent::Forwarded { .. } => {
                match self.round.iter_mut().find(|(partition, _)| *partition == place.partition) {
                    Some((_, sum)) => *sum += bytes,
                    None => self.round.push((place.partition, bytes)),
                }
            }
            Sent::DeadLetter | Sent::Reply { .. } => self.round_of_others += bytes,
        }
        if let Sent::Forwarded { output, .. } = sent {
            self.count_forwarded(output);
        }
        self.sent.push((place, sent));
        self.sent.len() - 1
    }

    /// Removes the last delivery id, because its result was not sent.
    pub fn withdraw_delivery_id(&mut self) {
        if let Some((_, Sent::Forwarded { output, .. })) = self.sent.pop()
            && let Some(count) = self.forwarded.get_mut(output)
        {
            *count -= 1;
        }
    }

    /// Whether the results sent since the last flush fill a produce request to one partition.
    pub fn is_round_full(&self) -> bool {
        let fullest = self.round.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
        fullest.max(self.round_of_others) >= ROUND_BYTES
    }

    /// Counts a record that is forwarded without flags.
    pub fn pass(&mut self, reason: Passed) {
        let [tombstones, without_user] = &mut self.passed;
        match reason {
            Passed::Tombstone => *tombstones += 1,
            Passed::NoUser => *without_user += 1,
        }
    }

    /// Records that were forwarded without flags, by the name of the reason.
    pub fn passed(&self) -> [(&'static str, u64); 2] {
        let [tombstones, without_user] = self.passed;
        [("tombstone", tombstones), ("no_user", without_user)]
    }

    /// Number of records that were copied to each output topic, by its index.
    pub fn forwarded(&self) -> &[u64] {
        &self.forwarded
    }

    fn count_forwarded(&mut self, output: usize) {
        if self.forwarded.len() <= output {
            self.forwarded.resize(output + 1, 0);
        }
        if let Some(count) = self.forwarded.get_mut(output) {
            *count += 1;
        }
    }

    pub fn flushed(&mut self) {
        self.round.clear();
        self.round_of_others = 0;
    }

    pub fn reply_topic(&mut self, topic: &str) -> usize {
        let known = self.reply_topics.iter().position(|known| known == topic);
        known.unwrap_or_else(|| {
            self.reply_topics.push(topic.to_owned());
            self.reply_topics.len() - 1
        })
    }

    pub fn reply_topics(&self) -> &[String] {
        &self.reply_topics
    }

    pub fn by_delivery_id(&self, delivery_id: usize) -> Option<(SourceOffset, Sent)> {
        self.sent.get(delivery_id).copied()
    }

    /// The positions to commit, as (partition, next offset).
    pub fn positions(&self) -> &[(i32, i64)] {
        &self.positions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: Sent = Sent::Event { index: 0, bytes: ROUND_BYTES / 4 };

    #[test]
    fn a_round_is_full_when_one_partition_has_a_request_of_events() {
        let mut batch = Batch::default();
        let mut send = |partition| {
            batch.delivery_id(SourceOffset { partition, offset: 0 }, EVENT, ROUND_BYTES / 4);
            batch.is_round_full()
        };
        assert!([0, 1, 2, 0, 1, 2, 0, 1, 2].into_iter().all(|partition| !send(partition)));
        assert!(send(1));
        batch.flushed();
        assert!(!batch.is_round_full());
    }

    #[test]
    fn dead_letters_and_replies_fill_a_round_together() {
        let (mut batch, place) = (Batch::default(), SourceOffset { partition: 3, offset: 0 });
        batch.delivery_id(place, Sent::DeadLetter, ROUND_BYTES / 2);
        assert!(!batch.is_round_full());
        batch.delivery_id(place, Sent::Reply { topic: 0 }, ROUND_BYTES / 2);
        assert!(batch.is_round_full());
        batch.clear();
        assert!(!batch.is_round_full());
    }
}
