//! Age of an experiment's counts, and the number of records that have come in since.
//!
//! ```text
//!  count ─► offsets up to which the sink had written ──┐
//!                                                      ├─► records that are not in the count
//!  call ──► ends of the topics now ────────────────────┘
//! ```
//!
//! The records of other flags and experiments are among them: only the sink reads what a record is about.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::database::{Database, DatabaseError, on_pool};
use crate::kafka::ends::{EndsClient, EndsError, TopicEnds};

use super::results::{Counted, Results};

/// Time that a call waits for the ends of the topics. A later answer is used by the next call.
const ENDS_TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout of each request to Kafka.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// Age up to which the ends of the topics are used again, so that many calls make few requests.
const ENDS_AGE_MAX: Duration = Duration::from_millis(500);

const OFFSETS: &str =
    "SELECT topic, log_id, partition, next_offset FROM sink_offsets WHERE topic = $1 OR topic = $2";

/// State of the audit sink when a count began; stored with the results.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CountStart {
    at: DateTime<Utc>,
    offsets: Vec<SinkOffset>,
}

/// Offset in a partition up to which the sink has written everything to the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SinkOffset {
    topic: String,
    log_id: String,
    partition: i32,
    next_offset: i64,
}

/// Results as they are stored.
#[derive(Debug, Serialize)]
pub(super) struct StoredResults {
    #[serde(flatten)]
    pub(super) results: Results,
    /// Named by [`COUNT_START`].
    pub(super) count_start: CountStart,
}

/// Member of the stored results that is not part of the answer.
pub(super) const COUNT_START: &str = "count_start";

/// Names of the topics that exposures and conversions come from.
#[derive(Debug, Clone)]
pub struct CountedTopics {
    pub events: String,
    pub conversions: String,
}

impl CountedTopics {
    pub fn of(config: &Config) -> Self {
        Self { events: config.topics.events.clone(), conversions: config.topics.conversions.clone() }
    }
}

impl CountStart {
    pub(super) async fn read(database: &Database, topics: &CountedTopics) -> Result<Self, DatabaseError> {
        let at = Utc::now();
        let rows: Vec<(String, String, i32, i64)> = on_pool!(database, |pool, sql| {
            let rows = sqlx::query_as(sql(OFFSETS)).bind(&topics.events).bind(&topics.conversions);
            rows.fetch_all(pool).await?
        });
        let offset =
            |(topic, log_id, partition, next_offset)| SinkOffset { topic, log_id, partition, next_offset };
        Ok(Self { at, offsets: rows.into_iter().map(offset).collect() })
    }

    /// Number of records of `topic` after this start. `markers`: offsets of each partition that are most likely the marker
    /// of a transaction.
    fn missing(&self, topic: &str, ends: &TopicEnds, markers: u64) -> u64 {
        let missing = ends.partitions.iter().map(|(partition, (low, end))| {
            let is_of = |offset: &&SinkOffset| {
                offset.topic == topic && offset.log_id == ends.id && offset.partition == *partition
            };
            let counted = self.offsets.iter().find(is_of).map_or(*low, |offset| offset.next_offset.max(*low));
            u64::try_from(end - counted).unwrap_or_default().saturating_sub(markers)
        });
        missing.sum()
    }
}

/// Compares counts with the ends of the topics.
#[derive(Debug)]
pub(super) struct Freshness {
    config: Arc<Config>,
    topics: CountedTopics,
    reader: Arc<Mutex<Reader>>,
}

#[derive(Debug, Default)]
struct Reader {
    client: Option<EndsClient>,
    /// The last answer, also that there was none, and its time.
    ends: Option<(Instant, Option<Ends>)>,
}

type Ends = Arc<BTreeMap<String, TopicEnds>>;

impl Freshness {
    pub(super) fn new(config: Arc<Config>) -> Self {
        let topics = CountedTopics::of(&config);
        Self { config, topics, reader: Arc::default() }
    }

