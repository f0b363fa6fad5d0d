//! One table: rows on disk, with a cache of rows in memory.
//!
//! The rows of a batch and the offsets behind it are written to disk together. A process that is killed therefore
//! continues exactly behind the last row that it has. Nothing is synchronised to disk: after a crash of the machine the
//! table is as it was a moment before, and the reader reads the rest of the topic again.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ahash::AHashMap;
use fjall::config::{BloomConstructionPolicy, FilterPolicy, FilterPolicyEntry, PinningPolicy};
use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::config::AttributeTable;
use crate::log_limit::limited;
use crate::metrics::TableMetrics;
use crate::private_files::create_folder;

use super::Row;
use super::row_cache::RowCache;
use super::state::State;
use super::status::TableStatus;

/// Keyspace with the state of each table, by the table's name.
const STATES: &str = "states";
/// Rows that are collected in memory before they are sorted and written to disk, in bytes, for each table.
const MEMTABLE_BYTES: u64 = 16 << 20;
/// Size of the journal above which collected rows are written to disk.
const JOURNAL_BYTES: u64 = 128 << 20;
/// Threads that write and merge files in the background.
const WORKER_THREADS: usize = 2;

/// The files of all tables.
pub(super) struct Storage {
    database: Database,
    states: Keyspace,
}

/// Reason why a table cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error("the tables of attributes in {folder}: {error}")]
    Folder { folder: String, error: std::io::Error },
    #[error("the tables of attributes in {folder}: {error}")]
    Open { folder: String, error: fjall::Error },
    #[error("table {table}: {error}")]
    Storage { table: String, error: fjall::Error },
    #[error("table {table}: its state cannot be written: {error}")]
    State { table: String, error: serde_json::Error },
}

/// A table of attributes.
pub struct Table {
    name: String,
    field: String,
    topic: String,
    database: Database,
    states: Keyspace,
    rows: Keyspace,
    cache: RowCache,
    metrics: TableMetrics,
    status: TableStatus,
    /// The next offset of each partition, as of the last applied batch.
    applied: watch::Sender<Arc<BTreeMap<i32, i64>>>,
}

/// Rows of a batch by key; `None` removes the row.
pub(super) type Changes = AHashMap<Box<str>, Option<Row>>;

impl Storage {
    /// Opens the files in `folder`, with `cache_bytes` of memory for blocks. Files that cannot be read are removed: the
    /// topics have all rows.
    pub(super) fn open(folder: &Path, cache_bytes: usize) -> Result<Self, TableError> {
        let name = || folder.display().to_string();
        create_folder(folder).map_err(|error| TableError::Folder { folder: name(), error })?;
        let open = || {
            let database = Database::builder(folder)
                // The other half is for the cache of rows.
                .cache_size((cache_bytes / 2) as u64)
                .max_journaling_size(JOURNAL_BYTES)
                .worker_threads(WORKER_THREADS)
                .open()?;
            let states = database.keyspace(STATES, KeyspaceCreateOptions::default)?;
            Ok(Self { database, states })
        };
        match open() {
            Ok(storage) => Ok(storage),
            Err(error) if !is_damage(&error) => Err(TableError::Open { folder: name(), error }),
            Err(error) => {
                // Not limited: once at the start.
                tracing::error!(folder = name(), %error, "the tables of attributes are damaged; they are built again");
                std::fs::remove_dir_all(folder)
                    .and_then(|()| create_folder(folder))
                    .map_err(|error| TableError::Folder { folder: name(), error })?;
                open().map_err(|error| TableError::Open { folder: name(), error })
            }
        }
    }
}

