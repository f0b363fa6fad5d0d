//! Selection of dead letters.

use std::str::FromStr;

use chrono::{DateTime, Utc};

use crate::cli::tail::by_role;
use crate::cli::{moment, values};
use crate::config::Config;
use crate::kafka::dead_letter::DeadLetterRecord;
use crate::kafka::range::Range;
use crate::kafka::reach::{REACH_TIMEOUT, reach};

#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Selection {
    /// Only dead letters with these codes, such as NOT_JSON; several separated by commas
    #[arg(long = "code", value_name = "CODE", value_delimiter = ',')]
    codes: Vec<String>,
    /// Only those written at this time or later: 2026-01-15T10:30:00Z, 2026-01-15, or a relative time such as 2h (ago)
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    since: Option<DateTime<Utc>>,
    /// Only those written before this time
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    until: Option<DateTime<Utc>>,
    /// Only those from this topic: requests, events, definitions, conversions, or any topic by its name
    #[arg(long, value_name = "TOPIC")]
    source: Option<String>,
    /// Maximum number of dead letters
    #[arg(short = 'n', long = "count", value_name = "N", value_parser = values::count)]
    count: Option<u64>,
}

/// Position of a dead letter in its topic, as printed by `list`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadLetterId {
    pub partition: i32,
    pub offset: i64,
}

impl FromStr for DeadLetterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/');
        let place = numbers.and_then(|(partition, offset)| {
            Some(Self { partition: partition.parse().ok()?, offset: offset.parse().ok()? })
        });
        place.ok_or_else(|| "expected PARTITION/OFFSET, as `dead-letters list` prints it".to_owned())
    }
}

impl DeadLetterId {
    pub fn of(dead_letter: &DeadLetterRecord) -> Self {
        Self { partition: dead_letter.partition, offset: dead_letter.offset }
    }
}

impl Selection {
    /// A selection without any restriction.
    pub fn none() -> Self {
        Self { codes: Vec::new(), since: None, until: None, source: None, count: None }
    }

    /// Whether there is no restriction at all.
    pub fn is_everything(&self) -> bool {
        let said = !self.codes.is_empty() || self.since.is_some() || self.until.is_some();
        !said && self.source.is_none() && self.count.is_none()
    }

    /// Calls `take` for each selected dead letter that exists at the start, until there are no more or `take` returns
    /// `false`. Blocks.
    pub fn each(
        &self,
        config: &Config,
        mut take: impl FnMut(DeadLetterRecord) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let since = self.since.map(|since| since.timestamp_millis());
        reach(&config.kafka, &config.topics.events, REACH_TIMEOUT)?;
        let mut dead_letters =
            Range::open(&config.kafka, "dead-letters", &config.topics.dead_letters, since)?;
        let source = self.source.as_deref().map(|source| by_role(&config.topics, source));
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 {
            let Some(record) = dead_letters.record()? else { break };
            let Some(dead_letter) = DeadLetterRecord::read(&record) else { continue };
            if self.means(&dead_letter, source) {
                left -= 1;
                if !take(dead_letter)? {
                    break;
                }
            }
        }
        Ok(())
    }

    fn means(&self, dead_letter: &DeadLetterRecord, source: Option<&str>) -> bool {
        let in_time = |time: i64| {
            self.since.is_none_or(|since| since.timestamp_millis() <= time)
                && self.until.is_none_or(|until| time < until.timestamp_millis())
        };
        let coded = self.codes.is_empty()
            || self.codes.iter().any(|code| code.eq_ignore_ascii_case(&dead_letter.code));
        coded
            && in_time(dead_letter.written_ms)
            && source.is_none_or(|source| source == dead_letter.source_topic)
    }
}
