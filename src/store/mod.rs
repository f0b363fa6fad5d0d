//! The flag store of this instance: the snapshot in force, swapped atomically.
//!
//! Fed from the whole compacted definitions topic, started from disk when Kafka is unreachable.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::flag::Snapshot;

/// Readers call [`Store::load`] and never wait.
#[derive(Debug, Default)]
pub struct Store {
    snapshot: ArcSwap<Snapshot>,
}

impl Store {
    /// The snapshot in force.
    pub fn load(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// Puts a whole snapshot in force and calls the store ready.
    pub fn replace(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
    }

    /// Whether the store has all flags there were when it started (from Kafka or from disk).
    pub fn is_ready(&self) -> bool {
        unimplemented!()
    }
}
