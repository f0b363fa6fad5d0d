//! Timing of polls: the refresh interval with jitter, and backoff for a source that fails.

use std::time::{Duration, SystemTime};

use chrono::DateTime;
use rand::Rng;

use crate::kafka::backoff::Backoff;

/// Minimum time between two successful polls, regardless of hints.
const POLL_GAP_MIN: Duration = Duration::from_millis(50);
/// Time between polls while a hint is followed, from this value to `FOLLOW_GAP_MAX`.
const FOLLOW_GAP_MIN: Duration = Duration::from_millis(100);
/// Longest time between two polls while a hint is followed.
const FOLLOW_GAP_MAX: Duration = Duration::from_millis(200);
/// First backoff; hints do not shorten it.
pub const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// Longest delay after failed polls.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Upper bound for the `Retry-After` of a source.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

/// Waiting time before the next poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// Minimum wait, which a hint does not shorten.
    pub at_least: Duration,
    pub at_most: Duration,
}

/// Outcome of a poll, which determines the wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PollOutcome {
    Fine,
    /// The poll succeeded, and a hint is being followed.
    Following,
    Failed {
        retry_after: Option<Duration>,
    },
}

/// Timing of one poller.
#[derive(Debug)]
pub struct Pace {
    refresh: Duration,
    backoff: Backoff,
}

impl Pace {
    pub fn new(refresh: Duration) -> Self {
        Self { refresh, backoff: Backoff::new(BACKOFF_MIN, BACKOFF_MAX) }
    }

    pub fn after(&mut self, looked: PollOutcome) -> Wait {
        let PollOutcome::Failed { retry_after } = looked else {
            self.backoff.reset();
            return if looked == PollOutcome::Following { follow() } else { self.regular() };
        };
        let at_least = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX).max(BACKOFF_MIN);
        Wait { at_least, at_most: self.backoff.jittered().max(at_least) }
    }

    fn regular(&self) -> Wait {
        let at_most = self.refresh.mul_f64(rand::rng().random_range(0.9..1.1));
        Wait { at_least: POLL_GAP_MIN.min(at_most), at_most }
    }
}

fn follow() -> Wait {
    let gap = rand::rng().random_range(FOLLOW_GAP_MIN..FOLLOW_GAP_MAX);
    Wait { at_least: gap, at_most: gap }
}

/// Parses the header `Retry-After`: seconds, or an HTTP date.
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = DateTime::parse_from_rfc2822(value).ok()?;
    // A date in the past means no delay.
    Some(SystemTime::from(date).duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_768_473_000); // 2026-01-15T10:30:00Z
        assert_eq!(retry_after("120", now), Some(Duration::from_secs(120)));
        assert_eq!(retry_after(" 0 ", now), Some(Duration::ZERO));
        assert_eq!(retry_after("Thu, 15 Jan 2026 10:30:30 GMT", now), Some(Duration::from_secs(30)));
        assert_eq!(retry_after("Thu, 15 Jan 2026 10:00:00 GMT", now), Some(Duration::ZERO));
        for bad in ["", "soon", "-1", "1.5", "2026-01-15T10:30:30Z"] {
            assert_eq!(retry_after(bad, now), None, "{bad}");
        }
    }

    #[test]
    fn failures_back_off_within_bounds_and_start_anew_after_success() {
        let mut pace = Pace::new(Duration::from_secs(15));
        let failed = PollOutcome::Failed { retry_after: None };
        let waits: Vec<_> = (0..40).map(|_| pace.after(failed)).collect();
        assert_eq!(waits[0], Wait { at_least: BACKOFF_MIN, at_most: BACKOFF_MIN });
        assert!(waits[4].at_most >= Duration::from_secs(4), "{:?}", waits[4]);
        assert!(waits.iter().all(|wait| wait.at_most <= BACKOFF_MAX && wait.at_least == BACKOFF_MIN));
        pace.after(PollOutcome::Fine);
        assert_eq!(pace.after(failed), waits[0]);
    }

    #[test]
    fn retry_after_is_honoured_within_reason() {
        let mut pace = Pace::new(Duration::from_secs(15));
        let mut after =
            |seconds| pace.after(PollOutcome::Failed { retry_after: Some(Duration::from_secs(seconds)) });
        assert_eq!(after(30).at_least, Duration::from_secs(30));
        assert_eq!(after(1_000_000).at_least, RETRY_AFTER_MAX);
        assert_eq!(after(0).at_least, BACKOFF_MIN);
    }

    #[test]
    fn success_waits_about_the_refresh_interval() {
        let mut pace = Pace::new(Duration::from_secs(10));
        let Wait { at_least, at_most } = pace.after(PollOutcome::Fine);
        assert_eq!(at_least, POLL_GAP_MIN);
        assert!((9.0..11.0).contains(&at_most.as_secs_f64()));
        let Wait { at_least, at_most } = pace.after(PollOutcome::Following);
        assert!(at_least == at_most && (FOLLOW_GAP_MIN..FOLLOW_GAP_MAX).contains(&at_most));
    }
}
