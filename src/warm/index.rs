//! Which keys of a flag are listed, so that a change finds them without a scan.
//!
//! A flag's keys are listed in chunks: Redis lists that are only appended to, cheap to write and cheap to forget.
//! A chunk outlives every value that is listed in it. What was listed is remembered for one generation, as long as
//! the longest life of a value; then everything is listed anew, in new chunks.

use std::time::{Duration, Instant};

use ahash::{AHashMap, AHashSet};

use super::key;

/// Members of a chunk: forgetting one takes Redis a tenth of a millisecond.
const CHUNK_MEMBERS_MAX: usize = 4_096;
/// Keys remembered as listed; beyond, a generation ends early.
const LISTED_KEYS_MAX: usize = 1 << 20;
/// Chunks that are open at once, one for each flag; beyond, a generation ends early.
const OPEN_CHUNKS_MAX: usize = 1 << 14;
/// For clocks and pauses.
const SLACK: Duration = Duration::from_secs(60);

/// One writer's memory of what is listed.
#[derive(Debug)]
pub(super) struct Index {
    /// How long a generation lasts, at least as long as any value lives.
    generation: Duration,
    begun: Instant,
    /// Hashes of keys.
    listed: AHashSet<u64>,
    open: AHashMap<String, Open>,
}

#[derive(Debug)]
struct Open {
    chunk: String,
    members: usize,
}

/// Where members are to be appended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) chunk: String,
    pub(super) is_new: bool,
}

impl Index {
    pub(super) fn new(longest_life: Duration) -> Self {
        Self {
            generation: longest_life,
            begun: Instant::now(),
            listed: AHashSet::new(),
            open: AHashMap::new(),
        }
    }

    /// How long a chunk lives: it may take members for a generation, and these live for another.
    pub(super) fn chunk_life(&self) -> Duration {
        self.generation * 2 + SLACK
    }

    /// Ends a generation in time. To be called between batches.
    pub(super) fn turn(&mut self) {
        let full = self.listed.len() >= LISTED_KEYS_MAX || self.open.len() >= OPEN_CHUNKS_MAX;
        if full || self.begun.elapsed() >= self.generation {
            self.forget();
        }
    }

    /// Redis may have lost what it was told.
    pub(super) fn forget(&mut self) {
        self.listed.clear();
        self.open.clear();
        self.begun = Instant::now();
    }

    pub(super) fn is_listed(&self, key: u64) -> bool {
        self.listed.contains(&key)
    }

    /// The chunk for this many more members.
    pub(super) fn place(&mut self, place: &str, members: usize) -> Place {
        if let Some(open) = self.open.get_mut(place)
            && open.members < CHUNK_MEMBERS_MAX
        {
            open.members += members;
            return Place { chunk: open.chunk.clone(), is_new: false };
        }
        let chunk = key::chunk(place, &uuid::Uuid::now_v7().simple().to_string());
        self.open.insert(place.to_owned(), Open { chunk: chunk.clone(), members });
        Place { chunk, is_new: true }
    }

    /// Redis has them.
    pub(super) fn listed(&mut self, keys: impl IntoIterator<Item = u64>) {
        self.listed.extend(keys);
    }

    /// It may have been removed from its chunk.
    pub(super) fn unlist(&mut self, key: u64) {
        self.listed.remove(&key);
    }

    /// The chunk that takes a flag's members, if there is one.
    pub(super) fn open_chunk(&self, place: &str) -> Option<&str> {
        self.open.get(place).map(|open| open.chunk.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_filled_one_after_the_other() {
        let mut index = Index::new(Duration::from_secs(300));
        let first = index.place("{e/f}", CHUNK_MEMBERS_MAX - 1);
        assert!(first.is_new);
        assert_eq!(index.place("{e/f}", 2), Place { chunk: first.chunk.clone(), is_new: false });
        assert_ne!(index.place("{e/f}", 1).chunk, first.chunk, "full");
        assert!(index.place("{e/g}", 1).is_new, "a flag of its own");
    }

    #[test]
    fn a_generation_forgets() {
        let mut index = Index::new(Duration::ZERO);
        index.place("{e/f}", 1);
        index.listed([1]);
        assert!(index.is_listed(1) && index.open_chunk("{e/f}").is_some());
        index.turn();
        assert!(!index.is_listed(1) && index.open_chunk("{e/f}").is_none());
    }
}
