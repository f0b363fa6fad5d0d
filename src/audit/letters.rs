//! Records that cannot become rows, on their way to the dead letters.

use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Header;
use rdkafka::producer::BaseRecord;

use crate::config::Config;
use crate::kafka::client;
use crate::kafka::producer::{ReportingProducer, is_refusal};
use crate::message::dead_letter::DeadLetter;

use super::batch::{Batch, Entry, Refusal};

/// How long the broker may take to acknowledge them.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends dead letters; its producer is made with the first of them.
#[derive(Debug)]
pub struct Letters {
    config: std::sync::Arc<Config>,
    topic: String,
    producer: Option<ReportingProducer>,
}

/// Why dead letters are not sent. The batch waits.
#[derive(Debug, thiserror::Error)]
pub enum LetterError {
    #[error("dead letters: {0}")]
    Kafka(#[from] KafkaError),
    #[error("dead letters are not acknowledged within {} s", PATIENCE.as_secs())]
    Unacknowledged,
    #[error("dead letters: {0}")]
    Undelivered(RDKafkaErrorCode),
}

impl Letters {
    /// For records of `topic`.
    pub fn new(config: std::sync::Arc<Config>, topic: &str) -> Self {
        Self { config, topic: topic.to_owned(), producer: None }
    }

    /// Sends the refused entries of a batch and waits until all are acknowledged. Blocks.
    pub fn send(&mut self, batch: &Batch) -> Result<(), LetterError> {
        let refused = batch.entries.iter().filter_map(|entry| Some((entry, entry.refusal.as_ref()?)));
        for (entry, refusal) in refused {
            // One at a time: the broker refuses a whole request of records for the sake of one.
            match self.deliver(batch, entry, refusal, false) {
                Err(LetterError::Undelivered(code)) if is_refusal(code) => {
                    self.deliver(batch, entry, refusal, true)?;
                }
                sent => sent?,
            }
        }
        Ok(())
    }

    fn deliver(
        &mut self,
        batch: &Batch,
        entry: &Entry,
        refusal: &Refusal,
        body_omitted: bool,
    ) -> Result<(), LetterError> {
        let letter = DeadLetter {
            code: refusal.code,
            message: &refusal.message,
            topic: &self.topic,
            partition: entry.partition,
            offset: entry.offset,
            index: None,
            body_omitted,
        };
        let headers = letter.headers().into_iter().fold(batch.headers(entry), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(&value) })
        });
        let mut dead: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(&self.config.topics.dead_letters, 0).headers(headers);
        dead.key = batch.key(entry);
        dead.payload = batch.payload(entry).filter(|_| !body_omitted);
        let producer = match &self.producer {
            Some(producer) if producer.fatal().is_none() => producer,
            _ => self.producer.insert(producer(&self.config)?),
        };
        producer.send_record(dead)?;
        let acknowledged = producer.drain(PATIENCE);
        match producer.take_failures().first() {
            Some(failure) => Err(LetterError::Undelivered(failure.code)),
            None if !acknowledged => Err(LetterError::Unacknowledged),
            None => Ok(()),
        }
    }
}

fn producer(config: &Config) -> Result<ReportingProducer, KafkaError> {
    let mut settings = client::base(&config.kafka, &config.instance, "sink-dead-letters");
    settings
        .set("enable.idempotence", "true")
        .set("delivery.report.only.error", "true")
        .set("compression.type", "lz4")
        .set("linger.ms", "0")
        .set("message.max.bytes", "8388608");
    ReportingProducer::create(&settings, &config.topics.dead_letters)
}
