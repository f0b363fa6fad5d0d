//! Sends dead letters to their original topics again.

use std::time::Duration;

use rdkafka::error::KafkaError;
use rdkafka::message::Header;
use rdkafka::producer::{FutureProducer, FutureRecord};

use crate::config::Config;
use crate::kafka::client::{self, Logged};
use crate::kafka::dead_letter::DeadLetterRecord;
use crate::message::request::Request;
use crate::schema_registry::Undecodable;

use super::body::Writers;
use super::of_taps::OfTaps;

/// Timeout for the broker to acknowledge a record.
const SEND_TIMEOUT: Duration = Duration::from_secs(20);
/// Header of a replayed record: topic, partition and offset of its dead letter.
const REPLAYED: &str = "replayed-from";

/// The outcome for one dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    Sent {
        partition: i32,
        offset: i64,
    },
    /// Dry run: the record would be sent.
    Ready,
    /// The record is not sent. Contains the reason.
    Kept {
        reason: &'static str,
        message: String,
    },
}

/// Reason why a record could not be sent.
#[derive(Debug, thiserror::Error)]
#[error("topic {topic} at {servers}: {error}")]
pub struct ReplayError {
    topic: String,
    servers: String,
    error: KafkaError,
}

/// Permissions of a replay beyond sending whole requests that were rejected, and conversions.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allowed {
    /// A request is sent although only one of its flags was rejected.
    pub whole: bool,
    /// A record that a tap rejected is sent to the tap's source, which all consumers of that topic read again.
    pub into_source: bool,
}

/// Sends dead letters.
pub struct Replayer<'c> {
    config: &'c Config,
    producer: FutureProducer<Logged>,
    writers: Writers,
    taps: OfTaps,
}

impl<'c> Replayer<'c> {
    /// Creates a producer. `writers` encode edited bodies. Must be called within a Tokio runtime.
    pub fn new(config: &'c Config, writers: Writers) -> anyhow::Result<Self> {
        let producer = client::base(&config.kafka, "dead-letters")
            .set("enable.idempotence", "true")
            .set("linger.ms", "0")
            .set("message.timeout.ms", SEND_TIMEOUT.as_millis().to_string())
            .create_with_context(Logged)?;
        Ok(Self { config, producer, writers, taps: OfTaps::open(config)? })
    }

    /// Reason why a dead letter cannot be sent, whatever its body. `None` if it can. `is_edited`: it gets another body.
    pub fn check(&self, dead_letter: &DeadLetterRecord, allowed: Allowed, is_edited: bool) -> Option<Fate> {
        let kept = |reason, message: &str| Some(Fate::Kept { reason, message: message.to_owned() });
        let (topics, source) = (&self.config.topics, &dead_letter.source_topic);
        let is_own = *source == topics.requests || *source == topics.conversions;
        if !is_own
            && let Some((reason, message)) = self.taps.problem(dead_letter, allowed.into_source, is_edited)
        {
            return kept(reason, &message);
        }
        if dead_letter.index.is_some() && !allowed.whole {
            let why = "only one flag of this request was rejected: replay the whole request (--whole), which \
                evaluates its other flags again";
            return kept("part_of_a_request", why);
        }
        if dead_letter.body_omitted && !is_edited {
            return kept("body_omitted", "the dead letter contains no body, because it was too large");
        }
        None
    }

    /// Sends a dead letter that [`Replayer::check`] accepts. `json` is its body as JSON, or the reason why it cannot be
    /// read; `edited` replaces it.
    pub async fn take(
        &self,
        dead_letter: &DeadLetterRecord,
        json: Result<Vec<u8>, Undecodable>,
        edited: Option<Vec<u8>>,
        dry_run: bool,
    ) -> Result<Fate, ReplayError> {
        let still_refused = |message: String| Fate::Kept { reason: "still_refused", message };
        let (json, is_edited) = match (edited, json) {
            (Some(edited), _) => (edited, true),
            (None, Ok(json)) => (json, false),
            (None, Err(unread)) => return Ok(still_refused(unread.to_string())),
        };
        if dead_letter.source_topic == self.config.topics.requests
            && let Err(refusal) = Request::decode(&json)
        {
            return Ok(still_refused(refusal.to_string()));
        }
        let body = match is_edited {
            false => dead_letter.body.clone(),
            true => match self.writers.write(&dead_letter.source_topic, json) {
                Ok(body) => Some(body),
                Err(broken) => return Ok(still_refused(broken.to_string())),
            },
        };
        if let Some(refusal) = self.taps.refusal(dead_letter, body.clone()).await {
            return Ok(still_refused(refusal.text()));
        }
        if dry_run { Ok(Fate::Ready) } else { self.send(dead_letter, body.as_deref()).await }
    }

    /// Sends the record to its original partition, where all records with its key are. A record without a body has none
    /// again: it deletes its key in a compacted topic.
    async fn send(&self, dead_letter: &DeadLetterRecord, body: Option<&[u8]>) -> Result<Fate, ReplayError> {
        let from =
            format!("{} {}/{}", self.config.topics.dead_letters, dead_letter.partition, dead_letter.offset);
        let headers = dead_letter.headers.clone().insert(Header { key: REPLAYED, value: Some(&from) });
        let mut record: FutureRecord<'_, [u8], [u8]> =
            FutureRecord::to(&dead_letter.source_topic).partition(dead_letter.source_partition);
        record = record.headers(headers);
        (record.key, record.payload) = (dead_letter.key.as_deref(), body);
        let sent = self.producer.send(record, SEND_TIMEOUT).await;
        let delivery = sent.map_err(|(error, _)| ReplayError {
            topic: dead_letter.source_topic.clone(),
            servers: self.config.kafka.bootstrap_servers.clone(),
            error,
        })?;
        Ok(Fate::Sent { partition: delivery.partition, offset: delivery.offset })
    }
}

impl std::fmt::Debug for Replayer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replayer").finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