    pub(super) async fn of(&self, start: &CountStart) -> Counted {
        let ends = self.ends().await;
        let missing = |topic: &String, markers| {
            let ends = ends.as_ref()?.get(topic)?;
            Some(start.missing(topic, ends, markers))
        };
        // A partition of events ends with the marker of the evaluator's last transaction, which the sink's offset does not
        // include. The embedded broker writes none.
        let markers = u64::from(self.config.audit.log_id.is_none());
        Counted {
            at: start.at,
            age_seconds: (Utc::now() - start.at).num_seconds().try_into().unwrap_or_default(),
            evaluations_since: missing(&self.topics.events, markers),
            conversions_since: missing(&self.topics.conversions, 0),
        }
    }

    /// Ends of the topics now. `None`: Kafka does not answer.
    async fn ends(&self) -> Option<Ends> {
        let (reader, config, topics) =
            (Arc::clone(&self.reader), Arc::clone(&self.config), self.topics.clone());
        let reading = tokio::task::spawn_blocking(move || {
            // A call that waits for the lock gets the answer to the call before it.
            let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
            reader.read(&config, &topics)
        });
        tokio::time::timeout(ENDS_TIMEOUT, reading).await.ok()?.ok()?
    }
}

impl Reader {
    fn read(&mut self, config: &Config, topics: &CountedTopics) -> Option<Ends> {
        if let Some((at, ends)) = &self.ends
            && at.elapsed() < ENDS_AGE_MAX
        {
            return ends.clone();
        }
        let read = self.ask(config, topics);
        if let Err(error) = &read {
            tracing::debug!(%error, "the ends of the topics are not known");
        }
        let ends = read.ok().map(Arc::new);
        self.ends = Some((Instant::now(), ends.clone()));
        ends
    }

    fn ask(
        &mut self,
        config: &Config,
        topics: &CountedTopics,
    ) -> Result<BTreeMap<String, TopicEnds>, EndsError> {
        let client = match self.client.take() {
            Some(client) => client,
            None => EndsClient::new(&config.kafka, "experiments")?,
        };
        let read = client.read(&[&topics.events, &topics.conversions], CALL_TIMEOUT);
        self.client = Some(client);
        let mut ends = read?;
        if let Some(id) = &config.audit.log_id {
            ends.values_mut().for_each(|topic| topic.id.clone_from(id));
        }
        Ok(ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(offsets: &[(&str, &str, i32, i64)]) -> CountStart {
        let offset = |(topic, log_id, partition, next_offset): &(&str, &str, i32, i64)| SinkOffset {
            topic: (*topic).to_owned(),
            log_id: (*log_id).to_owned(),
            partition: *partition,
            next_offset: *next_offset,
        };
        CountStart { at: Utc::now(), offsets: offsets.iter().map(offset).collect() }
    }

    #[test]
    fn what_is_missing_in_a_count_lies_between_the_sinks_offsets_and_the_ends() {
        let start =
            start(&[("t", "new", 0, 100), ("t", "new", 1, 5), ("t", "old", 2, 900), ("other", "new", 2, 50)]);
        let missing = |partitions: &[(i32, (i64, i64))], markers| {
            let ends = TopicEnds { id: "new".to_owned(), partitions: partitions.iter().copied().collect() };
            start.missing("t", &ends, markers)
        };
        assert_eq!(missing(&[(0, (0, 100)), (1, (0, 5))], 0), 0, "all of it is counted");
        assert_eq!(missing(&[(0, (0, 130)), (1, (0, 6))], 0), 31);
        assert_eq!(missing(&[(0, (0, 130)), (1, (0, 6))], 1), 29, "without the markers");
        assert_eq!(missing(&[(1, (40, 60))], 0), 20, "retention has removed what was not read");
        assert_eq!(
            missing(&[(2, (10, 20))], 0),
            10,
            "of a topic that was created anew nothing is counted yet"
        );
        assert_eq!(missing(&[(0, (0, 90))], 0), 0, "a log that was cut");
    }
}