impl Table {
    pub(super) fn open(
        storage: &Storage,
        config: &AttributeTable,
        cache_bytes: usize,
        metrics: TableMetrics,
    ) -> Result<Self, TableError> {
        let AttributeTable { name, field, topic } = config;
        let rows = storage.database.keyspace(&format!("rows-{name}"), options);
        Ok(Self {
            rows: rows.map_err(|error| TableError::Storage { table: name.clone(), error })?,
            name: name.clone(),
            field: field.clone(),
            topic: topic.clone(),
            database: storage.database.clone(),
            states: storage.states.clone(),
            cache: RowCache::new(cache_bytes),
            metrics,
            status: TableStatus::default(),
            applied: watch::Sender::default(),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Context field whose value is the key.
    pub fn field(&self) -> &str {
        &self.field
    }

    pub fn topic(&self) -> &str {
        &self.topic
    }

    pub fn status(&self) -> &TableStatus {
        &self.status
    }

    pub(super) fn metrics(&self) -> &TableMetrics {
        &self.metrics
    }

    /// The row of this key. A row that cannot be read from disk is counted, logged, and treated as missing.
    pub fn get(&self, key: &str) -> Option<Arc<Row>> {
        if let Some(row) = self.cache.get(key) {
            self.metrics.looked_up(if row.is_some() { "cache" } else { "absent" });
            return row;
        }
        let changes = self.cache.changes();
        match self.read(key) {
            Ok(row) => {
                self.metrics.looked_up(if row.is_some() { "disk" } else { "absent" });
                let row = row.map(Arc::new);
                self.cache.insert(key, row.clone(), changes);
                row
            }
            Err(error) => {
                self.metrics.looked_up("failed");
                limited!(error, table = self.name, %error, "a row of attributes cannot be read from disk");
                self.status.read_failed(&error.to_string());
                None
            }
        }
    }

    fn read(&self, key: &str) -> Result<Option<Row>, fjall::Error> {
        if key.is_empty() || key.len() > super::MAX_KEY_BYTES {
            return Ok(None);
        }
        Ok(self.rows.get(key)?.and_then(|bytes| Row::decode(&bytes)))
    }

    /// The stored state. A state that cannot be read counts as none.
    pub(super) fn state(&self) -> Result<State, TableError> {
        let stored = self.states.get(&self.name).map_err(|error| self.failed(error))?;
        Ok(stored.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
    }

    /// Stores a state without rows.
    pub(super) fn store(&self, state: &State) -> Result<(), TableError> {
        self.apply(&mut state.clone(), &Changes::default())
    }

    /// Writes the rows of a batch together with the state behind it, whose number of rows is updated.
    pub(super) fn apply(&self, state: &mut State, changes: &Changes) -> Result<(), TableError> {
        let mut batch = self.database.batch();
        for (key, row) in changes {
            let key: &str = key;
            let was_there = self.rows.contains_key(key).map_err(|error| self.failed(error))?;
            match row {
                Some(row) => {
                    batch.insert(&self.rows, key, row.encode(state.epoch));
                    state.rows += u64::from(!was_there);
                }
                None if was_there => {
                    batch.remove(&self.rows, key);
                    state.rows -= 1;
                }
                None => {}
            }
        }
        self.commit(batch, state, changes.keys().map(|key| &**key))
    }

    fn commit<'k>(
        &self,
        mut batch: fjall::OwnedWriteBatch,
        state: &State,
        changed: impl Iterator<Item = &'k str>,
    ) -> Result<(), TableError> {
        let text = serde_json::to_vec(state)
            .map_err(|error| TableError::State { table: self.name.clone(), error })?;
        batch.insert(&self.states, self.name.as_str(), text);
        batch.commit().map_err(|error| self.failed(error))?;
        self.cache.forget(changed);
        self.metrics.rows.set(state.rows.cast_signed());
        self.applied.send_replace(Arc::new(state.offsets.clone()));
        Ok(())
    }

    /// Removes rows of earlier builds among the next `count` rows behind the key `after`. Returns the last key that was
    /// examined; `None` at the end of the table.
    pub(super) fn sweep(
        &self,
        state: &mut State,
        after: Option<&[u8]>,
        count: usize,
    ) -> Result<Option<Vec<u8>>, TableError> {
        let failed = |error| self.failed(error);
        let mut batch = self.database.batch();
        let (mut last, mut examined, mut removed) = (None, 0, Vec::new());
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        for entry in self.rows.range::<&[u8], _>((from, std::ops::Bound::Unbounded)).take(count) {
            let (key, value) = entry.into_inner().map_err(failed)?;
            if Row::epoch(&value) != Some(state.epoch) {
                batch.remove(&self.rows, key.clone());
                removed.push(String::from_utf8_lossy(&key).into_owned());
            }
            examined += 1;
            last = Some(key.to_vec());
        }
        state.rows = state.rows.saturating_sub(removed.len() as u64);
        let is_end = examined < count;
        state.is_swept |= is_end;
        self.commit(batch, state, removed.iter().map(String::as_str))?;
        Ok(last.filter(|_| !is_end))
    }

    /// Waits until the record at this position is in the table; `false` if it is not by `deadline`.
    pub async fn wait_for(&self, partition: i32, offset: i64, deadline: Instant) -> bool {
        let mut watched = self.applied.subscribe();
        let is_applied =
            |next: &Arc<BTreeMap<i32, i64>>| next.get(&partition).is_some_and(|next| *next > offset);
        timeout_at(deadline, watched.wait_for(is_applied)).await.is_ok_and(|applied| applied.is_ok())
    }

    fn failed(&self, error: fjall::Error) -> TableError {
        TableError::Storage { table: self.name.clone(), error }
    }
}

/// Whether the files are damaged, so that it does not help to open them again.
fn is_damage(error: &fjall::Error) -> bool {
    use std::io::ErrorKind;
    match error {
        fjall::Error::Locked => false,
        fjall::Error::Io(error) => {
            matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof | ErrorKind::InvalidData)
        }
        _ => true,
    }
}

/// Options of the rows: most lookups find a row, and the last level is the largest, so its index and filters may leave
/// the memory.
fn options() -> KeyspaceCreateOptions {
    let bloom = FilterPolicyEntry::Bloom(BloomConstructionPolicy::BitsPerKey(10.0));
    KeyspaceCreateOptions::default()
        .max_memtable_size(MEMTABLE_BYTES)
        .filter_policy(FilterPolicy::all(bloom))
        .index_block_pinning_policy(PinningPolicy::new([true, false]))
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("name", &self.name).field("topic", &self.topic).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "table/tests.rs"]
mod tests;
