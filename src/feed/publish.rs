//! Publishes each diff in Kafka transactions by a single producer, which a successor fences. Kill switches
//! are written the same way.

use std::time::Duration;

use ahash::AHashMap;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::TopicPartitionList;

use crate::config::Config;
use crate::kafka::client;
use crate::kafka::producer::{Failures, LINGER_MS, TrackedProducer};

/// Transaction timeout. It limits how long a dead leader blocks readers of committed records.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of each call to the transaction coordinator, and of waiting for deliveries.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum batch size in bytes. librdkafka does not split a batch that the broker finds too large. With small
/// batches, a definition that is too large is alone in its batch and can be identified.
const BATCH_BYTES: usize = 16 << 10;

/// Producer of this leader's term. All its calls block.
pub struct Publisher {
    producer: TrackedProducer,
}

/// Record of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'t> {
    pub topic: &'t str,
    pub key: String,
    /// Record value; `None` for a tombstone.
    pub body: Option<Vec<u8>>,
    pub tombstone: Option<Tombstone>,
}

impl Record<'_> {
    fn size(&self) -> usize {
        self.key.len() + self.body.as_ref().map_or(0, Vec::len)
    }
}

/// Headers `version` and `actor` of a tombstone, which has no body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tombstone {
    pub version: u64,
    pub actor: String,
}

/// Hints that count as handled once the transaction is committed.
pub struct Handled {
    pub offsets: TopicPartitionList,
    pub group: ConsumerGroupMetadata,
}

/// Error of a transaction. The producer must then be dropped: `init_transactions` of the next producer aborts
/// the open transaction, and reading the definitions topic shows what was committed.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("another leader has taken over: {0}")]
    Fenced(String),
    #[error("the broker rejects these records as too large: {0:?}")]
    TooLarge(Vec<String>),
    #[error("{step}: {error}")]
    Kafka { step: &'static str, error: KafkaError },
    #[error("{0}")]
    Other(String),
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}

impl Publisher {
    /// Creates a producer and fences all former ones of this role: the broker refuses their records from now
    /// on.
    pub fn open(config: &Config, role: &str, topics: [&str; 3]) -> Result<Self, PublishError> {
        let mut settings = client::base(&config.kafka, role);
        client::compress(&mut settings, &config.kafka)
            // The id is the same for all instances. Owning the partition of the changes topic does not fence
            // a former leader.
            .set("transactional.id", format!("{}-{role}", config.kafka.group_id))
            .set("transaction.timeout.ms", TRANSACTION_TIMEOUT.as_millis().to_string())
            .set("delivery.report.only.error", "true")
            .set("linger.ms", LINGER_MS)
            .set("batch.size", BATCH_BYTES.to_string());
        let [topic, ..] = topics;
        // Each failing call returns the error of the client.
        let producer = TrackedProducer::create_quiet(&settings, topic)
            .map_err(|error| PublishError::Kafka { step: "create the producer", error })?;
        let publisher = Self { producer };
        // Fetching metadata first saves the first transaction the wait for it, and detects a missing topic
        // before the term. It must precede `init_transactions`, because librdkafka looks for the coordinator
        // half a second later if no broker is connected yet.
        for topic in topics {
            publisher.find(topic)?;
        }
        publisher.step("init_transactions", |producer| producer.init_transactions(CALL_TIMEOUT))?;
        Ok(publisher)
    }

