//! Index of the keys of each flag, so that a change finds them without a scan.
//!
//! The keys of a flag are listed in chunks: Redis lists that are only appended to, which are cheap to write and to
//! delete. A chunk outlives every value listed in it. The writer remembers which keys it has listed for one generation,
//! which is the longest lifetime of a value; then it lists everything again in new chunks.

use std::time::{Duration, Instant};

use ahash::{AHashMap, AHashSet};

use super::key;

/// Upper bound of members in a chunk. Deleting a full chunk takes Redis a tenth of a millisecond.
const CHUNK_MEMBERS_MAX: usize = 4_096;
/// Upper bound of keys remembered as listed; at this number the generation ends early.
const LISTED_KEYS_MAX: usize = 1 << 20;
/// Upper bound of open chunks, one per flag; at this number the generation ends early.
const OPEN_CHUNKS_MAX: usize = 1 << 14;
/// Margin for clock differences and pauses.
const SLACK: Duration = Duration::from_secs(60);

/// Keys that one writer has listed.
#[derive(Debug)]
pub(super) struct KeyIndex {
    /// Duration of a generation, not shorter than the lifetime of any value.
    generation: Duration,
    begun: Instant,
    /// Hashes of the listed keys.
    listed: AHashSet<u64>,
    open: AHashMap<String, Open>,
}

#[derive(Debug)]
struct Open {
    chunk: String,
    members: usize,
}

/// Chunk to which members are appended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) chunk: String,
    pub(super) is_new: bool,
}

impl KeyIndex {
    pub(super) fn new(longest_life: Duration) -> Self {
        Self {
            generation: longest_life,
            begun: Instant::now(),
            listed: AHashSet::new(),
            open: AHashMap::new(),
        }
    }

    /// Lifetime of a chunk: it accepts members for a generation, and their values live for another one.
    pub(super) fn chunk_life(&self) -> Duration {
        self.generation * 2 + SLACK
    }

    /// Ends the generation if it is due. Called between batches.
    pub(super) fn turn(&mut self) {
        let full = self.listed.len() >= LISTED_KEYS_MAX || self.open.len() >= OPEN_CHUNKS_MAX;
        if full || self.begun.elapsed() >= self.generation {
            self.forget();
        }
    }

    /// Forgets everything, because Redis may have lost it.
    pub(super) fn forget(&mut self) {
        self.listed.clear();
        self.open.clear();
        self.begun = Instant::now();
    }

    pub(super) fn is_listed(&self, key: u64) -> bool {
        self.listed.contains(&key)
    }

    /// Returns the chunk for this many further members.
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

    /// Records keys that Redis has listed.
    pub(super) fn listed(&mut self, keys: impl IntoIterator<Item = u64>) {
        self.listed.extend(keys);
    }

    /// Forgets a key, because it may have been removed from its chunk.
    pub(super) fn unlist(&mut self, key: u64) {
        self.listed.remove(&key);
    }

    /// The chunk to which a flag's members are appended. `None`: there is none.
    pub(super) fn open_chunk(&self, place: &str) -> Option<&str> {
        self.open.get(place).map(|open| open.chunk.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_filled_one_after_the_other() {
        let mut index = KeyIndex::new(Duration::from_secs(300));
        let first = index.place("{e/f}", CHUNK_MEMBERS_MAX - 1);
        assert!(first.is_new);
        assert_eq!(index.place("{e/f}", 2), Place { chunk: first.chunk.clone(), is_new: false });
        assert_ne!(index.place("{e/f}", 1).chunk, first.chunk, "full");
        assert!(index.place("{e/g}", 1).is_new, "a flag of its own");
    }

    #[test]
    fn a_generation_forgets() {
        let mut index = KeyIndex::new(Duration::ZERO);
        index.place("{e/f}", 1);
        index.listed([1]);
        assert!(index.is_listed(1) && index.open_chunk("{e/f}").is_some());
        index.turn();
        assert!(!index.is_listed(1) && index.open_chunk("{e/f}").is_none());
    }
}
