//! Saves snapshots to disk on a separate thread, because a sync may take long and the reader must not wait
//! for it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::info;

use crate::kafka::log_limit::limited;

use super::metrics::{OutcomeLabels, StoreMetrics};

use super::disk::{Disk, DiskSnapshot};

/// Minimum time between two saves.
pub(super) const SAVE_INTERVAL: Duration = Duration::from_secs(3);

/// Handle of the writing thread, with the time of the last save.
#[derive(Debug)]
pub(super) struct SnapshotWriter {
    jobs: SyncSender<DiskSnapshot>,
    thread: JoinHandle<()>,
    busy: Arc<AtomicBool>,
    last: Option<Instant>,
}

impl SnapshotWriter {
    pub(super) fn start(disk: Disk, metrics: Arc<StoreMetrics>) -> io::Result<Self> {
        let (jobs, received) = sync_channel(1);
        let busy = Arc::new(AtomicBool::new(false));
        let writing = Arc::clone(&busy);
        let thread = std::thread::Builder::new()
            .name("store-saver".to_owned())
            .spawn(move || write_all(&disk, &received, &writing, &metrics))?;
        Ok(Self { jobs, thread, busy, last: None })
    }

    /// Whether the next save is due and the thread is idle.
    pub(super) fn is_due(&self) -> bool {
        self.last.is_none_or(|last| last.elapsed() >= SAVE_INTERVAL) && !self.busy.load(Ordering::Acquire)
    }

    /// Sends a snapshot to the thread; `false` if the thread does not accept it.
    pub(super) fn save(&mut self, snapshot: DiskSnapshot) -> bool {
        self.last = Some(Instant::now());
        self.jobs.try_send(snapshot).is_ok()
    }

    /// Saves the remaining snapshot, waits until it is on disk, and ends the thread.
    pub(super) fn finish(self, left: Option<DiskSnapshot>) {
        if let Some(left) = left {
            // Sending fails only if the thread has ended.
            let _ = self.jobs.send(left);
        }
        drop(self.jobs);
        let _ = self.thread.join();
    }
}

fn write_all(disk: &Disk, jobs: &Receiver<DiskSnapshot>, busy: &AtomicBool, metrics: &StoreMetrics) {
    let path = disk.path().display();
    let mut failing = false;
    for snapshot in jobs {
        busy.store(true, Ordering::Release);
        let saved = disk.save(&snapshot);
        busy.store(false, Ordering::Release);
        let outcome = if saved.is_ok() { "ok" } else { "failed" };
        metrics.saves.get_or_create(&OutcomeLabels { outcome }).inc();
        match saved {
            Ok(()) if failing => info!(%path, "the snapshot can be saved again"),
            // Logged only once, because otherwise a full disk would fill the log too.
            Err(ref error) if !failing => {
                limited!(
                    warn,
                    %path,
                    %error,
                    "the snapshot cannot be saved; after a restart without Kafka, older flags would be \
                     in force",
                );
            }
            _ => {}
        }
        failing = saved.is_err();
    }
}
