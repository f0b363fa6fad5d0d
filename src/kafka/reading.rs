//! What a group consumer learns of its partitions while it fetches: errors that come in place of records, and records
//! that Kafka has deleted before they were read.

use std::collections::BTreeMap;

use rdkafka::error::RDKafkaErrorCode;

/// The names of the codecs by their number in a record batch.
const CODECS: &[(&str, &str)] =
    &[("0x0", "none"), ("0x1", "gzip"), ("0x2", "snappy"), ("0x3", "lz4"), ("0x4", "zstd")];

/// The last error that came in place of a partition's records. It lasts until a record comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchFault {
    pub code: RDKafkaErrorCode,
    /// librdkafka's own words, with the codec's name in place of its number.
    pub detail: String,
}

/// Why a partition's records do not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// This user may not read the topic.
    Unauthorized,
    /// This build cannot decompress or parse the records.
    Unreadable,
    Other,
}

/// Records `from..to` of a partition that were deleted before they were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired {
    pub partition: i32,
    pub from: i64,
    pub to: i64,
}

/// The partitions of one consumer.
#[derive(Debug, Default)]
pub struct Reading {
    partitions: BTreeMap<i32, Partition>,
    /// At most one per partition: later ones are added to it.
    expired: BTreeMap<i32, Vec<Expired>>,
}

#[derive(Debug, Default)]
struct Partition {
    /// The offset after the last record that was handed out, or where reading begins.
    next: Option<i64>,
    fault: Option<FetchFault>,
    /// Nothing had been read from this offset on when the log's first record was seen behind it.
    suspected: Option<i64>,
}

/// Most ranges of deleted records that are kept for one partition until they are taken.
const MAX_EXPIRED_COUNT: usize = 16;

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
    /// Reading of a partition begins at `next`: its committed offset, or where it was sought.
    pub fn starts_at(&mut self, partition: i32, next: i64) {
        let known = self.partitions.entry(partition).or_default();
        (known.next, known.suspected) = (Some(next), None);
    }

    /// Only these are assigned.
    pub fn retain(&mut self, assigned: &[i32]) {
        self.partitions.retain(|partition, _| assigned.contains(partition));
    }

    /// Whether it is known where reading of the partition began.
    pub fn is_known(&self, partition: i32) -> bool {
        self.partitions.get(&partition).is_some_and(|known| known.next.is_some())
    }

    /// Records of one partition were handed out. `low` is the log's first offset as of a fetch that is not older than
    /// the record's; it is looked at where offsets jump.
    ///
    /// A jump alone means nothing: markers of transactions and aborted records have offsets too. But a consumer that is set
    /// forward to the log's first record comes from before it, and lands behind it.
    pub fn records(
        &mut self,
        partition: i32,
        offsets: impl Iterator<Item = i64>,
        low: impl Fn() -> Option<i64>,
    ) {
        let known = self.partitions.entry(partition).or_default();
        known.fault = None;
        let mut lost = None;
        for offset in offsets {
            if let Some(next) = known.next
                && offset > next
                && let Some(low) = low()
                && (next + 1..=offset).contains(&low)
            {
                lost = Some(Expired { partition, from: next, to: low });
            }
            known.next = Some(offset + 1);
            known.suspected = None;
        }
        self.expired(lost);
    }

    /// The reader has taken all that has arrived, and `low` is the log's first offset: what is before it and was not
    /// handed out when this is said twice will not come. Returns where reading goes on.
    pub fn is_idle(&mut self, partition: i32, low: i64) -> Option<i64> {
        let known = self.partitions.get_mut(&partition)?;
        let next = known.next.filter(|next| *next < low)?;
        // What was fetched before the log was cut may still be on its way the first time.
        if known.suspected.replace(next) != Some(next) {
            return None;
        }
        self.expired(Some(Expired { partition, from: next, to: low }));
        self.starts_at(partition, low);
        Some(low)
    }

    /// Records are gone, or `None`.
    pub fn expired(&mut self, expired: Option<Expired>) {
        let Some(expired) = expired else { return };
        let known = self.expired.entry(expired.partition).or_default();
        if known.len() < MAX_EXPIRED_COUNT {
            known.push(expired);
        }
    }

    /// What has expired since the last call.
    pub fn take_expired(&mut self) -> Vec<Expired> {
        std::mem::take(&mut self.expired).into_values().flatten().collect()
    }

    pub fn fault(&mut self, partition: i32, fault: FetchFault) {
        self.partitions.entry(partition).or_default().fault = Some(fault);
    }

    /// Kafka answers without an error, though there is no record.
    pub fn end_fault(&mut self, partition: i32) {
        if let Some(known) = self.partitions.get_mut(&partition) {
            known.fault = None;
        }
    }

    /// The partitions that cannot be read.
    pub fn faults(&self) -> impl Iterator<Item = (i32, &FetchFault)> {
        self.partitions.iter().filter_map(|(partition, known)| Some((*partition, known.fault.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out the records at `offsets`, while the log begins at `low`.
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
        // The log's first record is behind those that were fetched before, and before these.
        assert_eq!(read(&mut reading, &[43, 44], 41), []);
    }

    #[test]
    fn records_that_were_deleted_before_they_were_read_are_a_gap() {
        let mut reading = begun(10);
        assert_eq!(read(&mut reading, &[500, 501], 500), [(10, 500)]);
        // The first record that is left may be a marker.
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
        assert_eq!(reading.take_expired(), [Expired { partition: 0, from: 10, to: 50 }]);
        assert_eq!((reading.is_idle(0, 50), reading.take_expired()), (None, vec![]));
        assert_eq!(read(&mut reading, &[50], 50), []);
        let mut reading = begun(10);
        assert_eq!(reading.is_idle(0, 50), None);
        assert_eq!(read(&mut reading, &[10, 49], 50), [], "it was on its way");
        assert_eq!(reading.is_idle(0, 50), None);
        assert_eq!(reading.take_expired(), []);
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
