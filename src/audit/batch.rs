//! Batches of records that are written to the database in one transaction.

mod flags;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use rdkafka::message::{Headers, OwnedHeaders};
use uuid::Uuid;

use crate::experiment::conversion::Reported;
use crate::kafka::consumer::Record;
use crate::message::sequence::Sequence;
use crate::message::trace::TRACEPARENT;
use crate::traces::WrittenRecord;

use self::flags::Flags;
use super::chain::Digest;
use super::definition::FlagVersion;
use super::evaluation::Evaluation;
use super::position::{Position, Sources};
use super::switch::SwitchChange;
use super::usage::Used;

/// Upper bound of an uncompressed record in bytes. No event, definition or conversion of flagstream is larger, but a
/// small compressed record may be much larger than its topic's `max.message.bytes`.
pub const MAX_RECORD_BYTES: usize = 8 << 20;
/// Upper bound in bytes, applied separately to the key and to the headers that are kept of an oversized record.
const MAX_KEPT_BYTES: usize = 64 << 10;

/// One batch. The records' bytes are kept until the batch is written, so that a record that cannot be written becomes a
/// dead letter with its original content.
#[derive(Debug)]
pub struct Batch {
    /// Identifies the batch if its commit was not confirmed and it is written again.
    pub id: Uuid,
    pub moves: Vec<Move>,
    pub entries: Vec<Entry>,
    /// Concatenated rows in the database's encoding.
    pub encoded: Vec<u8>,
    pub flags: Flags,
    /// Partitions that were taken out of the batch, because a dead letter of theirs cannot be written.
    pub left_out: Vec<LeftOut>,
    /// Number of events that are duplicates and were skipped.
    pub repeated: u64,
    /// Time at which the first record was added.
    pub opened: Instant,
    bytes: Vec<u8>,
}

/// Change of a partition's position.
#[derive(Debug, Clone)]
pub struct Move {
    pub partition: i32,
    pub from: i64,
    pub to: i64,
    pub generation: i32,
    pub sources: Sources,
    /// Last sequence numbers of the streams that have changed.
    pub streams: Vec<Sequence>,
}

/// Partition that was taken out of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    pub partition: i32,
    /// Offset of the record whose dead letter cannot be written.
    pub offset: i64,
    pub why: String,
}

/// One record of a batch.
#[derive(Debug)]
pub struct Entry {
    pub partition: i32,
    pub offset: i64,
    pub content: Content,
    /// Reason why the record cannot be written; `None` if it is accepted.
    pub refusal: Option<Refusal>,
    /// Whether the record was too large to keep its value.
    pub body_omitted: bool,
    headers: Option<Box<OwnedHeaders>>,
    /// `None` if the record's key is null.
    key: Option<Range<usize>>,
    payload: Option<Range<usize>>,
}

/// Contents of a record, as the database stores them.
#[derive(Debug)]
pub enum Content {
    Evaluation {
        row: Range<usize>,
        flag: usize,
        environment: usize,
        counts: bool,
        evaluated_at: i64,
        outcome: Outcome,
        /// Digest of the row for its block of the hash chain; zeros if the database keeps no chain.
        digest: Digest,
    },
    Definition(Box<FlagVersion>),
    Switched(Box<SwitchChange>),
    Conversion(Box<Reported>),
    /// Evaluations that SDKs of Unleash have counted.
    SdkUsage(Vec<Used>),
    /// No row: the record is refused.
    Nothing,
}

/// Contribution of one evaluation to its flag's usage.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    pub(super) enabled: bool,
    pub(super) is_error: bool,
    /// Index of the variant's name in [`Batch::flags`].
    pub(super) variant: u32,
    /// Duration of the evaluation in nanoseconds, or [`UNTIMED`].
    pub(super) nanoseconds: i64,
}

pub(super) const UNTIMED: i64 = -1;

/// Reason why a record becomes a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: &'static str,
    pub message: String,
}

/// Sums that a batch adds to one flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    pub environment: Arc<str>,
    pub flag: Arc<str>,
    pub evaluations: i64,
    /// Time of the latest evaluation, in microseconds since 1970.
    pub last_evaluated_at: i64,
    pub first_evaluated_at: i64,
    /// Time of the latest evaluation that returned disabled, in microseconds since 1970. `None`: every evaluation
    /// returned enabled.
    pub last_off_at: Option<i64>,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            id: Uuid::now_v7(),
            moves: Vec::new(),
            entries: Vec::new(),
            encoded: Vec::new(),
            flags: Flags::default(),
            left_out: Vec::new(),
            repeated: 0,
            opened: Instant::now(),
            bytes: Vec::new(),
        }
    }
}

