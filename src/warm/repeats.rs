//! What was written a moment ago and need not be written again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ahash::{AHashSet, RandomState};

use crate::flag::Steady;

use super::subject::Entry;

/// Repeats within this part of a value's life need no write.
const REPEAT_SHARE: u32 = 10;
const REPEAT_MAX: Duration = Duration::from_secs(30);
/// Writes remembered for the sake of repeats.
const REMEMBERED_WRITES_MAX: usize = 1 << 20;

/// The memory of one warmer: who writes adds to it while the next batch asks it.
#[derive(Debug, Clone)]
pub(crate) struct Repeats {
    hasher: RandomState,
    window: Duration,
    recent: Arc<Mutex<Recent>>,
}

/// Hashes of keys and versions, since when.
#[derive(Debug)]
struct Recent {
    written: AHashSet<u64>,
    since: Instant,
}

impl Repeats {
    pub(super) fn new(ttl: Duration) -> Self {
        let recent = Recent { written: AHashSet::new(), since: Instant::now() };
        Self {
            hasher: RandomState::new(),
            window: (ttl / REPEAT_SHARE).min(REPEAT_MAX),
            recent: Arc::new(Mutex::new(recent)),
        }
    }

    /// Whether the same was written a moment ago.
    pub(crate) fn contains(&self, entry: &Entry) -> bool {
        let hash = of_version(self.key_hash(entry), entry.basis);
        self.lock().written.contains(&hash)
    }

    pub(super) fn key_hash(&self, entry: &Entry) -> u64 {
        self.hasher.hash_one(&entry.keys.evaluation)
    }

    /// These were written; `hashes` are those of their keys.
    pub(super) fn remember(&self, entries: &[&Entry], hashes: &[u64]) {
        let hashed = entries.iter().zip(hashes);
        let lasting = hashed.filter(|(entry, _)| entry.steady == Steady::Always);
        self.lock().written.extend(lasting.map(|(entry, hash)| of_version(*hash, entry.basis)));
    }

    /// Forgets in time.
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

/// The hash of a key in one version.
fn of_version(hash: u64, basis: u64) -> u64 {
    hash ^ basis.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}
