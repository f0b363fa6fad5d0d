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
/// All bits of the name length that are not part of the length.
const FLAGS: u16 = TRACED | OF_CLIENT_METRICS;
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
    bytes: Vec<u8>,
}

impl EventBatch {
    pub fn new(environment: Arc<str>) -> Self {
        Self::with_capacity(environment, 0)
    }

    /// Creates a batch with a buffer of this capacity.
    pub fn with_capacity(environment: Arc<str>, bytes: usize) -> Self {
        let (topic, bytes) = (BatchTopic::Events, Vec::with_capacity(bytes));
        Self { environment, topic, place: None, trace: None, records: 0, bytes }
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
        let length = key.map_or(NO_KEY, |key| u32::try_from(key.len()).unwrap_or(NO_KEY));
        self.bytes.extend_from_slice(&length.to_le_bytes());
        let value_length = self.bytes.len();
        self.bytes.extend_from_slice(&[0; LENGTH_BYTES]);
        self.bytes.extend_from_slice(key.unwrap_or_default());
        let start = self.bytes.len();
        write(&mut self.bytes);
        // A call's events are limited to far less than 4 GiB.
        let length = u32::try_from(self.bytes.len() - start).unwrap_or_default();
        if let Some(place) = self.bytes.get_mut(value_length..value_length + LENGTH_BYTES) {
            place.copy_from_slice(&length.to_le_bytes());
        }
        self.records += 1;
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
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || take_record(&mut rest))
    }

    /// Appends the batch in the layout that [`EventBatch::from_bytes`] reads.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let name = u16::try_from(self.environment.len()).unwrap_or_default() & !FLAGS;
        let traced = if self.trace.is_some() { TRACED } else { 0 };
        let topic = if self.topic == BatchTopic::ClientMetrics { OF_CLIENT_METRICS } else { 0 };
        let placed = if self.place.is_some() { HAS_PLACE } else { 0 };
        out.extend_from_slice(&(self.records | placed).to_le_bytes());
        for number in self.place.iter().flat_map(|place| [place.stream, place.number]) {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&(name | traced | topic).to_le_bytes());
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
        let batch = Self { environment, topic, place, trace, records, bytes: bytes.to_vec() };
        (batch.records().count() == usize::try_from(records).ok()?).then_some(batch)
    }
}

fn take_record<'p>(rest: &mut &'p [u8]) -> Option<(Option<&'p [u8]>, &'p [u8])> {
    let (key_length, after) = rest.split_first_chunk::<LENGTH_BYTES>()?;
    let (value_length, after) = after.split_first_chunk::<LENGTH_BYTES>()?;
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
    Some((key, value))
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
        for batch in [batch, traced, placed, both, metrics] {
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
