//! Reads the definitions topic into the store, on a thread of its own, until shutdown.
//!
//! Whatever is wrong with a session ends it; the next one reads the whole topic again, over the flags in force.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::Rng;
use tracing::warn;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;

use super::Store;
use super::disk::Disk;
use super::keeper::Keeper;
use super::session::Session;

const MIN_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// How often a pause looks at what else there is to do.
const PAUSE_STEP: Duration = Duration::from_millis(20);

/// The running reader.
#[derive(Debug)]
pub struct Reader {
    thread: JoinHandle<()>,
}

impl Reader {
    /// Starts the thread, which loads the snapshot on disk and then reads the topic.
    pub fn start(
        config: Arc<Config>,
        store: Arc<Store>,
        metrics: Arc<Metrics>,
        shutdown: Shutdown,
    ) -> io::Result<Self> {
        let environments = config.unleash.environments.iter();
        store.serve(environments.map(|environment| environment.name.as_str()));
        let disk = Disk::new(&config.state_dir);
        let mut keeper = Keeper::new(store, metrics, disk.clone(), &config.topics.definitions)?;
        let thread = std::thread::Builder::new().name("store-reader".to_owned()).spawn(move || {
            keeper.load(&disk);
            run(&config, &mut keeper, &shutdown);
            keeper.finish();
        })?;
        Ok(Self { thread })
    }

    /// Whether the reader ended although nobody asked it to.
    pub fn has_failed(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until the last snapshot is on disk. `false` if the reader panicked.
    pub fn join(self) -> bool {
        self.thread.join().is_ok()
    }
}

fn run(config: &Config, keeper: &mut Keeper, shutdown: &Shutdown) {
    let mut backoff = MIN_BACKOFF;
    let mut told = None;
    while !shutdown.is_cancelled() {
        let started = Instant::now();
        let session = Session::open(config).and_then(|session| session.run(keeper, shutdown));
        let Err(error) = session else { return };
        let error = error.to_string();
        // The same again is one line only, however long it lasts.
        if told.as_ref() != Some(&error) {
            warn!(%error, "definitions cannot be read: flags stay as they are");
            told = Some(error.clone());
        }
        keeper.trouble(error, true);
        if started.elapsed() > MAX_BACKOFF {
            (backoff, told) = (MIN_BACKOFF, None);
        }
        pause(backoff, keeper, shutdown);
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

fn pause(backoff: Duration, keeper: &mut Keeper, shutdown: &Shutdown) {
    let until = Instant::now() + backoff.mul_f64(rand::rng().random_range(0.5..1.0));
    while Instant::now() < until && !shutdown.is_cancelled() {
        keeper.tick();
        std::thread::sleep(PAUSE_STEP);
    }
}

#[cfg(test)]
mod tests;
