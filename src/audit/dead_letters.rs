//! Sends records that cannot become rows to the dead-letter topic. A `read_committed` consumer sees each of them once.
//!
//! ```text
//!  database:  … rows, positions locked and moved │                           │ COMMIT
//!  Kafka:                                        │ dead letters and offset,  │
//!                                                │ one transaction           │
//! ```
//!
//! If a process dies between the two commits, its dead letters are in Kafka and the same records are read again. So the
//! Kafka transaction also commits how far the dead letters are sent, as the offset of a consumer group without members;
//! the next sink sends only later ones. Concurrent senders are excluded: the positions are locked in the database, and
//! the transactional id contains the partition, so that a previous owner is fenced.

mod producer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::config::Config;
use crate::kafka::producer::is_refusal;

use super::batch::{Batch, Entry, Refusal};
use super::position::Log;

use self::producer::{CALL_TIMEOUT, DeadLetterProducer, life};

/// Upper bound of dead letters in one Kafka transaction.
const TRANSACTION_LETTERS_MAX: usize = 500;

/// Sends dead letters. A partition's producer is created with its first dead letter.
#[derive(Debug)]
pub struct DeadLetters {
    config: Arc<Config>,
    producers: BTreeMap<i32, DeadLetterProducer>,
}

/// Parts of its record that a dead letter contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    Whole,
    /// Key and headers, without the value.
    WithoutBody,
    /// Only the reason, topic, partition and offset.
    CoordinatesOnly,
}

/// Refused record, with the reason.
type PendingDeadLetter<'b> = (&'b Entry, &'b Refusal);

/// Dead letter that could not be sent. Those of its partition before it are sent.
#[derive(Debug, thiserror::Error)]
#[error("the dead letter of partition {partition} offset {offset}: {error}")]
pub struct UnsentDeadLetter {
    pub partition: i32,
    pub offset: i64,
    pub error: DeadLetterError,
}

/// Reason why dead letters were not sent.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    #[error("cannot write to the dead-letter topic: {0}")]
    Kafka(#[from] KafkaError),
    #[error("Kafka did not acknowledge the dead letters within {} s", CALL_TIMEOUT.as_secs())]
    Unacknowledged,
    #[error("cannot write to the dead-letter topic: {0}")]
    Undelivered(RDKafkaErrorCode),
    #[error("the committed offset of the dead letters is not available")]
    Lost,
}

impl DeadLetterError {
    /// Whether the client or the broker rejected a record, so that a retry would fail the same way.
    fn is_refusal(&self) -> bool {
        match self {
            Self::Undelivered(code) => is_refusal(*code),
            Self::Kafka(KafkaError::MessageProduction(code)) => {
                is_refusal(*code) || *code == RDKafkaErrorCode::InvalidArgument
            }
            _ => false,
        }
    }
}

impl DeadLetters {
    pub fn new(config: Arc<Config>) -> Self {
        Self { config, producers: BTreeMap::new() }
    }

    /// Sends the refused entries of a batch that were not sent before, and returns once they are committed. Blocks. The
    /// caller must hold the database locks on the positions of the batch's partitions.
    ///
    /// Returns the first unsent dead letter of each partition that has one. After `CALL_TIMEOUT` no further partition
    /// is tried, because the locks are held meanwhile.
    pub fn send(&mut self, log: &Log, batch: &Batch) -> Result<(), Vec<UnsentDeadLetter>> {
        let mut pending_dead_letters: BTreeMap<i32, Vec<PendingDeadLetter<'_>>> = BTreeMap::new();
        for entry in &batch.entries {
            if let Some(refusal) = &entry.refusal {
                pending_dead_letters.entry(entry.partition).or_default().push((entry, refusal));
            }
        }
        let (started, mut unsent) = (Instant::now(), Vec::new());
        for (partition, pending_dead_letters) in pending_dead_letters {
            if !unsent.is_empty() && started.elapsed() >= CALL_TIMEOUT {
                break;
            }
            for pending_dead_letters in transactions(&pending_dead_letters) {
                if let Err(failed) = self.send_some(log, batch, partition, pending_dead_letters) {
                    unsent.push(failed);
                    break;
                }
            }
        }
        if unsent.is_empty() { Ok(()) } else { Err(unsent) }
    }

