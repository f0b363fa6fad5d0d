//! Finds dead letters in their topic. All functions block.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use rdkafka::Message;

use crate::config::Config;
use crate::kafka::dead_letter::DeadLetterRecord;
use crate::kafka::range::Range;
use crate::kafka::reach::{REACH_TIMEOUT, reach};
use crate::kafka::tail::FollowError;

/// Records at the end of each partition that a list looks at.
const SCANNED_RECORDS: i64 = 2_000;
/// Bytes of records that a list looks at.
const SCANNED_MAX_BYTES: usize = 128 << 20;
/// Time after which a list returns what it has found.
const SCAN_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest body that a list contains, in bytes. A single dead letter is shown whole.
pub const LISTED_BODY_MAX_BYTES: usize = 32 << 10;

/// Selection of dead letters. `None` selects all.
#[derive(Debug, Clone, Default)]
pub struct LatestFilter {
    pub code: Option<String>,
    /// Topic of the rejected record.
    pub source: Option<String>,
    pub from: Option<DateTime<Utc>>,
    /// End of the time range, exclusive.
    pub to: Option<DateTime<Utc>>,
    pub limit: usize,
}

/// The latest dead letters, newest first.
#[derive(Debug)]
pub struct Latest {
    /// Each with the size of its body in bytes. A body that is too long for a list is removed.
    pub dead_letters: Vec<(DeadLetterRecord, usize)>,
    /// Whether older records were not looked at.
    pub truncated: bool,
}

/// Reason why dead letters cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    #[error(transparent)]
    Kafka(#[from] FollowError),
    #[error("{0}")]
    Unreachable(String),
}

/// Returns the latest selected dead letters.
pub fn latest(config: &Config, filter: &LatestFilter) -> Result<Latest, FindError> {
    reach(&config.kafka, &config.topics.dead_letters, REACH_TIMEOUT)
        .map_err(|error| FindError::Unreachable(error.to_string()))?;
    let topic = &config.topics.dead_letters;
    let mut range = Range::latest(&config.kafka, "dead-letters", topic, SCANNED_RECORDS)?;
    let mut truncated = range.is_cut();
    let (deadline, mut scanned) = (Instant::now() + SCAN_TIMEOUT, 0);
    // By time and position, so that the oldest can be dropped when there are too many.
    let mut found: BTreeMap<(i64, i32, i64), (DeadLetterRecord, usize)> = BTreeMap::new();
    while let Some(record) = range.record()? {
        scanned += record.payload_len();
        if scanned > SCANNED_MAX_BYTES || Instant::now() > deadline {
            truncated = true;
            break;
        }
        let Some(mut dead_letter) = DeadLetterRecord::read(&record) else { continue };
        if !filter.matches(&dead_letter) {
            continue;
        }
        let bytes = dead_letter.body.as_ref().map_or(0, Vec::len);
        dead_letter.body = dead_letter.body.filter(|body| body.len() <= LISTED_BODY_MAX_BYTES);
        let place = (dead_letter.written_ms, dead_letter.partition, dead_letter.offset);
        found.insert(place, (dead_letter, bytes));
        if found.len() > filter.limit {
            found.pop_first();
            truncated = true;
        }
    }
    let mut dead_letters: Vec<_> = found.into_values().collect();
    dead_letters.sort_by_key(|(it, _)| Reverse((it.written_ms, it.partition, it.offset)));
    Ok(Latest { dead_letters, truncated })
}

/// Finds dead letters by their positions, all through one consumer.
#[derive(Debug)]
pub struct Finder(Range);

impl Finder {
    pub fn open(config: &Config) -> Result<Self, FindError> {
        let topic = &config.topics.dead_letters;
        reach(&config.kafka, topic, REACH_TIMEOUT)
            .map_err(|error| FindError::Unreachable(error.to_string()))?;
        Ok(Self(Range::empty(&config.kafka, "dead-letters", topic)?))
    }

    /// Returns the dead letter at a position. `None`: there is no dead letter there.
    pub fn find(&mut self, partition: i32, offset: i64) -> Result<Option<DeadLetterRecord>, FindError> {
        self.0.select(partition, offset)?;
        while let Some(record) = self.0.record()? {
            if (record.partition(), record.offset()) == (partition, offset) {
                return Ok(DeadLetterRecord::read(&record));
            }
        }
        Ok(None)
    }
}

impl LatestFilter {
    fn matches(&self, dead_letter: &DeadLetterRecord) -> bool {
        let is_in_time = self.from.is_none_or(|from| from.timestamp_millis() <= dead_letter.written_ms)
            && self.to.is_none_or(|to| dead_letter.written_ms < to.timestamp_millis());
        is_in_time
            && self.code.as_ref().is_none_or(|code| code.eq_ignore_ascii_case(&dead_letter.code))
            && self.source.as_ref().is_none_or(|source| *source == dead_letter.source_topic)
    }
}
