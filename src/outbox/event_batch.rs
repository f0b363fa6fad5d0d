//! Events of one call in one buffer, with the same layout in memory and on disk.

use std::sync::Arc;

use crate::message::sequence::Sequence;
use crate::message::trace::Traceparent;

/// Value of the key length that means "no key".
const NO_KEY: u32 = u32::MAX;
/// Size of a length in the encoding of a batch, in bytes.
const LENGTH_BYTES: usize = 4;
/// Bit of the record count that is set if a sequence follows.
const HAS_PLACE: u32 = 1 << 31;
/// Bit of the name length that is set if a traceparent follows the environment's name.
const TRACED: u16 = 1 << 15;
/// Bit of the name length that is set if the records are for the topic of SDK metrics.
const OF_CLIENT_METRICS: u16 = 1 << 14;
/// Bit of the name length that is set if the number of evaluations precedes the key of each record.
const COUNTED: u16 = 1 << 13;
/// All bits of the name length that are not part of the length.
const FLAGS: u16 = TRACED | OF_CLIENT_METRICS | COUNTED;
/// Length of a `traceparent`, in bytes.
const TRACE_BYTES: usize = 55;

/// Topic of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchTopic {
    Events,
    ClientMetrics,
}

/// Events of one call, in order; none of them is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventBatch {
    /// Environment under which the events are counted.
    pub environment: Arc<str>,
    pub topic: BatchTopic,
    /// Sequence of the first record, assigned by the queue.
    pub(super) place: Option<Sequence>,
    /// Trace that the call belongs to. Its traceparent becomes a header of each record.
    pub trace: Option<Traceparent>,
    records: u32,
    /// Number of evaluations in all records.
    evaluations: u32,
    /// Whether records may have several evaluations.
    is_counted: bool,
    bytes: Vec<u8>,
}

/// A record of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BatchRecord<'b> {
    key: Option<&'b [u8]>,
    value: &'b [u8],
    evaluations: u32,
}

impl EventBatch {
    pub fn new(environment: Arc<str>) -> Self {
        Self::with_capacity(environment, 0)
    }

    /// Creates a batch with a buffer of this capacity.
    pub fn with_capacity(environment: Arc<str>, bytes: usize) -> Self {
        let (topic, bytes) = (BatchTopic::Events, Vec::with_capacity(bytes));
        let (place, trace, records, evaluations, is_counted) = (None, None, 0, 0, false);
        Self { environment, topic, place, trace, records, evaluations, is_counted, bytes }
    }

    /// Allows records with several evaluations. Without effect on a batch that has records.
    pub fn count_evaluations(&mut self) {
        self.is_counted |= self.records == 0;
    }

    /// Creates a batch of SDK metrics.
    pub fn of_client_metrics(environment: Arc<str>) -> Self {
        Self { topic: BatchTopic::ClientMetrics, ..Self::new(environment) }
    }

    /// Sets the trace.
    #[must_use]
    pub fn traced(self, trace: Option<Traceparent>) -> Self {
        Self { trace, ..self }
    }

    /// Reserves capacity for more records.
    pub fn reserve(&mut self, bytes: usize) {
        self.bytes.reserve(bytes);
    }

    /// Adds a record whose value `write` appends to the buffer it is given.
    pub fn record(&mut self, key: Option<&[u8]>, write: impl FnOnce(&mut Vec<u8>)) {
        self.record_of(1, key, write);
    }

    /// Adds a record with this number of evaluations, like [`EventBatch::record`].
    pub fn record_of(&mut self, evaluations: u32, key: Option<&[u8]>, write: impl FnOnce(&mut Vec<u8>)) {
        let length = key.map_or(NO_KEY, |key| u32::try_from(key.len()).unwrap_or(NO_KEY));
        self.bytes.extend_from_slice(&length.to_le_bytes());
        let value_length = self.bytes.len();
        self.bytes.extend_from_slice(&[0; LENGTH_BYTES]);
        if self.is_counted {
            self.bytes.extend_from_slice(&evaluations.to_le_bytes());
        }
        self.bytes.extend_from_slice(key.unwrap_or_default());
        let start = self.bytes.len();
        write(&mut self.bytes);
        // A call's events are limited to far less than 4 GiB.
        let length = u32::try_from(self.bytes.len() - start).unwrap_or_default();
        if let Some(place) = self.bytes.get_mut(value_length..value_length + LENGTH_BYTES) {
            place.copy_from_slice(&length.to_le_bytes());
        }
        self.records += 1;
        self.evaluations += if self.is_counted { evaluations } else { 1 };
    }

    /// Number of evaluations in all records.
    pub fn evaluations(&self) -> u32 {
        self.evaluations
    }

    /// Number of evaluations in the record with this index.
    pub fn evaluations_of(&self, record: u32) -> u32 {
        self.counted_records().nth(record as usize).map_or(0, |record| record.evaluations)
    }

    /// Number of records.
    pub fn len(&self) -> u32 {
        self.records
    }

    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Memory use in bytes.
    pub fn size(&self) -> usize {
        self.bytes.len() + self.environment.len()
    }

    /// Sequence of the record with this index.
    pub(super) fn sequence(&self, record: u32) -> Option<Sequence> {
        self.place.map(|place| Sequence { number: place.number + u64::from(record), ..place })
    }

    /// Key and value of each record.
    pub fn records(&self) -> impl Iterator<Item = (Option<&[u8]>, &[u8])> {
        self.counted_records().map(|record| (record.key, record.value))
    }