    /// Publishes all of `repository` and the offsets, or nothing.
    pub fn transaction(
        &self,
        repository: &[Record<'_>],
        handled: Option<&Handled>,
    ) -> Result<(), PublishError> {
        // Failures of an earlier transaction.
        drop(self.producer.take_failures());
        self.step("begin_transaction", Producer::begin_transaction)?;
        let mut round: AHashMap<&str, usize> = AHashMap::new();
        for (delivery_id, record) in repository.iter().enumerate() {
            self.send(record, delivery_id)?;
            let bytes = round.entry(record.topic).or_default();
            *bytes += record.size();
            if *bytes >= BATCH_BYTES {
                self.drain(repository)?;
                round.clear();
            }
        }
        if let Some(Handled { offsets, group }) = handled {
            self.step("send_offsets_to_transaction", |producer| {
                producer.send_offsets_to_transaction(offsets, group, CALL_TIMEOUT)
            })?;
        }
        self.drain(repository)?;
        self.step("commit_transaction", |producer| producer.commit_transaction(CALL_TIMEOUT))
    }

    fn find(&self, topic: &str) -> Result<(), PublishError> {
        let metadata = self.producer.inner().client().fetch_metadata(Some(topic), CALL_TIMEOUT);
        let metadata = metadata.map_err(|error| self.refuse("find the topics", error))?;
        match metadata.topics().iter().any(|found| found.name() == topic && !found.partitions().is_empty()) {
            true => Ok(()),
            false => Err(PublishError::Other(format!("topic {topic} does not exist"))),
        }
    }

    fn send(&self, record: &Record<'_>, delivery_id: usize) -> Result<(), PublishError> {
        let mut outgoing: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(record.topic, delivery_id).key(record.key.as_bytes());
        outgoing.payload = record.body.as_deref();
        if let Some(Tombstone { version, actor }) = &record.tombstone {
            let version = version.to_string();
            let headers = OwnedHeaders::new().insert(Header { key: "version", value: Some(&version) });
            outgoing = outgoing.headers(headers.insert(Header { key: "actor", value: Some(actor) }));
        }
        self.producer.send_record(outgoing).map_err(|error| match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => PublishError::TooLarge(vec![record.key.clone()]),
            _ => PublishError::Kafka { step: "produce", error },
        })
    }

    /// Waits for all deliveries. Otherwise `commit_transaction` would wait for them in steps of 100 ms. `repository` are
    /// the records of the transaction.
    fn drain(&self, repository: &[Record<'_>]) -> Result<(), PublishError> {
        let is_complete = self.producer.drain(CALL_TIMEOUT);
        if let Some(error) = self.undelivered(repository) {
            return Err(error);
        }
        if is_complete {
            return Ok(());
        }
        Err(PublishError::Other(format!(
            "the broker did not acknowledge the records within {} s",
            CALL_TIMEOUT.as_secs()
        )))
    }

    fn undelivered(&self, repository: &[Record<'_>]) -> Option<PublishError> {
        use RDKafkaErrorCode as Code;
        let failures = self.producer.take_failures();
        let large: Vec<String> = failures
            .iter()
            .filter(|failure| failure.code == Code::MessageSizeTooLarge)
            .filter_map(|failure| Some(repository.get(failure.delivery_id)?.key.clone()))
            .collect();
        if !large.is_empty() {
            return Some(PublishError::TooLarge(large));
        }
        // The records after the one that failed are purged, which is not the reason.
        let is_purged = |code| matches!(code, Code::PurgeQueue | Code::PurgeInflight);
        let reason = failures.iter().find(|failure| !is_purged(failure.code)).or(failures.first())?;
        Some(self.refuse("deliver", KafkaError::MessageProduction(reason.code)))
    }

    fn step(
        &self,
        step: &'static str,
        call: impl FnOnce(&BaseProducer<Failures>) -> Result<(), KafkaError>,
    ) -> Result<(), PublishError> {
        call(self.producer.inner()).map_err(|error| self.refuse(step, error))
    }

    fn refuse(&self, step: &'static str, error: KafkaError) -> PublishError {
        let fatal = self.producer.inner().client().fatal_error();
        let code = fatal.as_ref().map(|(code, _)| *code).or_else(|| error.rdkafka_error_code());
        let fenced = matches!(
            code,
            Some(
                RDKafkaErrorCode::Fenced
                    | RDKafkaErrorCode::ProducerFenced
                    | RDKafkaErrorCode::InvalidProducerEpoch
                    | RDKafkaErrorCode::FencedInstanceId
            )
        );
        match fenced {
            true => PublishError::Fenced(format!("{step}: {error}")),
            false => PublishError::Kafka { step, error },
        }
    }
}
