//! Malformed rows on their way to the dead-letter topic.
//!
//! ```text
//!  every instance: malformed rows of a batch ─► behind the marks? ─► one Kafka transaction: dead letters, marks
//! ```
//!
//! Every instance reads the whole topic, but a row becomes one dead letter. The offsets of a consumer group without members
//! mark up to where dead letters were sent, and move in the transaction that sends them. All instances use the same
//! transactional id for a table: an instance that begins fences the others, reads the marks, and sends what is behind
//! them. The fenced instances try again, and find the new marks. A consumer of committed records sees each dead letter once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::config::Config;
use crate::kafka::backoff::Backoff;
use crate::kafka::client;
use crate::kafka::producer::{LINGER_MS, MAX_RECORD_BYTES, TrackedProducer, is_refusal};
use crate::kafka::table::TableReader;
use crate::kafka::tail::FollowError;
use crate::message::dead_letter::DeadLetter;
use crate::message::request::Refusal;
use crate::metrics::{CodeLabels, Metrics};
use crate::shutdown::{Shutdown, pause};

use super::reader::CALL_TIMEOUT;

/// Maximum dead letters of one transaction.
const TRANSACTION_ROWS: usize = 500;
/// Attempts of a transaction that other instances fence.
const ATTEMPTS: u32 = 6;
/// Delay before the second attempt; it doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(40);
/// Longest delay between two attempts.
const MAX_BACKOFF: Duration = Duration::from_millis(500);

/// A record that is no row, with the reason.
#[derive(Debug)]
pub(super) struct MalformedRow {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub body: Option<Vec<u8>>,
    pub headers: OwnedHeaders,
    pub refusal: Refusal,
}

/// Parts of its row that a dead letter contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Whole,
    WithoutBody,
    PositionOnly,
}