    fn counted_records(&self) -> impl Iterator<Item = BatchRecord<'_>> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || take_record(&mut rest, self.is_counted))
    }

    /// Appends the batch in the layout that [`EventBatch::from_bytes`] reads.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let name = u16::try_from(self.environment.len()).unwrap_or_default() & !FLAGS;
        let traced = if self.trace.is_some() { TRACED } else { 0 };
        let topic = if self.topic == BatchTopic::ClientMetrics { OF_CLIENT_METRICS } else { 0 };
        let counted = if self.is_counted { COUNTED } else { 0 };
        let placed = if self.place.is_some() { HAS_PLACE } else { 0 };
        out.extend_from_slice(&(self.records | placed).to_le_bytes());
        for number in self.place.iter().flat_map(|place| [place.stream, place.number]) {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&(name | traced | topic | counted).to_le_bytes());
        out.extend_from_slice(self.environment.as_bytes().get(..usize::from(name)).unwrap_or_default());
        out.extend_from_slice(self.trace.as_ref().map(Traceparent::as_bytes).unwrap_or_default());
        out.extend_from_slice(&self.bytes);
    }

    /// Decodes what [`EventBatch::write`] wrote. `None` if the bytes are invalid.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (records, mut rest) = bytes.split_first_chunk::<4>()?;
        let records = u32::from_le_bytes(*records);
        let mut place = None;
        if records & HAS_PLACE != 0 {
            let (stream, after) = rest.split_first_chunk::<8>()?;
            let (number, after) = after.split_first_chunk::<8>()?;
            let (stream, number) = (u64::from_le_bytes(*stream), u64::from_le_bytes(*number));
            place = Some(Sequence { stream, number });
            rest = after;
        }
        let records = records & !HAS_PLACE;
        let (name, rest) = rest.split_first_chunk::<2>()?;
        let name = u16::from_le_bytes(*name);
        let (environment, rest) = rest.split_at_checked(usize::from(name & !FLAGS))?;
        let traced = if name & TRACED == 0 { 0 } else { TRACE_BYTES };
        let (trace, bytes) = rest.split_at_checked(traced)?;
        let topic =
            if name & OF_CLIENT_METRICS == 0 { BatchTopic::Events } else { BatchTopic::ClientMetrics };
        let environment = std::str::from_utf8(environment).ok()?.into();
        let trace = Traceparent::parse(trace);
        let (is_counted, bytes) = (name & COUNTED != 0, bytes.to_vec());
        let mut batch = Self { environment, topic, place, trace, records, evaluations: 0, is_counted, bytes };
        let (found, evaluations) = batch
            .counted_records()
            .fold((0, 0u32), |(found, sum), record| (found + 1, sum.saturating_add(record.evaluations)));
        batch.evaluations = evaluations;
        (found == records).then_some(batch)
    }
}

fn take_record<'p>(rest: &mut &'p [u8], is_counted: bool) -> Option<BatchRecord<'p>> {
    let (key_length, after) = rest.split_first_chunk::<LENGTH_BYTES>()?;
    let (value_length, mut after) = after.split_first_chunk::<LENGTH_BYTES>()?;
    let mut evaluations = 1;
    if is_counted {
        let (count, behind) = after.split_first_chunk::<LENGTH_BYTES>()?;
        (evaluations, after) = (u32::from_le_bytes(*count), behind);
    }
    let key_length = u32::from_le_bytes(*key_length);
    let (key, after) = match key_length {
        NO_KEY => (None, after),
        length => {
            let (key, after) = after.split_at_checked(length as usize)?;
            (Some(key), after)
        }
    };
    let (value, after) = after.split_at_checked(u32::from_le_bytes(*value_length) as usize)?;
    *rest = after;
    Some(BatchRecord { key, value, evaluations })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parcel_holds_its_records_and_survives_its_bytes() {
        let mut batch = EventBatch::new("production".into());
        batch.record(Some(b"user-1"), |out| out.extend_from_slice(b"one"));
        batch.record(None, |out| out.extend_from_slice(b"two"));
        batch.record(Some(b""), |out| out.extend_from_slice(b"three"));
        let records: Vec<_> = batch.records().collect();
        let expected: [(Option<&[u8]>, &[u8]); 3] =
            [(Some(b"user-1"), b"one"), (None, b"two"), (Some(b""), b"three")];
        assert_eq!(records, expected);
        let header = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let traced = batch.clone().traced(Traceparent::parse(header));
        assert!(traced.trace.is_some());
        let place = Some(Sequence { stream: 7, number: u64::MAX });
        let placed = EventBatch { place, ..batch.clone() };
        let both = EventBatch { place, ..traced.clone() };
        let metrics = EventBatch { topic: BatchTopic::ClientMetrics, ..both.clone() };
        assert_eq!((batch.len(), batch.evaluations(), batch.evaluations_of(2)), (3, 3, 1));
        let mut bulk = EventBatch { trace: traced.trace, ..EventBatch::new("production".into()) };
        bulk.count_evaluations();
        bulk.record_of(350, Some(b"user-1"), |out| out.extend_from_slice(b"many"));
        bulk.record_of(2, None, |out| out.extend_from_slice(b"two"));
        assert_eq!((bulk.len(), bulk.evaluations(), bulk.evaluations_of(1)), (2, 352, 2));
        for batch in [batch, traced, placed, both, metrics, bulk] {
            let mut bytes = Vec::new();
            batch.write(&mut bytes);
            assert_eq!(EventBatch::from_bytes(&bytes), Some(batch));
            for end in 0..bytes.len() {
                assert_eq!(
                    EventBatch::from_bytes(bytes.get(..end).unwrap_or_default()),
                    None,
                    "cut at {end}"
                );
            }
        }
    }
}
