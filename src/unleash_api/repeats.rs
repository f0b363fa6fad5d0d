//! Suppresses repeated impressions: a browser polls every few seconds, and mostly sees what it saw before.
//!
//! The memory is bounded. If it is full, the oldest half is forgotten, so that an impression is at worst recorded once
//! more.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
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
    pub version: u64,
    pub enabled: bool,
    /// Position of the variant among the flag's variants; `None` if there is none.
    pub variant: Option<usize>,
}

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

    /// Whether the impression is to be recorded now. If so, it is remembered as recorded.
    pub fn admit(&self, impression: &Impression<'_>) -> bool {
        self.admit_at(impression, self.started.elapsed())
    }

    fn admit_at(&self, impression: &Impression<'_>, now: Duration) -> bool {
        let hash = self.hasher.hash_one(impression);
        let seconds = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        let shard = usize::try_from(hash % SHARDS as u64).unwrap_or_default();
        let Some(shard) = self.shards.get(shard) else { return true };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let last = shard.newer.get(&hash).or_else(|| shard.older.get(&hash)).copied();
        if last.is_some_and(|last| u64::from(seconds.saturating_sub(last)) < self.after.as_secs()) {
            return false;
        }
        if shard.newer.len() >= MAX_GENERATION {
            shard.older = std::mem::take(&mut shard.newer);
        }
        shard.newer.insert(hash, seconds);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(subject: &str, version: u64, enabled: bool) -> Impression<'_> {
        Impression { environment: "e", subject, flag: "f", version, enabled, variant: None }
    }

    #[test]
    fn an_unchanged_impression_is_recorded_again_only_after_the_interval() {
        let repeats = Repeats::new(Duration::from_secs(600));
        let at =
            |impression: Impression<'_>, seconds| repeats.admit_at(&impression, Duration::from_secs(seconds));
        assert!(at(of("a", 1, true), 0) && !at(of("a", 1, true), 599));
        assert!(at(of("b", 1, true), 1) && at(of("a", 2, true), 1) && at(of("a", 1, false), 1));
        assert!(at(Impression { variant: Some(0), ..of("a", 1, true) }, 1));
        assert!(at(of("a", 1, true), 600) && !at(of("a", 1, true), 601));
    }

    #[test]
    fn memory_is_bounded_and_a_flood_forgets_only_older_impressions() {
        let repeats = Repeats::new(Duration::from_secs(600));
        let first = of("first", 1, true);
        assert!(repeats.admit_at(&first, Duration::ZERO));
        for version in 0..2 * MAX_IMPRESSIONS as u64 {
            repeats.admit_at(&of("flood", version, true), Duration::ZERO);
        }
        let kept: usize = repeats
            .shards
            .iter()
            .map(|shard| shard.lock().map_or(0, |shard| shard.newer.len() + shard.older.len()))
            .sum();
        assert!(kept <= MAX_IMPRESSIONS, "{kept}");
        assert!(repeats.admit_at(&first, Duration::ZERO), "forgotten, so it is recorded once more");
        assert!(!repeats.admit_at(&first, Duration::ZERO));
    }
}
