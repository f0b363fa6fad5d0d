//! How long a batch stays open: short at low load, long when there is a backlog. A record that arrives a while after the
//! last commit is committed at once.

use std::time::{Duration, Instant};

/// Shortest time a batch stays open.
const MIN_OPEN: Duration = Duration::from_millis(2);
/// Time between two commits, in times of a commit. It bounds the share of the time that is spent on commits.
const OPEN_PER_COMMIT: u32 = 2;
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
    /// End of the last commit.
    ended: Option<Instant>,
    backlog: bool,
}

impl Pace {
    pub fn new(max_open: Duration, target: Option<Duration>) -> Self {
        Self { max_open, target, commit: MIN_OPEN, longest_commit: MIN_OPEN, ended: None, backlog: false }
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
        // From the end of the last commit, so that a record after a pause does not wait.
        let paused = self.ended.map_or(max_open, |ended| opened.saturating_duration_since(ended));
        let open = (self.commit * OPEN_PER_COMMIT).saturating_sub(paused);
        opened + open.clamp(MIN_OPEN.min(max_open), max_open)
    }

    /// Records whether the open batch should be long, because only backlogs wait.
    pub fn backlog(&mut self, backlog: bool) {
        self.backlog = backlog;
    }

    pub fn committed(&mut self, took: Duration, ended: Instant) {
        self.ended = Some(ended);
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
            pace.committed(Duration::from_micros(10), now);
        }
        assert_eq!(pace.deadline(now) - now, MIN_OPEN);
        for _ in 0..100 {
            pace.committed(Duration::from_millis(9), now);
        }
        assert!(pace.deadline(now) - now > Duration::from_millis(16));
        for _ in 0..100 {
            pace.committed(max, now);
        }
        assert_eq!(pace.deadline(now) - now, max / SHORT_PART);
        pace.backlog(true);
        assert_eq!(pace.deadline(now) - now, max);
        pace.backlog(false);
        assert_eq!(pace.deadline(now) - now, max / SHORT_PART);
    }

    #[test]
    fn a_record_after_a_pause_does_not_wait() {
        let mut pace = Pace::new(Duration::from_millis(200), None);
        let ended = Instant::now();
        (0..100).for_each(|_| pace.committed(Duration::from_millis(8), ended));
        let open_after = |pause| {
            let opened = ended + Duration::from_millis(pause);
            pace.deadline(opened) - opened
        };
        assert!(open_after(0) > Duration::from_millis(15), "twice as long as a commit");
        assert!(open_after(10) > Duration::from_millis(5) && open_after(10) < Duration::from_millis(7));
        assert_eq!([open_after(15), open_after(1_000)], [MIN_OPEN; 2]);
    }

    #[test]
    fn a_batch_is_open_as_long_as_the_target_latency_allows() {
        let (max, now) = (Duration::from_millis(200), Instant::now());
        let open = |pace: &Pace| pace.deadline(now) - now;
        let mut pace = Pace::new(max, Some(Duration::from_millis(50)));
        let commit = |pace: &mut Pace, millis, times| {
            (0..times).for_each(|_| pace.committed(Duration::from_millis(millis), now));
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