    fn send_some(
        &mut self,
        log: &Log,
        batch: &Batch,
        partition: i32,
        pending_dead_letters: &[PendingDeadLetter<'_>],
    ) -> Result<(), UnsentDeadLetter> {
        let unsent = |dead_letter: &PendingDeadLetter<'_>, error| UnsentDeadLetter {
            partition,
            offset: dead_letter.0.offset,
            error,
        };
        match (self.commit(log, batch, partition, pending_dead_letters, Extent::Whole), pending_dead_letters)
        {
            (Err(error), _) if error.is_refusal() => {}
            (Err(error), [first, ..]) => return Err(unsent(first, error)),
            _ => return Ok(()),
        }
        // The broker rejects a whole produce request because of one record. Sending each record alone shows which one
        // it is.
        let mut refused_bytes = usize::MAX;
        for of_record in pending_dead_letters.chunk_by(is_of_same_record) {
            let sent = self.send_alone(log, batch, partition, of_record, &mut refused_bytes);
            if let (Err(error), [first, ..]) = (sent, of_record) {
                return Err(unsent(first, error));
            }
        }
        Ok(())
    }

    /// Sends the dead letters of one record with as much of it as the broker accepts. Bodies of `refused_bytes` or more
    /// are known to be rejected.
    fn send_alone(
        &mut self,
        log: &Log,
        batch: &Batch,
        partition: i32,
        pending_dead_letters: &[PendingDeadLetter<'_>],
        refused_bytes: &mut usize,
    ) -> Result<(), DeadLetterError> {
        let bodies =
            pending_dead_letters.iter().map(|(entry, _)| batch.payload(entry).map_or(0, <[u8]>::len));
        let bytes = bodies.max().unwrap_or_default();
        if bytes < *refused_bytes {
            match self.commit(log, batch, partition, pending_dead_letters, Extent::Whole) {
                Err(error) if error.is_refusal() => {}
                sent => return sent,
            }
        }
        match self.commit(log, batch, partition, pending_dead_letters, Extent::WithoutBody) {
            Err(error) if error.is_refusal() => {}
            sent => {
                if sent.is_ok() && bytes > 0 {
                    // The dead letter was accepted without its body, so the body was the reason.
                    *refused_bytes = bytes.min(*refused_bytes);
                }
                return sent;
            }
        }
        self.commit(log, batch, partition, pending_dead_letters, Extent::CoordinatesOnly)
    }

    /// Commits dead letters in one transaction. After an error the partition's producer is dropped: its replacement
    /// fences whatever is left of the transaction.
    fn commit(
        &mut self,
        log: &Log,
        batch: &Batch,
        partition: i32,
        pending_dead_letters: &[PendingDeadLetter<'_>],
        extent: Extent,
    ) -> Result<(), DeadLetterError> {
        let life = life(log, batch, partition);
        let dead_letter_producer = match self.producers.remove(&partition) {
            Some(dead_letter_producer) if dead_letter_producer.life == life => dead_letter_producer,
            _ => DeadLetterProducer::open(&self.config, log, partition, life)?,
        };
        let dead_letter_producer =
            self.producers.entry(partition).insert_entry(dead_letter_producer).into_mut();
        let sent = dead_letter_producer.commit(log, batch, pending_dead_letters, extent);
        if sent.is_err() {
            self.producers.remove(&partition);
        }
        sent
    }
}

/// Divides the dead letters of a partition into transactions. Those of one record stay together, because a transaction
/// commits the offset behind its last record.
fn transactions<'p, 'b>(
    mut pending_dead_letters: &'p [PendingDeadLetter<'b>],
) -> impl Iterator<Item = &'p [PendingDeadLetter<'b>]> {
    std::iter::from_fn(move || {
        let mut end = 0;
        for of_record in pending_dead_letters.chunk_by(is_of_same_record) {
            if end > 0 && end + of_record.len() > TRANSACTION_LETTERS_MAX {
                break;
            }
            end += of_record.len();
        }
        let (some, rest) = pending_dead_letters.split_at_checked(end).filter(|(some, _)| !some.is_empty())?;
        pending_dead_letters = rest;
        Some(some)
    })
}

fn is_of_same_record((one, _): &PendingDeadLetter<'_>, (other, _): &PendingDeadLetter<'_>) -> bool {
    one.offset == other.offset
}

#[cfg(test)]
#[path = "dead_letters_tests.rs"]
mod tests;
