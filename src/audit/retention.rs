//! Rules for removing old evaluations: by the database's clock, and only if nothing suggests that a clock is wrong.

use chrono::{DateTime, TimeDelta, Utc};

use crate::database::check_clocks;

/// Upper bound of days that one run removes while the setting is unchanged. Retention passes one day a day; more of
/// them suggest that a clock has jumped.
pub const MAX_DAYS_AT_ONCE: usize = 2;
/// Minimum number of days for which evaluations that were already past retention when written are kept, so that an
/// operator can see that an evaluator's clock is wrong.
pub const LATE_KEPT_DAYS: i64 = 7;
/// Upper bound of the count of late evaluations.
pub const MAX_LATE_COUNT: i64 = 10_000;

/// Result of one run of partition maintenance and retention.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// How far the database's clock is ahead of this machine's.
    pub ahead: TimeDelta,
    /// Reason why nothing was removed although something may be old enough.
    pub objection: Option<String>,
    /// Number of evaluations that were already past retention when written; at most [`MAX_LATE_COUNT`].
    pub late_count: i64,
}

/// Returns the reason why nothing may be removed by age, or `None` if old evaluations may be removed. `due_days` is the
/// number of days past retention; `is_same_setting` is whether retention is the same as in the last run.
pub fn objection(
    database: DateTime<Utc>,
    process: DateTime<Utc>,
    due_days: usize,
    is_same_setting: bool,
) -> Option<String> {
    if let Err(error) = check_clocks(database, process) {
        return Some(error.to_string());
    }
    (is_same_setting && due_days > MAX_DAYS_AT_ONCE).then(|| {
        format!(
            "{due_days} days of evaluations are older than FLAGSTREAM_AUDIT__RETENTION_DAYS, more than \
             the limit of {MAX_DAYS_AT_ONCE} days per run: nothing is removed, because a clock may have jumped. To \
             remove them, change the setting, for example by one day"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_removed_by_a_clock_that_is_wrong() {
        let now = Utc::now();
        let ahead = now + TimeDelta::days(100);
        let refuses = |database, process, due, same| objection(database, process, due, same).is_some();
        assert!(!refuses(now, now, 0, true) && !refuses(now, now, MAX_DAYS_AT_ONCE, true));
        assert!(refuses(ahead, now, 0, true) && refuses(now, ahead, 0, true), "the two disagree");
        assert!(refuses(ahead, now, 90, false), "a changed setting does not help a wrong clock");
        assert!(refuses(ahead, ahead, 90, true), "both have jumped");
        assert!(!refuses(now, now, 90, false), "the setting was changed");
    }
}
