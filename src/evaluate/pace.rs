//! How long a batch stays open: short at low load, long when there is a backlog. Batches of single records are not kept
//! open at all: no second record would arrive in that time, and the first one would only wait.

use std::time::{Duration, Instant};

/// Shortest time a batch stays open.
const MIN_OPEN: Duration = Duration::from_millis(2);
/// A batch stays open this many times as long as its commit takes, which bounds the share of time spent on commits.
const OPEN_PER_COMMIT: u32 = 2;
/// Records of a batch, on average, below which a batch is not kept open. As many records as arrive during a commit are in
/// the next batch anyway.
const FEW_RECORDS: f64 = 1.5;
/// Part of `max_open` for a batch without a backlog: one in so many. Slow commits make batches longer up to this limit, so
/// that a slow broker does not delay answers more and more while there is time to spare.
const SHORT_PART: u32 = 4;

/// Tracks the cost of commits and whether a backlog exists.
#[derive(Debug)]
pub struct Pace {
    max_open: Duration,
    /// The latency that batches are made for, from the arrival of a record to the commit of its results.
    target: Option<Duration>,
    /// Exponentially smoothed duration of a commit.
    commit: Duration,
    /// The longest duration of a commit lately: it decreases by a sixteenth with each commit.
    longest_commit: Duration,
    /// Exponentially smoothed number of records of a batch.
    records: f64,
    backlog: bool,
}

impl Pace {
    pub fn new(max_open: Duration, target: Option<Duration>) -> Self {
        Self { max_open, target, commit: MIN_OPEN, longest_commit: MIN_OPEN, records: 1.0, backlog: false }
    }

    /// Time at which a batch opened at `opened` should be committed.
    pub fn deadline(&self, opened: Instant) -> Instant {
        if self.backlog {
            return opened + self.max_open;
        }
        if let Some(target) = self.target {
            // The first record of a batch waits for the commit of the batch before, in the worst case, and for its own.
            let open = target.saturating_sub(2 * self.longest_commit);
            return opened + open.clamp(MIN_OPEN.min(self.max_open), self.max_open);
        }
        let max_open = self.max_open / SHORT_PART;
        let open = if self.records < FEW_RECORDS { Duration::ZERO } else { self.commit * OPEN_PER_COMMIT };
        opened + open.clamp(MIN_OPEN.min(max_open), max_open)
    }

    /// Records whether the open batch should be long, because only backlogs wait.
    pub fn backlog(&mut self, backlog: bool) {
        self.backlog = backlog;
    }

    /// Records that a batch of so many records was committed in this time.
    pub fn committed(&mut self, records: usize, took: Duration) {
        self.records = (self.records * 3.0 + records as f64) / 4.0;
        self.commit = (self.commit * 7 + took) / 8;
        self.longest_commit = took.max(self.longest_commit * 15 / 16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_time_follows_the_cost_of_commits_within_its_bounds() {
        let max = Duration::from_millis(100);
        let mut pace = Pace::new(max, None);
        let now = Instant::now();
        for _ in 0..100 {
            pace.committed(100, Duration::from_micros(10));
        }
        assert_eq!(pace.deadline(now) - now, MIN_OPEN);
        for _ in 0..100 {
            pace.committed(100, Duration::from_millis(9));
        }
        assert!(pace.deadline(now) - now > Duration::from_millis(16));
        for _ in 0..100 {
            pace.committed(100, max);
        }
        assert_eq!(pace.deadline(now) - now, max / SHORT_PART);
        pace.backlog(true);
        assert_eq!(pace.deadline(now) - now, max);
        pace.backlog(false);
        assert_eq!(pace.deadline(now) - now, max / SHORT_PART);
    }

    #[test]
    fn single_records_do_not_wait_for_others() {
        let mut pace = Pace::new(Duration::from_millis(200), None);
        let now = Instant::now();
        let mut open_after = |records, batches| {
            (0..batches).for_each(|_| pace.committed(records, Duration::from_millis(8)));
            pace.deadline(now) - now
        };
        assert_eq!(open_after(1, 100), MIN_OPEN);
        assert_eq!(open_after(2, 1), MIN_OPEN, "a second record now and then");
        assert!(open_after(3, 2) > Duration::from_millis(15), "several arrive during a commit");
        assert_eq!(open_after(1, 10), MIN_OPEN, "and no longer");
    }

    #[test]
    fn a_batch_is_open_as_long_as_the_target_latency_allows() {
        let (max, now) = (Duration::from_millis(200), Instant::now());
        let open = |pace: &Pace| pace.deadline(now) - now;
        let mut pace = Pace::new(max, Some(Duration::from_millis(50)));
        let commit = |pace: &mut Pace, millis, times| {
            (0..times).for_each(|_| pace.committed(1, Duration::from_millis(millis)));
        };
        commit(&mut pace, 5, 100);
        assert_eq!(open(&pace), Duration::from_millis(40), "two commits of 5 ms are left out");
        commit(&mut pace, 20, 1);
        assert_eq!(open(&pace), Duration::from_millis(10), "one slow commit counts at once");
        commit(&mut pace, 5, 100);
        assert_eq!(open(&pace), Duration::from_millis(40), "and is forgotten");
        commit(&mut pace, 60, 1);
        assert_eq!(open(&pace), MIN_OPEN, "the target cannot be met");
        assert_eq!(open(&Pace::new(max, Some(max * 10))), max);
    }
}