/// Reason why dead letters were not sent.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    #[error("{0}")]
    Marks(#[from] FollowError),
    #[error("a dead letter cannot be sent: {0}")]
    Send(#[from] KafkaError),
    #[error("a dead letter cannot be sent: {0}")]
    Undelivered(RDKafkaErrorCode),
    #[error("Kafka did not acknowledge dead letters within {} s", CALL_TIMEOUT.as_secs())]
    Unacknowledged,
}

impl DeadLetterError {
    fn code(&self) -> Option<RDKafkaErrorCode> {
        match self {
            Self::Send(error) => error.rdkafka_error_code(),
            Self::Undelivered(code) => Some(*code),
            Self::Marks(_) | Self::Unacknowledged => None,
        }
    }

    /// Whether a record was rejected, so that another attempt would fail the same way.
    fn is_refusal(&self) -> bool {
        self.code().is_some_and(is_refusal)
    }

    /// Whether another instance has begun a transaction with the same id. To librdkafka, that is a fatal error.
    fn is_fenced(&self) -> bool {
        use RDKafkaErrorCode as Code;
        let fenced = [Code::Fatal, Code::Fenced, Code::ProducerFenced, Code::InvalidProducerEpoch];
        self.code().is_some_and(|code| fenced.contains(&code))
    }
}

/// Sends dead letters for one table.
#[derive(Debug)]
pub(super) struct DeadLetters {
    config: Arc<Config>,
    transactional_id: String,
    metrics: Arc<Metrics>,
    shutdown: Shutdown,
}

impl DeadLetters {
    pub(super) fn new(
        config: &Arc<Config>,
        table: &str,
        metrics: &Arc<Metrics>,
        shutdown: &Shutdown,
    ) -> Self {
        Self {
            config: Arc::clone(config),
            transactional_id: format!("{}-attributes-{table}-letters", config.kafka.group_id),
            metrics: Arc::clone(metrics),
            shutdown: shutdown.clone(),
        }
    }

    /// Sends what no instance has sent before, in order. Blocks.
    pub(super) fn send(&self, reader: &TableReader, rows: &[MalformedRow]) -> Result<(), DeadLetterError> {
        for some in rows.chunks(TRANSACTION_ROWS) {
            self.send_some(reader, some, Content::Whole)?;
        }
        Ok(())
    }

    /// Sends rows of one transaction. If Kafka rejects one, it is found by halving, and sent with less of its content.
    fn send_some(
        &self,
        reader: &TableReader,
        rows: &[MalformedRow],
        content: Content,
    ) -> Result<(), DeadLetterError> {
        match (self.attempts(reader, rows, content), content) {
            (Err(error), _) if error.is_refusal() && rows.len() > 1 => {
                let (first, second) = rows.split_at(rows.len() / 2);
                self.send_some(reader, first, content)?;
                self.send_some(reader, second, content)
            }
            (Err(error), Content::Whole) if error.is_refusal() => {
                self.send_some(reader, rows, Content::WithoutBody)
            }
            (Err(error), Content::WithoutBody) if error.is_refusal() => {
                self.send_some(reader, rows, Content::PositionOnly)
            }
            (sent, _) => sent,
        }
    }

    /// Repeats the transaction while other instances fence it.
    fn attempts(
        &self,
        reader: &TableReader,
        rows: &[MalformedRow],
        content: Content,
    ) -> Result<(), DeadLetterError> {
        let mut backoff = Backoff::new(MIN_BACKOFF, MAX_BACKOFF);
        for _ in 1..ATTEMPTS {
            match self.transaction(reader, rows, content) {
                Err(error) if error.is_fenced() => {
                    if !pause(backoff.jittered(), &self.shutdown) {
                        return Err(error);
                    }
                }
                ended => return ended,
            }
        }
        self.transaction(reader, rows, content)
    }

    fn transaction(
        &self,
        reader: &TableReader,
        rows: &[MalformedRow],
        content: Content,
    ) -> Result<(), DeadLetterError> {
        // Checked before too, because a new producer fences one that may be sending these rows.
        if unsent(&reader.marks(CALL_TIMEOUT)?, rows).next().is_none() {
            return Ok(());
        }
        let producer = self.producer()?;
        // The start of the producer has ended the transactions of others, so the marks do not move any more.
        let marks = reader.marks(CALL_TIMEOUT)?;
        let rows: Vec<_> = unsent(&marks, rows).collect();
        if rows.is_empty() {
            return Ok(());
        }
        producer.inner().begin_transaction()?;
        let mut next = BTreeMap::new();
        for row in &rows {
            self.send_one(&producer, reader.topic(), row, content)?;
            next.insert(row.partition, row.offset + 1);
        }
        let is_acknowledged = producer.drain(CALL_TIMEOUT);
        let failures = producer.take_failures();
        // A rejected record fails those that were sent with it.
        if let Some(failure) = failures.iter().find(|failure| is_refusal(failure.code)).or(failures.first()) {
            return Err(reason(&producer, failure.code));
        }
        if !is_acknowledged {
            return Err(DeadLetterError::Unacknowledged);
        }
        let moved =
            producer.begin_send_offsets(offsets(reader.topic(), &next)?, reader.group()?, CALL_TIMEOUT);
        moved.wait(|| false).ok_or(DeadLetterError::Unacknowledged)?.0?;
        let committed = producer.begin_commit(CALL_TIMEOUT);
        committed.wait(|| false).ok_or(DeadLetterError::Unacknowledged)?.0?;
        for row in rows {
            self.metrics.dead_letters.get_or_create(&CodeLabels { code: row.refusal.code.as_str() }).inc();
        }
        Ok(())
    }

    /// A producer of one transaction. The others with its id are fenced, and their open transactions aborted.
    fn producer(&self) -> Result<TrackedProducer, DeadLetterError> {
        let mut settings = client::base(&self.config.kafka, "attributes-dead-letters");
        client::compress(&mut settings, &self.config.kafka)
            .set("transactional.id", &self.transactional_id)
            .set("transaction.timeout.ms", "10000")
            .set("delivery.report.only.error", "true")
            .set("linger.ms", LINGER_MS)
            .set("message.max.bytes", MAX_RECORD_BYTES.to_string());
        // Fencing is expected, and other errors are returned.
        let producer = TrackedProducer::create_quiet(&settings, &self.config.topics.dead_letters)?;
        producer.inner().init_transactions(CALL_TIMEOUT)?;
        Ok(producer)
    }

    fn send_one(
        &self,
        producer: &TrackedProducer,
        topic: &str,
        row: &MalformedRow,
        content: Content,
    ) -> Result<(), KafkaError> {
        let message = row.refusal.text();
        let dead_letter = DeadLetter {
            code: row.refusal.code.as_str(),
            message: &message,
            topic,
            partition: row.partition,
            offset: row.offset,
            index: None,
            body_omitted: content != Content::Whole,
        };
        let original =
            if content == Content::PositionOnly { OwnedHeaders::new() } else { row.headers.clone() };
        let headers = dead_letter
            .headers()
            .iter()
            .fold(original, |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
        let mut record: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(&self.config.topics.dead_letters, 0).headers(headers);
        record.key = row.key.as_deref().filter(|_| content != Content::PositionOnly);
        record.payload = row.body.as_deref().filter(|_| content == Content::Whole);
        producer.send_record(record)
    }
}

/// Reason why a dead letter was not delivered. When a transaction fails, librdkafka purges its records, and a commit returns
/// the reason at once.
fn reason(producer: &TrackedProducer, code: RDKafkaErrorCode) -> DeadLetterError {
    if !matches!(code, RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight) {
        return DeadLetterError::Undelivered(code);
    }
    match producer.inner().commit_transaction(CALL_TIMEOUT) {
        Err(error) => DeadLetterError::Send(error),
        Ok(()) => DeadLetterError::Undelivered(code),
    }
}

/// The rows behind the marks.
fn unsent<'r>(
    marks: &BTreeMap<i32, i64>,
    rows: &'r [MalformedRow],
) -> impl Iterator<Item = &'r MalformedRow> {
    rows.iter().filter(move |row| marks.get(&row.partition).is_none_or(|mark| row.offset >= *mark))
}

fn offsets(topic: &str, next: &BTreeMap<i32, i64>) -> Result<TopicPartitionList, KafkaError> {
    let mut offsets = TopicPartitionList::new();
    for (partition, offset) in next {
        offsets.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
    }
    Ok(offsets)
}

/// A copy of a record's headers.
pub(super) fn headers_of(headers: Option<&impl Headers>) -> OwnedHeaders {
    let all = headers.into_iter().flat_map(Headers::iter);
    all.fold(OwnedHeaders::new(), OwnedHeaders::insert)
}

#[cfg(test)]
#[path = "dead_letters_tests.rs"]
mod tests;
