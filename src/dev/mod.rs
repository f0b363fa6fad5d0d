//! `flagstream dev`: everything embedded in one process, for development.
//!
//! An in-process broker ([`broker`]) with the topics in it, a flag file in place of Unleash ([`sample`]), the parts
//! that `run` would start, and a [`trickle`] of requests, so that there is something to see.
//!
//! Delivery is transactional, as in production: the mock broker knows the protocol, from fencing to offsets in the
//! transaction. What it lacks is isolation (a reader of committed records sees aborted ones too), so guarantees are
//! to be tested on real Kafka.

pub mod broker;
pub mod config;
pub mod sample;
pub mod trickle;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config::Config;
use crate::evaluate::{Evaluator, Parts};
use crate::feed::{Feeder, FileOrigin, Origin, Usage};
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;
use crate::store::{Reader, Store};

pub use broker::Broker;
pub use config::embed;

/// The flags of the file are expected in the store within this time.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// The running parts, in the order in which they are stopped.
#[derive(Debug)]
pub struct Running {
    pub parts: Parts,
    feeder: JoinHandle<anyhow::Result<()>>,
    evaluator: Evaluator,
    reader: Reader,
}

impl Running {
    /// Starts all parts on an embedded broker, with `flags` as the one source.
    pub fn start(config: Arc<Config>, flags: PathBuf) -> anyhow::Result<Self> {
        forget_former_run(&config.state_dir)?;
        let parts = Parts {
            store: Arc::new(Store::default()),
            metrics: Metrics::new(),
            usage: Arc::new(Usage::default()),
            shutdown: Shutdown::new(),
            config,
        };
        let environment = &parts.config.unleash.default_environment;
        parts.store.serve([environment.as_str()]);
        let origin = Origin::File(FileOrigin::new(environment, flags));
        let feeder = Feeder::new(
            Arc::clone(&parts.config),
            Arc::clone(&parts.metrics),
            vec![origin],
        );
        let feeder = tokio::spawn(feeder.run(parts.shutdown.clone()));
        let reader = Reader::start(
            Arc::clone(&parts.config),
            Arc::clone(&parts.store),
            Arc::clone(&parts.metrics),
            parts.shutdown.clone(),
        )?;
        let evaluator = Evaluator::start(&parts)?;
        Ok(Self {
            parts,
            feeder,
            evaluator,
            reader,
        })
    }

    /// Waits until the flags of the file are in force.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        let ready = self.parts.store.wait_until_ready(deadline).await;
        anyhow::ensure!(
            ready && self.parts.store.wait_for_version(1, deadline).await,
            "no flags within {READY_TIMEOUT:?}: {:?}",
            self.parts.store.standing().trouble
        );
        Ok(())
    }

    /// Whether a part ended by itself.
    pub fn has_failed(&self) -> bool {
        self.feeder.is_finished() || self.evaluator.has_failed() || self.reader.has_failed()
    }

    /// Stops all parts and waits for them.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.parts.shutdown.cancel();
        let Self {
            evaluator, reader, ..
        } = self;
        let threads = tokio::task::spawn_blocking(move || (evaluator.join(), reader.join()));
        self.feeder.await.context("the feeder broke down")??;
        let (evaluator, reader) = threads.await?;
        anyhow::ensure!(evaluator, "a worker broke down");
        anyhow::ensure!(reader, "the reader of definitions broke down");
        Ok(())
    }
}

/// The broker starts empty every time, and so does the store: else flags that were deleted meanwhile would linger.
fn forget_former_run(state_dir: &Path) -> io::Result<()> {
    match std::fs::remove_file(crate::store::disk::Disk::new(state_dir).path()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
