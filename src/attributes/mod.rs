//! Attributes: tables that complete the context of an evaluation with what callers do not know or must not say.
//!
//! ```text
//!  feature-flag-attributes (compacted, key = user id) ─► reader ─► table on disk ◄─ row cache
//!  … a topic for each further table (company, …) ──────► reader ─► table            │
//!                                                          │                        ▼
//!                         malformed rows ─► dead letters ◄─┘      join: context of a caller ─► completed context
//! ```
//!
//! Every path that evaluates completes the context by [`Attributes::joiner`], and evaluates exactly the context that its
//! event contains. The completed context is therefore all that a replay and the Redis cache need.

mod dead_letters;
mod edit;
mod join;
mod reader;
mod row;
mod row_cache;
mod state;
mod status;
mod table;
mod writer;

use std::sync::Arc;

use tokio::sync::watch;

use crate::config::{AttributesConfig, Config};
use crate::flag::context::SESSION_PROPERTY;
use crate::health::Report;
use crate::metrics::Metrics;
use crate::schema_registry::Formats;
use crate::shutdown::Shutdown;

pub use join::{Completed, Joined, Joiner, concern};
pub use reader::TableReaders;
pub use row::{MAX_KEY_BYTES, Row, check_key, check_row};
pub use state::RESUME_MAX_AGE;
pub use status::TableStatus;
pub use table::{Table, TableError};
pub use writer::{AttributeWriter, Placed, WriteError};

/// Name of the table that is keyed by the user id.
pub const USER_TABLE: &str = "user";

/// Names that are no attributes: fields of Unleash's context, and the member with its properties.
pub const RESERVED: [&str; 8] = [
    "userId",
    "sessionId",
    SESSION_PROPERTY,
    "environment",
    "appName",
    "currentTime",
    "remoteAddress",
    "properties",
];

/// Whether a name is a field of the context, and therefore no attribute.
pub fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name)
}

/// All tables of a process.
#[derive(Debug)]
pub struct Attributes {
    tables: Vec<Arc<Table>>,
    /// Attributes that only the tables may set.
    table_wins: Vec<String>,
    /// Whether every table has caught up with its topic once, or need not.
    caught_up: watch::Sender<bool>,
    max_row_bytes: usize,
}

impl Attributes {
    /// Opens the tables on disk; `None` if there are none in the configuration.
    pub fn open(config: &Config, metrics: &Metrics) -> Result<Option<Arc<Self>>, TableError> {
        let AttributesConfig { tables, table_wins, cache_bytes, max_row_bytes, start_behind } =
            &config.attributes;
        if tables.is_empty() {
            return Ok(None);
        }
        let storage = table::Storage::open(&config.state_dir.join("attributes"), *cache_bytes)?;
        let cache_bytes = cache_bytes / 2 / tables.len();
        let tables = tables.iter().map(|table| {
            Ok(Arc::new(Table::open(&storage, table, cache_bytes, metrics.attributes.of_table(&table.name))?))
        });
        Ok(Some(Arc::new(Self {
            tables: tables.collect::<Result<_, TableError>>()?,
            table_wins: table_wins.clone(),
            caught_up: watch::Sender::new(*start_behind),
            max_row_bytes: *max_row_bytes,
        })))
    }

    /// Starts the readers of all tables.
    pub fn start(
        self: &Arc<Self>,
        config: &Arc<Config>,
        formats: &Arc<Formats>,
        metrics: &Arc<Metrics>,
        shutdown: &Shutdown,
    ) -> std::io::Result<TableReaders> {
        TableReaders::start(self, config, formats, metrics, shutdown)
    }

    /// The table of this name.
    pub fn table(&self, name: &str) -> Option<&Arc<Table>> {
        self.tables.iter().find(|table| table.name() == name)
    }

    pub fn tables(&self) -> &[Arc<Table>] {
        &self.tables
    }

    /// Largest row in bytes.
    pub fn max_row_bytes(&self) -> usize {
        self.max_row_bytes
    }

    /// Whether only the tables may set this attribute.
    fn wins(&self, name: &str) -> bool {
        self.table_wins.iter().any(|known| known == name)
    }

    /// Whether the tables have caught up with their topics since the start of the process. It stays true afterwards.
    pub fn is_ready(&self) -> bool {
        *self.caught_up.borrow()
    }

    /// Checks whether all tables have caught up. To be called whenever one of them does.
    fn note_caught_up(&self) {
        if self.tables.iter().all(|table| table.status().has_caught_up()) {
            self.caught_up.send_if_modified(|ready| !std::mem::replace(ready, true));
        }
    }

    /// Waits until [`is_ready`](Self::is_ready); `false` if `shutdown` came first.
    pub async fn wait_until_ready(&self, shutdown: &Shutdown) -> bool {
        let mut watched = self.caught_up.subscribe();
        tokio::select! {
            () = shutdown.cancelled() => false,
            ready = watched.wait_for(|ready| *ready) => ready.is_ok(),
        }
    }

    /// The state of the tables for `/health`.
    pub fn report(&self) -> Report {
        status::report(&self.tables, self.is_ready())
    }
}
