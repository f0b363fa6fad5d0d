//! An open batch: how far each partition was read, and what was sent for which record.

use std::time::{Duration, Instant};

use crate::message::request::RefusalCode;

/// Where a result belongs, in the requests topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub partition: i32,
    pub offset: i64,
}

/// What was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    Event {
        index: u32,
        bytes: usize,
    },
    DeadLetter,
    /// Position among the batch's reply topics.
    Reply {
        topic: usize,
    },
}

/// One batch, from its first record to its commit.
#[derive(Debug)]
pub struct Batch {
    /// Per partition the offset behind the last record, in order of appearance.
    positions: Vec<(i32, i64)>,
    sent: Vec<(Place, Sent)>,
    reply_topics: Vec<String>,
    pub records: usize,
    pub bytes: usize,
    pub opened: Instant,
    /// Time spent on the records themselves.
    pub busy: Duration,
    /// The earliest timestamp among the records, in milliseconds since 1970.
    pub oldest_ms: u64,
    /// Dead letters by code, to be counted when they are committed.
    pub dead_letters: Vec<RefusalCode>,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            positions: Vec::new(),
            sent: Vec::new(),
            reply_topics: Vec::new(),
            records: 0,
            bytes: 0,
            opened: Instant::now(),
            busy: Duration::ZERO,
            oldest_ms: u64::MAX,
            dead_letters: Vec::new(),
        }
    }
}

impl Batch {
    pub fn clear(&mut self) {
        self.positions.clear();
        self.sent.clear();
        self.reply_topics.clear();
        self.dead_letters.clear();
        self.records = 0;
        self.bytes = 0;
        self.opened = Instant::now();
        self.busy = Duration::ZERO;
        self.oldest_ms = u64::MAX;
    }

    /// A record was taken; what is committed later is the offset behind it.
    pub fn advance(&mut self, place: Place, timestamp_ms: i64) {
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

    /// The ticket under which a failed delivery of this will be reported.
    pub fn ticket(&mut self, place: Place, sent: Sent, bytes: usize) -> usize {
        self.bytes += bytes;
        self.sent.push((place, sent));
        self.sent.len() - 1
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

    pub fn by_ticket(&self, ticket: usize) -> Option<(Place, Sent)> {
        self.sent.get(ticket).copied()
    }

    /// (partition, next offset).
    pub fn positions(&self) -> &[(i32, i64)] {
        &self.positions
    }
}
