//! Reads the definitions topic into the store on its own thread until shutdown.
//!
//! Any error of a session ends it. The next session reads the whole topic again, while the flags stay in
//! force.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::metrics::StoreMetrics;
use crate::Shutdown;
use crate::kafka::KafkaConfig;
use crate::kafka::backoff::Backoff;
use crate::kafka::identity::TopicIds;
use crate::kafka::log_limit::limited;

use super::Store;
use super::disk::Disk;
use super::session::Session;
use super::sources::Expected;
use super::updater::StoreUpdater;

/// Delay before the first restart of a failed session; it doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(100);
/// Longest delay before the restart of a failed session.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// Interval of periodic work during a pause.
const PAUSE_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Configuration of the reader.
#[derive(Debug, Clone)]
pub struct ReaderConfig {
    pub kafka: KafkaConfig,
    /// Topic of definitions. `overrides` is the topic of kill switches.
    pub definitions: String,
    pub overrides: String,
    /// Environments that are served even if they have no flags.
    pub environments: Vec<String>,
    /// Directory of the snapshot; `None` if nothing is saved on disk.
    pub state_dir: Option<PathBuf>,
    /// Sources that the store waits for before it is ready.
    pub expected: Expected,
    /// Observed ids of the topics, to detect recreated topics; `None` if they are not observed.
    pub topic_ids: Option<TopicIds>,
}

/// Handle of the running reader.
#[derive(Debug)]
pub struct Reader {
    thread: JoinHandle<()>,
}

impl Reader {
    /// Starts the thread, which loads the snapshot on disk and then reads the topic.
    pub fn start(
        config: ReaderConfig,
        store: Arc<Store>,
        metrics: Arc<StoreMetrics>,
        shutdown: Shutdown,
    ) -> io::Result<Self> {
        store.serve(config.environments.iter().map(String::as_str));
        let disk = config.state_dir.as_deref().map(Disk::new);
        let expected = config.expected.clone();
        let mut updater = StoreUpdater::new(store, metrics, disk.clone(), &config.definitions, expected)?;
        let thread = std::thread::Builder::new().name("store-reader".to_owned()).spawn(move || {
            if let Some(disk) = disk {
                updater.load(&disk);
            }
            run(&config, &mut updater, &shutdown);
            updater.finish();
        })?;
        Ok(Self { thread })
    }

    /// Whether the reader ended without a shutdown.
    pub fn has_failed(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until the last snapshot is on disk; `false` if the reader panicked.
    pub fn join(self) -> bool {
        self.thread.join().is_ok()
    }
}

fn run(config: &ReaderConfig, updater: &mut StoreUpdater, shutdown: &Shutdown) {
    let mut backoff = Backoff::new(MIN_BACKOFF, MAX_BACKOFF);
    let mut told = None;
    while !shutdown.is_cancelled() {
        let started = Instant::now();
        let session = Session::open(config).and_then(|session| session.run(updater, shutdown));
        let Err(error) = session else { return };
        let error = error.to_string();
        // The same error is logged only once, however long it lasts.
        if told.as_ref() != Some(&error) {
            limited!(
                warn,
                key = &error,
                %error,
                "the definitions topic cannot be read; the flags in force do not change; retrying",
            );
            told = Some(error.clone());
        }
        updater.follow_error(error, true);
        if started.elapsed() > MAX_BACKOFF {
            backoff.reset();
            told = None;
        }
        pause(backoff.jittered(), updater, shutdown);
    }
}

fn pause(length: Duration, updater: &mut StoreUpdater, shutdown: &Shutdown) {
    let until = Instant::now() + length;
    while Instant::now() < until && !shutdown.is_cancelled() {
        updater.tick();
        std::thread::sleep(PAUSE_POLL_INTERVAL);
    }
}

#[cfg(test)]
mod tests;
