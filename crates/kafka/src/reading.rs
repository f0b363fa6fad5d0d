//! Conditions that a group consumer detects while it fetches: errors in place of records, and records that Kafka deleted before
//! they were read.

use std::collections::BTreeMap;

use rdkafka::error::RDKafkaErrorCode;

/// Codec names by their number in a record batch.
const CODECS: &[(&str, &str)] =
    &[("0x0", "none"), ("0x1", "gzip"), ("0x2", "snappy"), ("0x3", "lz4"), ("0x4", "zstd")];

/// The last error that was returned in place of a partition's records. It is cleared by the next record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchFault {
    pub code: RDKafkaErrorCode,
    /// librdkafka's error text, with the codec's name in place of its number.
    pub detail: String,
}

/// Reason why no records of a partition arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// This user is not authorized to read the topic.
    Unauthorized,
    /// This build cannot decompress or parse the records.
    Unreadable,
    Other,
}

/// Records of a partition that were deleted before they were read, in the offsets `from..to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired {
    pub partition: i32,
    pub from: i64,
    pub to: i64,
    /// Number of deleted offsets. Less than `to - from` if the range combines several with records between them.
    pub count: u64,
}

/// State of one consumer's partitions.
#[derive(Debug, Default)]
pub struct Reading {
    partitions: BTreeMap<i32, Partition>,
    /// Deleted ranges by partition, at most [`MAX_EXPIRED_COUNT`] each; further ones extend the last range.
    expired: BTreeMap<i32, Vec<Expired>>,
}

#[derive(Debug, Default)]
struct Partition {
    /// The offset after the last returned record, or the first offset to read.
    next: Option<i64>,
    fault: Option<FetchFault>,
    /// The value of `next` when the log was first seen to start after it, without any record since.
    suspected: Option<i64>,
}

/// Maximum number of deleted ranges kept for one partition until they are taken.
const MAX_EXPIRED_COUNT: usize = 16;

impl Expired {
    /// The deleted range `from..to`.
    pub fn of(partition: i32, from: i64, to: i64) -> Self {
        Self { partition, from, to, count: u64::try_from(to.saturating_sub(from)).unwrap_or_default() }
    }
}

impl FetchFault {
    pub fn new(code: RDKafkaErrorCode, text: &str) -> Self {
        let mut detail = text.to_owned();
        for (number, name) in CODECS {
            detail = detail.replace(&format!("codec {number})"), &format!("codec {name})"));
        }
        Self { detail: format!("{code:?}: {detail}"), code }
    }

    pub fn kind(&self) -> FaultKind {
        use RDKafkaErrorCode as Code;
        match self.code {
            Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed => FaultKind::Unauthorized,
            Code::NotImplemented | Code::BadCompression | Code::BadMessage | Code::InvalidMessage => {
                FaultKind::Unreadable
            }
            _ => FaultKind::Other,
        }
    }
}

impl Reading {
    /// Sets the next offset of a partition: its committed offset, or the target of a seek.
    pub fn starts_at(&mut self, partition: i32, next: i64) {
        let known = self.partitions.entry(partition).or_default();
        (known.next, known.suspected) = (Some(next), None);
    }

    /// Removes partitions that are not in `assigned`.
    pub fn retain(&mut self, assigned: &[i32]) {
        self.partitions.retain(|partition, _| assigned.contains(partition));
    }

    /// Whether the next offset of the partition is known.
    pub fn is_known(&self, partition: i32) -> bool {
        self.partitions.get(&partition).is_some_and(|known| known.next.is_some())
    }

    /// Tracks records of one partition that were returned. `low` returns the log's first offset, from a fetch that is
    /// not older than that of the records; it is only called where offsets jump.
    ///
    /// A jump alone means nothing, because transaction markers and aborted records have offsets too. Records were
    /// deleted if the log's first offset lies inside the jump.
    pub fn records(
        &mut self,
        partition: i32,
        offsets: impl Iterator<Item = i64>,
        low: impl Fn() -> Option<i64>,
    ) {
        let known = self.partitions.entry(partition).or_default();
        known.fault = None;
        let mut lost = Vec::new();
        for offset in offsets {
            if let Some(next) = known.next
                && offset > next
                && let Some(low) = low()
                && (next + 1..=offset).contains(&low)
            {
                lost.push(Expired::of(partition, next, low));
            }
            known.next = Some(offset + 1);
            known.suspected = None;
        }
        lost.into_iter().for_each(|lost| self.expired(lost));
    }