impl Batch {
    /// Whether the batch moves no position, so that there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.moves.is_empty()
    }

    /// Approximate memory use in bytes.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len() + self.encoded.len() + self.entries.len() * size_of::<Entry>()
    }

    /// Empties the batch for reuse and keeps its allocations.
    pub fn clear(&mut self) {
        self.id = Uuid::now_v7();
        self.moves.clear();
        self.entries.clear();
        self.encoded.clear();
        self.flags.clear();
        self.left_out.clear();
        self.repeated = 0;
        self.bytes.clear();
    }

    /// Records that a record was processed: `position` is the partition's new position. `from` is the position before
    /// the record; it counts only for the batch's first record of the partition.
    pub fn advance(&mut self, position: &Position, from: i64) {
        if self.moves.is_empty() {
            self.opened = Instant::now();
        }
        match self.moves.iter_mut().find(|moved| moved.partition == position.partition) {
            Some(moved) => moved.to = position.next_offset,
            None => self.moves.push(Move {
                partition: position.partition,
                from,
                to: position.next_offset,
                generation: position.generation,
                sources: Sources::default(),
                streams: Vec::new(),
            }),
        }
    }

    /// Adds the record as `content`, with a refusal if it becomes a dead letter.
    pub fn enter(&mut self, record: &Record<'_>, content: Content, refusal: Option<Refusal>) {
        let payload = (!record.is_null()).then(|| record.payload());
        self.enter_as(record, payload, content, refusal);
    }

    /// Adds `content` with this value instead of the record's.
    fn enter_as(
        &mut self,
        record: &Record<'_>,
        payload: Option<&[u8]>,
        content: Content,
        refusal: Option<Refusal>,
    ) {
        let key = record.key().map(|key| self.keep(key));
        let payload = payload.map(|payload| self.keep(payload));
        let headers = record.has_headers().then(|| Box::new(record.headers()));
        let (partition, offset) = (record.partition(), record.offset());
        let body_omitted = false;
        self.entries.push(Entry { partition, offset, content, refusal, body_omitted, headers, key, payload });
    }

    /// Adds a record of more than [`MAX_RECORD_BYTES`] as a dead letter without its value, which is never copied.
    pub fn refuse_too_large(&mut self, record: &Record<'_>) {
        let bytes = record.size_bytes();
        let message = format!("the record has {bytes} bytes uncompressed; the limit is {MAX_RECORD_BYTES}");
        let key = record.key().filter(|key| key.len() <= MAX_KEPT_BYTES).map(|key| self.keep(key));
        let headers = (record.has_headers() && record.headers_bytes() <= MAX_KEPT_BYTES)
            .then(|| Box::new(record.headers()));
        self.entries.push(Entry {
            partition: record.partition(),
            offset: record.offset(),
            content: Content::Nothing,
            refusal: Some(Refusal { code: "TOO_LARGE", message }),
            body_omitted: true,
            headers,
            key,
            payload: None,
        });
    }

    /// Adds an evaluation, whose row `encode` appends to [`Batch::encoded`]. `json` is its event, which is kept.
    pub fn evaluation(
        &mut self,
        record: &Record<'_>,
        json: &[u8],
        evaluation: &Evaluation<'_>,
        digest: Digest,
        encode: impl FnOnce(&Evaluation<'_>, &mut Vec<u8>),
    ) {
        let start = self.encoded.len();
        encode(evaluation, &mut self.encoded);
        let (environment, flag) = self.flags.index(&evaluation.environment, &evaluation.flag_name);
        let served = evaluation.error_code.as_deref() != Some("PROVIDER_NOT_READY");
        let environment = if served { environment } else { self.flags.environment(super::UNSERVED) };
        let content = Content::Evaluation {
            row: start..self.encoded.len(),
            flag,
            environment,
            counts: evaluation.counts(),
            evaluated_at: evaluation.evaluated_at,
            outcome: Outcome {
                enabled: evaluation.enabled,
                is_error: evaluation.error_code.is_some(),
                variant: self.flags.variant(evaluation.variant.as_deref().unwrap_or_default()),
                nanoseconds: evaluation.evaluation_ns.unwrap_or(UNTIMED),
            },
            digest,
        };
        self.enter_as(record, Some(json), content, None);
    }

    /// Adds a refused record that was not read from Kafka.
    #[cfg(test)]
    pub(super) fn refuse_made_up(&mut self, offset: i64, key: &[u8], value: &[u8], headers: OwnedHeaders) {
        let (key, payload) = (Some(self.keep(key)), Some(self.keep(value)));
        self.entries.push(Entry {
            partition: 0,
            offset,
            content: Content::Nothing,
            refusal: Some(Refusal { code: "INVALID_EVENT", message: "made up".to_owned() }),
            body_omitted: false,
            headers: Some(Box::new(headers)),
            key,
            payload,
        });
    }

    fn keep(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    /// Takes a partition out of the batch. Its position does not move, so all its records are read again.
    pub fn leave_out(&mut self, left_out: LeftOut) {
        self.entries.retain(|entry| entry.partition != left_out.partition);
        self.moves.retain(|moved| moved.partition != left_out.partition);
        self.left_out.push(left_out);
    }

    /// Marks the entries at these indexes as refused.
    pub fn refuse(&mut self, refused: Vec<(usize, Refusal)>) {
        for (index, refusal) in refused {
            if let Some(entry) = self.entries.get_mut(index) {
                entry.refusal = Some(refusal);
            }
        }
    }

    /// Partitions with evaluations, including refused ones. Each of them adds a block to its hash chain.
    pub fn partitions_with_rows(&self) -> BTreeSet<i32> {
        let evaluations =
            self.entries.iter().filter(|entry| matches!(entry.content, Content::Evaluation { .. }));
        evaluations.map(|entry| entry.partition).collect()
    }

    /// Entries that are not refused.
    pub fn accepted(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.refusal.is_none())
    }

    /// Sums per flag of the accepted evaluations among `entries`, ordered by environment and name. Every sink locks the
    /// flags in this order, which prevents deadlocks.
    pub fn counts(&self, entries: &[Entry]) -> Vec<Count> {
        let mut counts: Vec<Option<Count>> = vec![None; self.flags.len()];
        for entry in entries.iter().filter(|entry| entry.refusal.is_none()) {
            if let Content::Evaluation { flag, counts: true, evaluated_at, outcome, .. } = entry.content
                && let Some(count) = counts.get_mut(flag)
            {
                let count = count.get_or_insert_with(|| self.flags.count(flag, evaluated_at));
                count.evaluations += 1;
                count.last_evaluated_at = count.last_evaluated_at.max(evaluated_at);
                count.first_evaluated_at = count.first_evaluated_at.min(evaluated_at);
                if !outcome.enabled {
                    count.last_off_at = count.last_off_at.max(Some(evaluated_at));
                }
            }
        }
        let mut counts: Vec<Count> = counts.into_iter().flatten().collect();
        counts.sort_by(|a, b| (&a.environment, &a.flag).cmp(&(&b.environment, &b.flag)));
        counts
    }

    /// Accepted entries that belong to a trace.
    pub fn traced(&self) -> impl Iterator<Item = WrittenRecord<'_>> {
        self.accepted().filter_map(|entry| {
            let mut headers = entry.headers.as_deref()?.iter();
            let traceparent = headers.find(|header| header.key == TRACEPARENT)?.value?;
            Some(WrittenRecord { partition: entry.partition, offset: entry.offset, traceparent })
        })
    }

    /// Number of accepted rows by environment label.
    pub fn rows_by_environment(&self) -> Vec<(Arc<str>, u64)> {
        let mut rows = vec![0; self.flags.environments().len()];
        for entry in self.accepted() {
            if let Content::Evaluation { environment, .. } = entry.content
                && let Some(rows) = rows.get_mut(environment)
            {
                *rows += 1;
            }
        }
        self.flags.environments().iter().cloned().zip(rows).filter(|(_, rows)| *rows > 0).collect()
    }

    pub fn payload(&self, entry: &Entry) -> Option<&[u8]> {
        self.bytes.get(entry.payload.clone()?)
    }

    pub fn key(&self, entry: &Entry) -> Option<&[u8]> {
        self.bytes.get(entry.key.clone()?)
    }

    pub fn headers(&self, entry: &Entry) -> OwnedHeaders {
        entry.headers.as_deref().cloned().unwrap_or_default()
    }
}
