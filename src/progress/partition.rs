//! The progress of one partition.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Maximum length of a stored reason text, in bytes.
const MAX_DETAIL_BYTES: usize = 500;

/// Reason why a partition does not move. A closed set, because each is a label value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Kafka returns errors instead of records.
    FetchError,
    /// This user is not authorized to read the topic.
    Unauthorized,
    /// This build cannot decompress or parse the records.
    Unreadable,
    /// The batch with the next record could not be committed.
    BatchFailed,
    /// The partition is paused, for example until the schema registry is reachable.
    Held,
    /// The next records belong to an open transaction of a producer.
    OpenTransaction,
    /// A record cannot be processed, and its dead letter cannot be written.
    DeadLetter,
    /// The database cannot be written.
    Database,
    /// No error was reported: the reader is slow.
    Unknown,
}

impl Reason {
    /// The value of the label `reason`.
    pub fn label(self) -> &'static str {
        match self {
            Self::FetchError => "fetch_error",
            Self::Unauthorized => "unauthorized",
            Self::Unreadable => "unreadable",
            Self::BatchFailed => "batch_failed",
            Self::Held => "held",
            Self::OpenTransaction => "open_transaction",
            Self::DeadLetter => "dead_letter",
            Self::Database => "database",
            Self::Unknown => "unknown",
        }
    }

    /// Whether the partition cannot be read, so that it is unknown whether records wait.
    fn is_of_reading(self) -> bool {
        matches!(self, Self::FetchError | Self::Unauthorized | Self::Unreadable)
    }
}

/// A partition without progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    pub topic: Arc<str>,
    pub partition: i32,
    /// The next offset; `None` if nothing was ever committed.
    pub offset: Option<i64>,
    pub duration: Duration,
    pub reason: Reason,
    pub detail: Arc<str>,
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, partition, duration, reason, detail, .. } = self;
        write!(f, "topic {topic} partition {partition} ")?;
        match self.offset {
            Some(offset) => write!(f, "has not moved from offset {offset}")?,
            None => f.write_str("has not moved since its start")?,
        }
        write!(f, " for {} s ({}): {detail}", duration.as_secs(), reason.label())
    }
}

/// The progress of one partition.
#[derive(Debug)]
pub(super) struct Partition {
    /// Number of the reader that the partition is assigned to.
    pub reader: usize,
    /// The reason that the gauge shows; `None` if it shows none.
    pub shown: Option<Reason>,
    /// The committed offset.
    next: Option<i64>,
    /// The reader has passed everything before this offset.
    passed: Option<i64>,
    /// The end offset, and the time at which it was reported.
    end: Option<(i64, Instant)>,
    /// Time since which records wait without progress; `None` if none wait.
    waiting: Option<Instant>,
    block: Option<Block>,
}

#[derive(Debug)]
struct Block {
    reason: Reason,
    detail: Arc<str>,
    since: Instant,
}

impl Partition {
    pub fn new(reader: usize) -> Self {
        Self { reader, shown: None, next: None, passed: None, end: None, waiting: None, block: None }
    }

    pub fn next(&self) -> Option<i64> {
        self.next
    }

    pub fn committed(&mut self, next: i64, now: Instant) {
        if self.next.replace(next) != Some(next) {
            self.block = None;
            self.waiting = None;
        }
        self.wait(now);
    }

    pub fn starts_at(&mut self, next: i64, now: Instant) {
        self.next.get_or_insert(next);
        self.wait(now);
    }

    pub fn passed(&mut self, position: i64, now: Instant) {
        if self.next.max(self.passed).is_some_and(|before| before < position) {
            self.waiting = None;
        }
        self.passed = Some(position);
        self.wait(now);
    }

    /// The reader's position, if the partition is stuck without a known reason. An open transaction is a possible
    /// reason.
    pub fn unexplained(&self, after: Duration, now: Instant) -> Option<i64> {
        let is_stuck = now.saturating_duration_since(self.waiting?) >= after;
        let has_reason = self.block.as_ref().is_some_and(|block| block.reason != Reason::OpenTransaction);
        self.next.max(self.passed).filter(|_| is_stuck && !has_reason)
    }

    pub fn ends_at(&mut self, end: i64, now: Instant) {
        self.end = Some((end, now));
        self.wait(now);
    }

    pub fn end_age(&self, now: Instant) -> Option<Duration> {
        self.end.map(|(_, at)| now.saturating_duration_since(at))
    }

    /// Starts or ends the time in which records wait.
    fn wait(&mut self, now: Instant) {
        match self.lag() {
            Some(1..) => {
                self.waiting.get_or_insert(now);
            }
            Some(_) => self.waiting = None,
            None => {}
        }
    }

    /// Number of waiting records according to the offsets; `None` if an offset is not known.
    pub fn lag(&self) -> Option<i64> {
        let (end, _) = self.end?;
        let next = self.next.max(self.passed)?;
        Some((end - next).max(0))
    }

    pub fn blocked(&mut self, reason: Reason, mut detail: Arc<str>, now: Instant) {
        if detail.len() > MAX_DETAIL_BYTES {
            detail = detail.get(..detail.floor_char_boundary(MAX_DETAIL_BYTES)).unwrap_or_default().into();
        }
        let since = match &self.block {
            Some(block) if block.reason == reason => block.since,
            _ => now,
        };
        self.block = Some(Block { reason, detail, since });
    }

    pub fn unblocked(&mut self, reason: Reason) {
        self.block.take_if(|block| block.reason == reason);
    }

    /// Time since which the partition does not move although records wait or may wait.
    fn still_since(&self) -> Option<Instant> {
        let blind = self.block.as_ref().filter(|block| {
            // An end offset older than the error does not show what has arrived since.
            block.reason.is_of_reading() && self.end.is_none_or(|(_, at)| at < block.since)
        });
        self.waiting.or(blind.map(|block| block.since))
    }

    pub fn stuck(&self, topic: &Arc<str>, partition: i32, after: Duration, now: Instant) -> Option<Stuck> {
        let duration = now.saturating_duration_since(self.still_since()?);
        (duration >= after).then(|| self.told(topic, partition, duration))
    }

    /// A report of the partition if it cannot be read.
    pub fn unread(&self, topic: &Arc<str>, partition: i32) -> Option<Stuck> {
        let block = self.block.as_ref().filter(|block| block.reason.is_of_reading())?;
        Some(self.told(topic, partition, block.since.elapsed()))
    }

    fn told(&self, topic: &Arc<str>, partition: i32, duration: Duration) -> Stuck {
        let (reason, detail) = match &self.block {
            Some(block) => (block.reason, Arc::clone(&block.detail)),
            None => (Reason::Unknown, "no error was reported".into()),
        };
        let offset = self.next.max(self.passed);
        Stuck { topic: Arc::clone(topic), partition, offset, duration, reason, detail }
    }
}
