//! Limit for the records of a batch. It shrinks after a failure or a slow commit and grows while batches commit
//! quickly.
//!
//! ```text
//! failed, or took more than half of the allowed time    ──► half of its records, down to one
//! was full, and took less than a quarter of that time   ──► twice as many records, until there is no limit
//! ```

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
    /// A record that timed out alone, and the number of consecutive times.
    suspect: Option<(SourceOffset, u32)>,
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
        if took > allowed / 2 {
            self.failed(records);
        } else if took <= allowed / 4
            && let Some(limit) = self.records.filter(|limit| records >= *limit)
        {
            self.records = Some(limit.saturating_mul(2)).filter(|limit| *limit < UNLIMITED_RECORDS);
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

#[cfg(test)]
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
        assert_eq!(limit.records(100_000), 500, "neither quick nor slow");
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
