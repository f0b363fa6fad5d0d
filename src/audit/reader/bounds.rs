//! Decides where to continue in a partition, from the position in the database and the offsets that Kafka still has.

/// First offset of a partition in Kafka, and the offset behind its last record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) low: i64,
    pub(super) high: i64,
}

/// Offset at which a partition is continued, and what was lost before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Continue at this offset.
    At(i64),
    /// Retention removed `lost` records before they were read, starting at `from`; continue at `at`.
    Expired { from: i64, lost: u64, at: i64 },
    /// The log ends before the position under the same topic id: it was truncated, and its records may be different
    /// ones.
    Cut,
}

impl Bounds {
    /// Decides where to continue. `next_offset` is the position, 0 if nothing was read before. `reported` is the offset
    /// up to which losses are already reported. `receded` is whether Kafka delivered a record from before the position.
    pub(super) fn start(self, next_offset: i64, reported: i64, receded: bool) -> Start {
        if next_offset > self.high || receded {
            return Start::Cut;
        }
        let from = next_offset.max(reported);
        if next_offset > 0 && from < self.low {
            return Start::Expired { from, lost: from.abs_diff(self.low), at: self.low };
        }
        Start::At(next_offset.max(self.low))
    }
}

/// Number of offsets between the expected record and the one that was delivered (`came`) that retention has removed.
/// Other gaps (transaction markers, aborted records) count as zero. `low` is the first offset in Kafka.
pub(super) fn expired_between(expected: i64, came: i64, low: i64) -> u64 {
    // If `low` is behind the delivered record, that record and the ones before it were fetched before retention removed
    // them.
    if expected < low && low <= came { expected.abs_diff(low) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_within_the_log_is_read_on_and_losses_are_reported_once() {
        let bounds = Bounds { low: 100, high: 200 };
        let cases = [
            (150, 0, Start::At(150)),
            (200, 0, Start::At(200)),
            // Nothing was read before, so nothing is lost.
            (0, 0, Start::At(100)),
            (40, 0, Start::Expired { from: 40, lost: 60, at: 100 }),
            (40, 70, Start::Expired { from: 70, lost: 30, at: 100 }),
            (40, 100, Start::At(100)),
            (201, 0, Start::Cut),
        ];
        for (next, reported, expected) in cases {
            assert_eq!(bounds.start(next, reported, false), expected, "{next} {reported}");
        }
        assert_eq!(bounds.start(150, 0, true), Start::Cut);
        let empty = Bounds { low: 0, high: 0 };
        assert_eq!((empty.start(0, 0, false), empty.start(1_000, 0, false)), (Start::At(0), Start::Cut));
    }

    #[test]
    fn only_what_retention_removed_counts_as_expired() {
        let cases = [
            // Gap of a transaction marker.
            (102, 103, 0, 0),
            (102, 103, 102, 0),
            // Fetched before retention removed the records.
            (102, 103, 150, 0),
            (120, 150, 150, 30),
            (120, 151, 150, 30),
        ];
        for (expected, came, low, lost) in cases {
            assert_eq!(expired_between(expected, came, low), lost, "{expected} {came} {low}");
        }
    }
}
