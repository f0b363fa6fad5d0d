//! Remembers recent writes, so that the same value is not written again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ahash::{AHashSet, RandomState};

use crate::flag::Cacheability;

use super::subject::Entry;

/// Divisor of a value's lifetime that gives the time in which a repeated write is skipped.
const REPEAT_SHARE: u32 = 10;
/// Longest time in which a repeated write is skipped.
const REPEAT_MAX: Duration = Duration::from_secs(30);
/// Upper bound of remembered writes.
const REMEMBERED_WRITES_MAX: usize = 1 << 20;

/// Recent writes of one warmer, shared between the writer and the evaluation of the next batch.
#[derive(Debug, Clone)]
pub struct RecentWrites {
    hasher: RandomState,
    window: Duration,
    recent: Arc<Mutex<Recent>>,
}

/// Hashes of keys and versions, and the time at which the set was last cleared.
#[derive(Debug)]
struct Recent {
    written: AHashSet<u64>,
    since: Instant,
}

impl RecentWrites {
    pub(super) fn new(ttl: Duration) -> Self {
        let recent = Recent { written: AHashSet::new(), since: Instant::now() };
        Self {
            hasher: RandomState::new(),
            window: (ttl / REPEAT_SHARE).min(REPEAT_MAX),
            recent: Arc::new(Mutex::new(recent)),
        }
    }

    /// Whether the same key was recently written with the same version.
    pub(crate) fn contains(&self, entry: &Entry) -> bool {
        let hash = of_version(self.key_hash(entry), entry.basis);
        self.lock().written.contains(&hash)
    }

    pub(super) fn key_hash(&self, entry: &Entry) -> u64 {
        self.hasher.hash_one(&entry.keys.evaluation)
    }

    /// Remembers writes. `hashes` are the hashes of the entries' keys.
    pub(super) fn remember(&self, entries: &[&Entry], hashes: &[u64]) {
        let hashed = entries.iter().zip(hashes);
        let lasting = hashed.filter(|(entry, _)| entry.cacheability == Cacheability::UntilChanged);
        self.lock().written.extend(lasting.map(|(entry, hash)| of_version(*hash, entry.basis)));
    }

    /// Forgets all writes when the time or the number is exceeded.
    pub(super) fn turn(&self) {
        let mut recent = self.lock();
        if recent.since.elapsed() >= self.window || recent.written.len() >= REMEMBERED_WRITES_MAX {
            recent.written.clear();
            recent.since = Instant::now();
        }
    }

    pub(super) fn forget(&self) {
        self.lock().written.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Combines the hash of a key with a version.
fn of_version(hash: u64, basis: u64) -> u64 {
    hash ^ basis.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}