    /// Checks for deleted records when the reader has taken everything that has arrived; `low` is the log's first
    /// offset. Unread records before `low` are lost if two consecutive calls find them. Returns the offset at which
    /// reading continues.
    pub fn is_idle(&mut self, partition: i32, low: i64) -> Option<i64> {
        let known = self.partitions.get_mut(&partition)?;
        let next = known.next.filter(|next| *next < low)?;
        // On the first call, records fetched before the deletion may still be in the queue.
        if known.suspected.replace(next) != Some(next) {
            return None;
        }
        self.expired(Expired::of(partition, next, low));
        self.starts_at(partition, low);
        Some(low)
    }

    /// Adds a deleted range. Every deleted offset is counted, however many ranges there are.
    pub fn expired(&mut self, expired: Expired) {
        let known = self.expired.entry(expired.partition).or_default();
        let is_full = known.len() >= MAX_EXPIRED_COUNT;
        match known.last_mut().filter(|_| is_full) {
            Some(last) => {
                // The ranges of a partition need not be ascending, because it may be read again from an earlier offset.
                (last.from, last.to) = (last.from.min(expired.from), last.to.max(expired.to));
                last.count = last.count.saturating_add(expired.count);
            }
            None => known.push(expired),
        }
    }

    /// The deleted ranges since the last call.
    pub fn take_expired(&mut self) -> Vec<Expired> {
        std::mem::take(&mut self.expired).into_values().flatten().collect()
    }

    pub fn fault(&mut self, partition: i32, fault: FetchFault) {
        self.partitions.entry(partition).or_default().fault = Some(fault);
    }

    /// Clears the fault: Kafka answers without an error, even if there is no record.
    pub fn end_fault(&mut self, partition: i32) {
        if let Some(known) = self.partitions.get_mut(&partition) {
            known.fault = None;
        }
    }

