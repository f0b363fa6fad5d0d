//! Suppresses repeated impressions: a browser polls every few seconds, and mostly sees what it saw before. Impressions
//! that SDKs report are remembered together with those of evaluations, so that one is recorded once, whichever comes
//! first.
//!
//! The memory is bounded. If it is full, the oldest half is forgotten, so that an impression is at worst recorded once
//! more.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Independent parts of the memory, so that calls on different threads rarely wait for each other.
const SHARDS: usize = 16;
/// Maximum impressions that are remembered.
pub const MAX_IMPRESSIONS: usize = 1 << 20;
/// Maximum impressions of each of the two generations of a shard.
const MAX_GENERATION: usize = MAX_IMPRESSIONS / SHARDS / 2;

/// An impression: what a user saw of a flag.
#[derive(Debug, Hash)]
pub struct Impression<'i> {
    pub environment: &'i str,
    /// User id, or session id if there is no user.
    pub subject: &'i str,
    pub flag: &'i str,
    /// Version of the flag that gives this result; 0 if the result was reported and is not that of the flags in force.
    pub version: u64,
    pub enabled: bool,
    /// Name of the variant; `None` if there is none.
    pub variant: Option<&'i str>,
}

/// An impression that is to be recorded, and is remembered as recorded.
#[derive(Debug)]
#[must_use]
pub struct Admission(u64);

/// Impressions that were recorded recently.
#[derive(Debug)]
pub struct Repeats {
    after: Duration,
    started: Instant,
    hasher: ahash::RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

/// Seconds since the start at which an impression was recorded, by the impression's hash.
#[derive(Debug, Default)]
struct Shard {
    newer: HashMap<u64, u32, ahash::RandomState>,
    older: HashMap<u64, u32, ahash::RandomState>,
}

impl Repeats {
    pub fn new(after: Duration) -> Self {
        let hasher = ahash::RandomState::new();
        Self { after, started: Instant::now(), hasher, shards: Default::default() }
    }

    /// Decides whether the impression is to be recorded now. If so, it is remembered as recorded. `None`: it was
    /// recorded recently.
    pub fn admit(&self, impression: &Impression<'_>) -> Option<Admission> {
        self.admit_at(impression, self.started.elapsed())
    }

    fn admit_at(&self, impression: &Impression<'_>, now: Duration) -> Option<Admission> {
        let hash = self.hasher.hash_one(impression);
        let seconds = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        let Some(mut shard) = self.shard(hash) else { return Some(Admission(hash)) };
        let last = shard.newer.get(&hash).or_else(|| shard.older.get(&hash)).copied();
        if last.is_some_and(|last| u64::from(seconds.saturating_sub(last)) < self.after.as_secs()) {
            return None;
        }
        if shard.newer.len() >= MAX_GENERATION {
            shard.older = std::mem::take(&mut shard.newer);
        }
        shard.newer.insert(hash, seconds);
        Some(Admission(hash))
    }

    /// Forgets an impression that could not be recorded after all, so that a repetition is admitted.
    pub fn forget(&self, Admission(hash): Admission) {
        if let Some(mut shard) = self.shard(hash) {
            shard.newer.remove(&hash);
            shard.older.remove(&hash);
        }
    }

    fn shard(&self, hash: u64) -> Option<MutexGuard<'_, Shard>> {
        let shard = self.shards.get(usize::try_from(hash % SHARDS as u64).unwrap_or_default())?;
        Some(shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(subject: &str, version: u64, enabled: bool) -> Impression<'_> {
        Impression { environment: "e", subject, flag: "f", version, enabled, variant: None }
    }

    #[test]
    fn an_unchanged_impression_is_recorded_again_only_after_the_interval() {
        let repeats = Repeats::new(Duration::from_secs(600));
        let at = |impression: Impression<'_>, seconds| {
            repeats.admit_at(&impression, Duration::from_secs(seconds)).is_some()
        };
        assert!(at(of("a", 1, true), 0) && !at(of("a", 1, true), 599));
        assert!(at(of("b", 1, true), 1) && at(of("a", 2, true), 1) && at(of("a", 1, false), 1));
        assert!(at(Impression { variant: Some("blue"), ..of("a", 1, true) }, 1));
        assert!(at(of("a", 1, true), 600) && !at(of("a", 1, true), 601));
    }

    #[test]
    fn memory_is_bounded_and_a_flood_forgets_only_older_impressions() {
        let repeats = Repeats::new(Duration::from_secs(600));
        let first = of("first", 1, true);
        assert!(repeats.admit_at(&first, Duration::ZERO).is_some());
        for version in 0..2 * MAX_IMPRESSIONS as u64 {
            assert!(repeats.admit_at(&of("flood", version, true), Duration::ZERO).is_some());
        }
        let kept: usize = repeats
            .shards
            .iter()
            .map(|shard| shard.lock().map_or(0, |shard| shard.newer.len() + shard.older.len()))
            .sum();
        assert!(kept <= MAX_IMPRESSIONS, "{kept}");
        assert!(repeats.admit_at(&first, Duration::ZERO).is_some(), "forgotten, so it is recorded once more");
        assert!(repeats.admit_at(&first, Duration::ZERO).is_none());
    }

    #[test]
    fn an_impression_that_was_not_recorded_is_admitted_again() {
        let repeats = Repeats::new(Duration::from_secs(600));
        let first = repeats.admit(&of("a", 1, true)).unwrap();
        assert!(repeats.admit(&of("a", 1, true)).is_none());
        repeats.forget(first);
        assert!(repeats.admit(&of("a", 1, true)).is_some());
    }
}
