//! Records that cannot become rows, on their way to the dead letters: each once, as far as their readers are
//! `read_committed`.
//!
//! ```text
//!  database:  … rows, positions locked and moved │                        │ COMMIT
//!  Kafka:                                        │ letters + how far, one │
//!                                                │ transaction            │
//! ```
//!
//! Whoever dies between the two commits leaves letters whose records are read again. So the letters' transaction also
//! says how far they are, as the committed offset of a group that nobody joins; a later sink sends only what comes
//! after. Nobody else can be at it: the positions are locked in the database, and the transactional id is the
//! partition's, so that a former owner is fenced.

mod desk;

use std::collections::BTreeMap;
use std::sync::Arc;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::config::Config;
use crate::kafka::producer::is_refusal;

use super::batch::{Batch, Entry, Refusal};
use super::position::Log;

use self::desk::{CALL_TIMEOUT, Desk, life};

/// Letters in one transaction.
const TRANSACTION_LETTERS_MAX: usize = 500;

/// Sends dead letters; a partition's producer is made with the first of them.
#[derive(Debug)]
pub struct Letters {
    config: Arc<Config>,
    desks: BTreeMap<i32, Desk>,
}

/// How much of its record a dead letter repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    Whole,
    /// Key and headers.
    WithoutBody,
    /// Neither key nor headers: the reason, topic, partition and offset.
    CoordinatesOnly,
}

/// One of them: a record, and why it is none of the rows.
type Letter<'b> = (&'b Entry, &'b Refusal);

/// Why dead letters are not sent. The batch waits.
#[derive(Debug, thiserror::Error)]
pub enum LetterError {
    #[error("dead letters: {0}")]
    Kafka(#[from] KafkaError),
    #[error("dead letters are not acknowledged within {} s", CALL_TIMEOUT.as_secs())]
    Unacknowledged,
    #[error("dead letters: {0}")]
    Undelivered(RDKafkaErrorCode),
    #[error("dead letters: how far they are is not known")]
    Lost,
}

impl LetterError {
    /// Whether this client or a broker refused a record itself, so that sending it again would end the same way.
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

impl Letters {
    pub fn new(config: Arc<Config>) -> Self {
        Self { config, desks: BTreeMap::new() }
    }

    /// Sends the refused entries of a batch that were not sent yet, and returns once they are committed. Blocks. The
    /// positions of its partitions must be held in the database.
    pub fn send(&mut self, log: &Log, batch: &Batch) -> Result<(), LetterError> {
        let mut letters: BTreeMap<i32, Vec<Letter<'_>>> = BTreeMap::new();
        for entry in &batch.entries {
            if let Some(refusal) = &entry.refusal {
                letters.entry(entry.partition).or_default().push((entry, refusal));
            }
        }
        for (partition, letters) in letters {
            for letters in letters.chunks(TRANSACTION_LETTERS_MAX) {
                self.send_some(log, batch, partition, letters)?;
            }
        }
        Ok(())
    }

    fn send_some(
        &mut self,
        log: &Log,
        batch: &Batch,
        partition: i32,
        letters: &[Letter<'_>],
    ) -> Result<(), LetterError> {
        match self.commit(log, batch, partition, letters, Extent::Whole) {
            Err(error) if error.is_refusal() => {}
            sent => return sent,
        }
        // The broker refuses many records for the sake of one; which one shows when each is alone.
        let mut refused_bytes = usize::MAX;
        for letter in letters {
            self.send_alone(log, batch, partition, letter, &mut refused_bytes)?;
        }
        Ok(())
    }

    /// Sends one dead letter with as much of its record as is accepted. Bodies of `refused_bytes` or more are known to be
    /// refused.
    fn send_alone(
        &mut self,
        log: &Log,
        batch: &Batch,
        partition: i32,
        letter: &Letter<'_>,
        refused_bytes: &mut usize,
    ) -> Result<(), LetterError> {
        let bytes = batch.payload(letter.0).map_or(0, <[u8]>::len);
        let letters = std::slice::from_ref(letter);
        if bytes < *refused_bytes {
            match self.commit(log, batch, partition, letters, Extent::Whole) {
                Err(error) if error.is_refusal() => {}
                sent => return sent,
            }
        }
        match self.commit(log, batch, partition, letters, Extent::WithoutBody) {
            Err(error) if error.is_refusal() => {}
            sent => {
                if sent.is_ok() && bytes > 0 {
                    // The body was the reason.
                    *refused_bytes = bytes.min(*refused_bytes);
                }
                return sent;
            }
        }
        self.commit(log, batch, partition, letters, Extent::CoordinatesOnly)
    }

    /// After an error the partition's producer is made anew: that fences what is left of its transaction.
    fn commit(
        &mut self,
        log: &Log,
        batch: &Batch,
        partition: i32,
        letters: &[Letter<'_>],
        extent: Extent,
    ) -> Result<(), LetterError> {
        let life = life(log, batch, partition);
        let desk = match self.desks.remove(&partition) {
            Some(desk) if desk.life == life => desk,
            _ => Desk::open(&self.config, log, partition, life)?,
        };
        let desk = self.desks.entry(partition).insert_entry(desk).into_mut();
        let sent = desk.commit(log, batch, letters, extent);
        if sent.is_err() {
            self.desks.remove(&partition);
        }
        sent
    }
}

#[cfg(test)]
#[path = "letters_tests.rs"]
mod tests;