    /// The partitions that cannot be read, with their last error.
    pub fn faults(&self) -> impl Iterator<Item = (i32, &FetchFault)> {
        self.partitions.iter().filter_map(|(partition, known)| Some((*partition, known.fault.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the records at `offsets`, while the log starts at `low`.
    fn read(reading: &mut Reading, offsets: &[i64], low: i64) -> Vec<(i64, i64)> {
        reading.records(0, offsets.iter().copied(), || Some(low));
        reading.take_expired().into_iter().map(|lost| (lost.from, lost.to)).collect()
    }

    fn begun(next: i64) -> Reading {
        let mut reading = Reading::default();
        reading.starts_at(0, next);
        reading
    }

    #[test]
    fn markers_and_aborted_records_are_no_gaps() {
        let mut reading = begun(10);
        assert_eq!(read(&mut reading, &[10, 12, 15], 0), []);
        assert_eq!(read(&mut reading, &[40], 10), []);
        // The log's first record lies after the records that were fetched before, and before the new ones.
        assert_eq!(read(&mut reading, &[43, 44], 41), []);
    }

    #[test]
    fn records_that_were_deleted_before_they_were_read_are_a_gap() {
        let mut reading = begun(10);
        assert_eq!(read(&mut reading, &[500, 501], 500), [(10, 500)]);
        // The log may start with a transaction marker.
        assert_eq!(read(&mut reading, &[502, 905], 900), [(503, 900)]);
        assert_eq!(read(&mut reading, &[906], 900), []);
    }

    #[test]
    fn what_was_read_before_it_was_deleted_is_no_gap() {
        let mut reading = begun(10);
        assert_eq!(read(&mut reading, &[10, 11, 14], 200), [], "fetched before the log was cut");
        assert_eq!(read(&mut reading, &[200], 200), [(15, 200)]);
    }

    #[test]
    fn without_a_known_start_there_is_no_gap() {
        assert_eq!(read(&mut Reading::default(), &[500], 500), []);
        let mut reading = begun(10);
        reading.starts_at(0, 5);
        assert_eq!(read(&mut reading, &[5, 6], 0), [], "set back");
    }

    #[test]
    fn a_gap_is_found_though_no_record_follows() {
        let mut reading = begun(10);
        assert_eq!(reading.is_idle(0, 0), None);
        assert_eq!(reading.is_idle(0, 50), None, "what was fetched may be on its way");
        assert_eq!(reading.is_idle(0, 50), Some(50));
        assert_eq!(reading.take_expired(), [Expired::of(0, 10, 50)]);
        assert_eq!((reading.is_idle(0, 50), reading.take_expired()), (None, vec![]));
        assert_eq!(read(&mut reading, &[50], 50), []);
        let mut reading = begun(10);
        assert_eq!(reading.is_idle(0, 50), None);
        assert_eq!(read(&mut reading, &[10, 49], 50), [], "it was on its way");
        assert_eq!(reading.is_idle(0, 50), None);
        assert_eq!(reading.take_expired(), []);
    }

    #[test]
    fn every_deleted_offset_is_counted_however_many_ranges_there_are() {
        let mut reading = begun(0);
        // In each hundred offsets the last one is left.
        let rounds = 3 * i64::try_from(MAX_EXPIRED_COUNT).unwrap();
        for round in 0..rounds {
            let left = 100 * round + 99;
            reading.records(0, [left].into_iter(), || Some(left));
            reading.records(7, [0].into_iter(), || Some(0));
        }
        let expired = reading.take_expired();
        assert_eq!(expired.len(), MAX_EXPIRED_COUNT);
        assert_eq!(expired.iter().map(|expired| expired.count).sum::<u64>(), 99 * rounds.cast_unsigned());
        assert!(expired.iter().all(|expired| expired.partition == 0));
        let last = expired.last().unwrap();
        assert_eq!((last.from, last.to), (100 * (MAX_EXPIRED_COUNT as i64 - 1), 100 * rounds - 1));
        assert_eq!(reading.take_expired(), []);
    }

    #[test]
    fn two_deletions_among_the_records_of_one_fetch_are_both_counted() {
        let mut reading = begun(10);
        let lows = std::cell::Cell::new(20);
        // The log's first offset moves on while the records are taken.
        reading.records(0, [30, 60].into_iter(), || Some(lows.replace(50)));
        assert_eq!(reading.take_expired(), [Expired::of(0, 10, 20), Expired::of(0, 31, 50)]);
    }

    #[test]
    fn a_fault_lasts_until_a_record_comes() {
        let mut reading = begun(0);
        let text = "Decompression (codec 0x4) of message at 17 of 90 bytes failed: Local: Not implemented";
        let fault = FetchFault::new(RDKafkaErrorCode::NotImplemented, text);
        assert_eq!(fault.kind(), FaultKind::Unreadable);
        assert!(fault.detail.contains("(codec zstd) of message at 17"), "{}", fault.detail);
        reading.fault(0, fault);
        let refused = FetchFault::new(RDKafkaErrorCode::TopicAuthorizationFailed, "Fetch failed");
        assert_eq!(refused.kind(), FaultKind::Unauthorized);
        reading.fault(3, refused);
        let faulty = |reading: &Reading| reading.faults().map(|(partition, _)| partition).collect::<Vec<_>>();
        assert_eq!(faulty(&reading), [0, 3]);
        assert_eq!(read(&mut reading, &[17], 0), []);
        assert_eq!(faulty(&reading), [3]);
        reading.end_fault(3);
        assert!(faulty(&reading).is_empty());
        reading.fault(0, FetchFault::new(RDKafkaErrorCode::Fail, ""));
        reading.retain(&[3]);
        assert!(faulty(&reading).is_empty());
    }
}
