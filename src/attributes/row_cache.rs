//! Rows in memory, in front of the table on disk.
//!
//! A lookup may read an old row from disk while a change of that row is applied, and must not leave it in the cache:
//! the writer counts a change after it is on disk and before it removes the keys, and a lookup removes what it has
//! inserted if the count has changed since it began.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::Row;

/// Memory of an entry beside its texts, in bytes.
const ENTRY_BYTES: usize = 112;
/// Expected size of an entry, from which the number of slots follows.
const USUAL_BYTES: usize = 320;

/// A bounded cache of rows by key; also of keys without a row.
#[derive(Debug)]
pub(super) struct RowCache {
    rows: Cache<Box<str>, Option<Arc<Row>>, Weight>,
    changes: AtomicU64,
}

#[derive(Debug, Clone)]
struct Weight;

impl Weighter<Box<str>, Option<Arc<Row>>> for Weight {
    fn weight(&self, key: &Box<str>, row: &Option<Arc<Row>>) -> u64 {
        (ENTRY_BYTES + key.len() + row.as_ref().map_or(0, |row| row.json.len())) as u64
    }
}

impl RowCache {
    pub(super) fn new(bytes: usize) -> Self {
        let rows = Cache::with_weighter(bytes / USUAL_BYTES, bytes as u64, Weight);
        Self { rows, changes: AtomicU64::new(0) }
    }

    /// The cached row; `Some(None)` if it is known that there is none.
    pub(super) fn get(&self, key: &str) -> Option<Option<Arc<Row>>> {
        self.rows.get(key)
    }

    /// The number of changes; to be read before the disk.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Inserts what was read from disk after `changes` was read.
    pub(super) fn insert(&self, key: &str, row: Option<Arc<Row>>, changes: u64) {
        self.rows.insert(key.into(), row);
        if self.changes() != changes {
            self.rows.remove(key);
        }
    }

    /// Removes changed keys. To be called after the change is on disk.
    pub(super) fn forget<'k>(&self, keys: impl Iterator<Item = &'k str>) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        keys.for_each(|key| drop(self.rows.remove(key)));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn row(offset: i64) -> Option<Arc<Row>> {
        Some(Arc::new(Row { partition: 0, offset, json: "{}".into() }))
    }

    #[test]
    fn a_row_that_changes_while_it_is_read_is_not_kept() {
        let cache = RowCache::new(1 << 20);
        let before = cache.changes();
        cache.insert("a", row(1), before);
        assert_eq!(cache.get("a"), Some(row(1)));
        cache.forget(["a"].into_iter());
        assert_eq!(cache.get("a"), None);
        cache.insert("a", row(1), before);
        assert_eq!(cache.get("a"), None, "read before the change");
        cache.insert("b", None, cache.changes());
        assert_eq!(cache.get("b"), Some(None));
    }

    #[test]
    fn the_cache_is_bounded_by_its_bytes() {
        let cache = RowCache::new(64 << 10);
        (0..10_000).for_each(|number| cache.insert(&format!("user-{number}"), row(number), 0));
        assert!(cache.rows.weight() <= 64 << 10, "{}", cache.rows.weight());
        assert!(cache.rows.len() > 100);
    }
}
