//! Limit for the records of a batch. It shrinks after a failure or a slow commit and grows while batches commit in time.
//!
//! ```text
//! failed                                                   ──► half of its records, down to one
//! took more than half of the allowed time                  ──► half of its records, if fewer records take less time
//! was full, and took a quarter to a half of that time      ──► half as many again
//! was full, and took less, or its records do not matter    ──► twice as many, until there is no limit
//! ```
//!
//! A slow broker may need seconds for a commit, however few records it has: fewer records would only lower the
//! throughput then, until nothing keeps up.

use std::time::Duration;

use super::batch::SourceOffset;

/// Number of records at which the limit is removed: no batch takes more in one fetch.
const UNLIMITED_RECORDS: usize = 16_384;
/// Number of times that a record must time out alone before it is written as a dead letter.
const MAX_ATTEMPTS: u32 = 3;

/// Limits the records of the next batch.
#[derive(Debug, Default)]
pub struct BatchLimit {
    /// `None`: no limit.
    records: Option<usize>,
    /// The last batch that was committed.
    last: Option<Sample>,
    /// A record that timed out alone, and the number of consecutive times.
    suspect: Option<(SourceOffset, u32)>,
}

/// Records of a batch, and the time from its start to its commit.
#[derive(Debug, Clone, Copy)]
struct Sample {
    records: usize,
    took: Duration,
}

impl BatchLimit {
    /// Maximum number of records of the next batch; `most` is the configured maximum.
    pub fn records(&self, most: usize) -> usize {
        self.records.map_or(most, |records| records.min(most))
    }

    /// Records that a batch of this many records could not be committed.
    pub fn failed(&mut self, records: usize) {
        if records > 0 {
            self.records = Some((records / 2).max(1));
        }
    }

    /// Records that a batch of this many records was committed after `took`, out of the `allowed` time.
    pub fn committed(&mut self, records: usize, took: Duration, allowed: Duration) {
        self.suspect = None;
        let sample = Sample { records, took };
        let before = self.last.replace(sample);
        let records_matter = records > 1 && before.is_none_or(|before| sample.shows_cost_of_records(before));
        if took > allowed / 2 && records_matter {
            self.failed(records);
        } else if let Some(limit) = self.records.filter(|limit| records >= *limit) {
            let is_quick = took <= allowed / 4 || !records_matter;
            // At a half more, the batch is in time even if its records need all of its time.
            let next = if is_quick { limit.saturating_mul(2) } else { limit + (limit / 2).max(1) };
            self.records = Some(next).filter(|limit| *limit < UNLIMITED_RECORDS);
        }
    }

    /// Records that a batch of only this record timed out while the broker acknowledged results. `true` if that
    /// happened too often.
    pub fn ran_out_of_time(&mut self, place: SourceOffset) -> bool {
        let attempts = match self.suspect {
            Some((suspect, attempts)) if suspect == place => attempts + 1,
            _ => 1,
        };
        self.suspect = Some((place, attempts));
        attempts >= MAX_ATTEMPTS
    }
}

