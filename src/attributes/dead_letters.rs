//! Malformed rows on their way to the dead-letter topic.
//!
//! Every instance reads the whole topic, but one dead letter per row is enough. A consumer group without members marks
//! up to which offset dead letters were sent. An instance reads the marks first, and sets them after Kafka has
//! acknowledged: none is lost, and only instances that find a row at the same moment send it twice.

use std::sync::Arc;

use rdkafka::error::KafkaError;
use rdkafka::message::Headers;
use tokio::runtime::Handle;

use crate::config::Config;
use crate::kafka::producer::is_refusal;
use crate::kafka::sender::Sender;
use crate::kafka::table::TableReader;
use crate::kafka::tail::FollowError;
use crate::message::dead_letter::DeadLetter;
use crate::message::request::Refusal;
use crate::metrics::{CodeLabels, Metrics};

use super::reader::CALL_TIMEOUT;

/// A record that is no row, with the reason.
#[derive(Debug)]
pub(super) struct MalformedRow {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub body: Option<Vec<u8>>,
    pub headers: Vec<(String, String)>,
    pub refusal: Refusal,
}

/// Reason why dead letters were not sent.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    #[error("{0}")]
    Marks(#[from] FollowError),
    #[error("a dead letter cannot be sent: {0}")]
    Send(#[from] KafkaError),
}

/// Sends dead letters for one table.
#[derive(Debug)]
pub(super) struct DeadLetters {
    sender: Sender,
    topic: String,
    runtime: Handle,
    metrics: Arc<Metrics>,
}

impl DeadLetters {
    pub(super) fn new(config: &Config, metrics: &Arc<Metrics>, runtime: &Handle) -> Self {
        Self {
            sender: Sender::new(config.kafka.clone(), "attributes-dead-letters"),
            topic: config.topics.dead_letters.clone(),
            runtime: runtime.clone(),
            metrics: Arc::clone(metrics),
        }
    }

    /// Sends what no instance has sent before, in order. Blocks.
    pub(super) fn send(
        &self,
        reader: &TableReader,
        topic: &str,
        rows: &[MalformedRow],
    ) -> Result<(), DeadLetterError> {
        let mut marks = reader.marks(CALL_TIMEOUT)?;
        for row in rows {
            let mark = marks.entry(row.partition).or_default();
            if row.offset < *mark {
                continue;
            }
            self.send_one(topic, row)?;
            self.metrics.dead_letters.get_or_create(&CodeLabels { code: row.refusal.code.as_str() }).inc();
            *mark = row.offset + 1;
            reader.mark(row.partition, *mark)?;
        }
        Ok(())
    }

    /// Sends one dead letter, without its body if the broker refuses its size.
    fn send_one(&self, topic: &str, row: &MalformedRow) -> Result<(), KafkaError> {
        let send = |body_omitted: bool| {
            let message = row.refusal.text();
            let dead_letter = DeadLetter {
                code: row.refusal.code.as_str(),
                message: &message,
                topic,
                partition: row.partition,
                offset: row.offset,
                index: None,
                body_omitted,
            };
            let original = row.headers.iter().map(|(key, value)| (key.as_str(), value.clone()));
            let headers: Vec<_> = original.chain(dead_letter.headers()).collect();
            let body = row.body.as_deref().filter(|_| !body_omitted).unwrap_or_default();
            let key = row.key.as_deref().unwrap_or_default();
            self.runtime.block_on(self.sender.send_with(&self.topic, key, body, &headers))
        };
        match send(false) {
            Err(error) if error.rdkafka_error_code().is_some_and(is_refusal) => send(true),
            sent => sent,
        }
    }
}

/// The headers of a record that are text.
pub(super) fn text_headers(headers: Option<&impl Headers>) -> Vec<(String, String)> {
    let all = headers.into_iter().flat_map(Headers::iter);
    let text = all.filter_map(|header| {
        let value = std::str::from_utf8(header.value?).ok()?;
        Some((header.key.to_owned(), value.to_owned()))
    });
    text.collect()
}
