//! Loading and saving of snapshots by the store updater.

use std::time::Duration;

use chrono::Utc;
use tracing::{info, warn};

use super::StoreUpdater;
use crate::definition_table::ApplyOutcome;
use crate::disk::{Disk, DiskSnapshot};
use crate::kafka::log_limit::limited;
use crate::snapshot_writer::SnapshotWriter;
use crate::status::LoadedFrom;

/// Time to wait for Kafka before the snapshot on disk counts as ready.
const DISK_WRITE_TIMEOUT: Duration = Duration::from_secs(5);

impl StoreUpdater {
    /// Starts from the snapshot on disk, if there is a valid one.
    pub(crate) fn load(&mut self, disk: &Disk) {
        let path = disk.path().display();
        match disk.load() {
            Ok(Some(snapshot)) => self.put_in_force(&snapshot, &path.to_string()),
            Ok(None) => {}
            // Not limited: once at the start.
            Err(error) => warn!(%path, %error, "the snapshot on disk cannot be read; starting without it"),
        }
    }

    /// Saves unsaved changes and stops the writer of snapshots.
    pub(crate) fn finish(self) {
        let left = (self.live && self.unsaved).then(|| self.disk_snapshot());
        if let Some(snapshot_writer) = self.snapshot_writer {
            snapshot_writer.finish(left);
        }
    }

    pub(super) fn save_now_and_then(&mut self) {
        if !(self.live && self.unsaved && self.snapshot_writer.as_ref().is_some_and(SnapshotWriter::is_due)) {
            return;
        }
        let snapshot = self.disk_snapshot();
        if let Some(snapshot_writer) = &mut self.snapshot_writer {
            self.unsaved = !snapshot_writer.save(snapshot);
        }
    }

    pub(super) fn trust_disk_in_time(&mut self) {
        if self.started.elapsed() >= DISK_WRITE_TIMEOUT {
            self.trust_disk("the topics in Kafka were not read in time");
        }
    }

    /// Marks the store as ready with the flags from the disk, unless a source has never been read completely.
    pub(super) fn trust_disk(&mut self, why: &str) {
        let status = self.store.status();
        if status.ready || status.loaded_from != LoadedFrom::Disk || !self.waiting_for().is_empty() {
            return;
        }
        let age = status.age(Utc::now()).unwrap_or_default();
        // Not limited: once at the start.
        warn!(why, age_seconds = age.as_secs(), "flags from the snapshot on disk are in force");
        self.store.set_status(|status| status.ready = true);
    }

    fn put_in_force(&mut self, snapshot: &DiskSnapshot, path: &str) {
        for (key, version) in &snapshot.saved.removed {
            self.table.remember_removed(key, *version);
        }
        for value in &snapshot.saved.switches {
            if let ApplyOutcome::Refused(key, refusal) = self.table.take_saved_switch(value) {
                limited!(
                    warn,
                    path,
                    key,
                    %refusal,
                    "a kill switch in the snapshot on disk is invalid; it is ignored",
                );
            }
        }
        self.store.switches.store(self.table.switches());
        let mut changes = Vec::with_capacity(snapshot.saved.values.len());
        for value in &snapshot.saved.values {
            match self.table.take_saved(value) {
                ApplyOutcome::Changed(change) => changes.push(change),
                ApplyOutcome::Refused(key, refusal) => {
                    limited!(
                        warn,
                        path,
                        key,
                        %refusal,
                        "a definition in the snapshot on disk is invalid; it is ignored",
                    )
                }
                ApplyOutcome::Same | ApplyOutcome::Stale => {}
            }
        }
        self.sources.restore(&snapshot.sources);
        self.offset = snapshot.offset;
        self.store.apply(changes);
        let (flags, saved_at) = (self.table.len(), snapshot.saved_at);
        info!(path, flags, %saved_at, offset = snapshot.offset, "snapshot loaded from disk");
        self.metrics.as_of.set(saved_at);
        self.store.set_status(|status| {
            status.loaded_from = LoadedFrom::Disk;
            status.as_of = Some(saved_at);
        });
        self.note_sums();
    }

    fn disk_snapshot(&self) -> DiskSnapshot {
        DiskSnapshot {
            saved_at: Utc::now(),
            topic: self.topic.clone(),
            offset: self.offset,
            saved: self.table.saved(),
            sources: self.sources.known().values().cloned().collect(),
        }
    }
}
