//! A result is sent to the partition number of its record. If the source has more partitions than a topic of results (the
//! events topic, or a topic that a tap writes to), the additional ones are paused until that topic has them too; all
//! others continue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::metrics::gauge::Gauge;
use rdkafka::Offset;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::Producer;

use super::Session;
use crate::evaluate::clients::rewind_these;
use crate::evaluate::error::SessionError;
use crate::log_limit::limited;
use crate::progress::Reason;

/// Interval of the lookups of the events topic's partition count, while partitions are paused.
const INTERVAL: Duration = Duration::from_secs(1);
/// Timeout of one lookup.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// The partitions of one worker without a counterpart in a topic of results.
#[derive(Debug)]
pub struct Unpaired {
    partitions: Vec<i32>,
    /// Fewest partitions of a topic of results at the last lookup; `None` before the first.
    events: Option<i32>,
    asked: Option<Instant>,
    /// Gauge of the paused partitions of all workers.
    waiting: Gauge,
}

impl Unpaired {
    pub fn new(waiting: Gauge) -> Self {
        Self { partitions: Vec::new(), events: None, asked: None, waiting }
    }

    pub fn has(&self, partition: i32) -> bool {
        self.partitions.contains(&partition)
    }

    pub fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }

    /// Keeps only the assigned partitions and returns the others.
    pub fn retain(&mut self, is_assigned: impl Fn(i32) -> bool) -> Vec<i32> {
        let (kept, left): (Vec<i32>, Vec<i32>) =
            std::mem::take(&mut self.partitions).into_iter().partition(|partition| is_assigned(*partition));
        self.partitions = kept;
        self.waiting.dec_by(i64::try_from(left.len()).unwrap_or_default());
        left
    }

    /// Whether a partition up to `last` may lack a counterpart.
    fn is_in_doubt(&self, last: i32) -> bool {
        self.events.is_none_or(|events| last >= events)
    }

    fn is_due(&self) -> bool {
        self.asked.is_none_or(|asked| asked.elapsed() >= INTERVAL)
    }
}

impl<'s> Session<'s> {
    /// Pauses partitions without a counterpart, and resumes those that have one now.
    pub(super) fn follow_pairs(&mut self) -> Result<(), SessionError> {
        let Some(last) = self.state.begun.last().copied() else { return Ok(()) };
        if !self.state.unpaired.is_in_doubt(last) || !self.state.unpaired.is_due() {
            return Ok(());
        }
        self.state.unpaired.asked = Some(Instant::now());
        let (events, fewest) = match self.fewest_partitions() {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, "the partition counts of the topics of results cannot be read; retrying");
                return Ok(());
            }
        };
        self.state.unpaired.events = Some(events);
        let (released, kept) =
            std::mem::take(&mut self.state.unpaired.partitions).into_iter().partition(|held| *held < events);
        self.state.unpaired.partitions = kept;
        self.release_paired(released)?;
        let held = self.state.begun.range(events..).copied();
        let held: Vec<i32> = held.filter(|partition| !self.state.unpaired.has(*partition)).collect();
        self.hold_unpaired(&held, events, fewest).map_err(SessionError::Consumer)
    }

    fn hold_unpaired(&mut self, held: &[i32], events: i32, fewest: &str) -> KafkaResult<()> {
        if held.is_empty() {
            return Ok(());
        }
        let list = self.list(held, Offset::Invalid)?;
        self.consumer.pause(&list)?;
        let source = &self.pipeline.source;
        let why: Arc<str> =
            format!("topic {fewest} has {events} partitions, fewer than topic {source}").into();
        for partition in held {
            self.state.status.progress().blocked(*partition, Reason::Held, Arc::clone(&why));
        }
        limited!(warn, partitions = ?held, "partitions are paused: {why}; see `flagstream topics check`");
        self.state.status.degraded(format!("partitions {held:?} are paused: {why}"));
        self.well = false;
        self.state.unpaired.waiting.inc_by(i64::try_from(held.len()).unwrap_or_default());
        self.state.unpaired.partitions.extend(held);
        Ok(())
    }

    fn release_paired(&mut self, released: Vec<i32>) -> Result<(), SessionError> {
        if released.is_empty() {
            return Ok(());
        }
        self.state.unpaired.waiting.dec_by(i64::try_from(released.len()).unwrap_or_default());
        // The producer discovers new partitions only by a metadata request.
        for output in &self.pipeline.outputs {
            let asked = self.producer.inner().client().fetch_metadata(Some(output), CALL_TIMEOUT);
            asked.map_err(SessionError::Producer)?;
        }
        let list = self.list(&released, Offset::Invalid).map_err(SessionError::Consumer)?;
        self.consumer.inner().resume(&list).map_err(SessionError::Consumer)?;
        tracing::info!(partitions = ?released, "the topics of results have these partitions now; reading resumes");
        rewind_these(self.consumer, &self.pipeline.source, list)
    }

    /// The fewest partitions of the topics of results, and the topic that has them.
    fn fewest_partitions(&self) -> KafkaResult<(i32, &'s str)> {
        let counts =
            self.pipeline.outputs.iter().map(|topic| Ok((self.partitions_of(topic)?, topic.as_str())));
        let counts = counts.collect::<KafkaResult<Vec<_>>>()?;
        Ok(counts.into_iter().min().unwrap_or((i32::MAX, "")))
    }

    fn partitions_of(&self, topic: &str) -> KafkaResult<i32> {
        // Uses the consumer: a metadata request of a producer may create the topic.
        let client = self.consumer.inner().client();
        let metadata = client.fetch_metadata(Some(topic), CALL_TIMEOUT)?;
        let unknown = KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition);
        let topic = metadata.topics().first().ok_or(unknown)?;
        match topic.error() {
            Some(error) => Err(KafkaError::MetadataFetch(error.into())),
            None => Ok(i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX)),
        }
    }
}