impl Sample {
    /// Whether the larger one of two batches took longer for its records: at least a third of what would be expected if
    /// nothing else needed time. Batches of about the same size show nothing, and count as if it did.
    fn shows_cost_of_records(self, other: Self) -> bool {
        let (small, large) = if self.records < other.records { (self, other) } else { (other, self) };
        let more_records = large.records as f64 / small.records.max(1) as f64 - 1.0;
        let more_time = large.took.as_secs_f64() / small.took.as_secs_f64().max(f64::MIN_POSITIVE) - 1.0;
        more_records < 0.25 || more_time * 3.0 >= more_records
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ALLOWED: Duration = Duration::from_secs(4);
    const QUICK: Duration = Duration::from_millis(10);

    #[test]
    fn a_failed_batch_is_halved_down_to_a_single_record() {
        let mut limit = BatchLimit::default();
        assert_eq!(limit.records(100_000), 100_000);
        limit.failed(2_048);
        let mut sizes = vec![limit.records(100_000)];
        while sizes.last() != Some(&1) {
            limit.failed(limit.records(100_000));
            sizes.push(limit.records(100_000));
        }
        assert_eq!(sizes, [1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1]);
        limit.failed(1);
        limit.failed(0);
        assert_eq!(limit.records(100_000), 1);
    }

    #[test]
    fn quick_full_batches_grow_until_there_is_no_limit() {
        let mut limit = BatchLimit::default();
        limit.failed(2);
        limit.committed(1, QUICK, ALLOWED);
        assert_eq!(limit.records(100_000), 2);
        limit.committed(1, QUICK, ALLOWED);
        assert_eq!(limit.records(100_000), 2, "it was not full");
        for _ in 0..20 {
            limit.committed(limit.records(100_000), QUICK, ALLOWED);
        }
        assert_eq!(limit.records(100_000), 100_000);
    }

    #[test]
    fn a_slow_batch_that_commits_is_followed_by_a_smaller_one() {
        let mut limit = BatchLimit::default();
        limit.committed(1_000, ALLOWED * 3 / 4, ALLOWED);
        assert_eq!(limit.records(100_000), 500);
        limit.committed(500, ALLOWED / 3, ALLOWED);
        assert_eq!(limit.records(100_000), 750, "in time with a half more");
        limit.committed(750, ALLOWED * 5 / 8, ALLOWED);
        assert_eq!(limit.records(100_000), 375);
    }

    /// Batches that take `fixed` and the time of their records, after failures down to a single record. Returns the
    /// records of the last batches of a hundred, and the longest time.
    fn settle(fixed: Duration, record: Duration) -> (Vec<usize>, Duration) {
        let mut limit = BatchLimit::default();
        limit.failed(2);
        let mut sizes = Vec::new();
        let mut longest = Duration::ZERO;
        for _ in 0..100 {
            let records = limit.records(10_000);
            let took = fixed + record * u32::try_from(records).unwrap();
            longest = longest.max(took);
            limit.committed(records, took, ALLOWED);
            sizes.push(records);
        }
        (sizes.split_off(70), longest)
    }

    #[test]
    fn a_slow_broker_does_not_make_batches_small() {
        for fixed in [0.0, 0.3, 0.5, 0.9].map(|share| ALLOWED.mul_f64(share)) {
            let (sizes, _) = settle(fixed, Duration::from_micros(10));
            assert!(sizes.iter().all(|size| *size >= 5_000), "{fixed:?}: {sizes:?}");
        }
    }

    #[test]
    fn records_that_need_the_time_make_batches_as_large_as_it_allows() {
        for record in [4, 40, 1_000].map(Duration::from_millis) {
            for fixed in [0.0, 0.1, 0.3].map(|share| ALLOWED.mul_f64(share)) {
                let (sizes, longest) = settle(fixed, record);
                let in_time = |size: &usize| fixed + record * u32::try_from(*size).unwrap() <= ALLOWED;
                assert!(sizes.iter().all(in_time) && longest <= ALLOWED, "{fixed:?} {record:?}: {sizes:?}");
                let mean = sizes.iter().sum::<usize>() as f64 / sizes.len() as f64;
                let possible = (ALLOWED - fixed).as_secs_f64() / record.as_secs_f64();
                assert!(mean >= possible / 4.0, "{fixed:?} {record:?}: {sizes:?}");
            }
        }
    }

    #[test]
    fn only_the_same_record_failing_alone_again_and_again_is_given_up() {
        let mut limit = BatchLimit::default();
        let (one, other) =
            (SourceOffset { partition: 0, offset: 7 }, SourceOffset { partition: 1, offset: 7 });
        assert!(!limit.ran_out_of_time(one) && !limit.ran_out_of_time(one));
        assert!(!limit.ran_out_of_time(other) && !limit.ran_out_of_time(one));
        assert!(!limit.ran_out_of_time(one) && limit.ran_out_of_time(one));
        limit.committed(1, QUICK, ALLOWED);
        assert!(!limit.ran_out_of_time(one));
    }
}
