//! `flagstream dev`: everything in one process, for development.
//!
//! It starts an in-process broker ([`broker`], at a fixed port by `forward`) with the topics, or uses a given real one;
//! a flag file in place of Unleash ([`sample`]) for each environment; flags that can be changed over HTTP ([`local`]);
//! the parts that `run` would start; and sample requests ([`sample_traffic`]). [`persisted_topics`] preserves kill
//! switches and
//! definitions over a restart.
//!
//! Delivery is transactional, as in production: the mock broker implements the protocol, including fencing and offsets
//! in transactions. It lacks isolation (a consumer of committed records also sees aborted ones), so guarantees must be
//! tested on a real Kafka.

pub mod broker;
pub mod config;
mod forward;
pub mod local;
pub mod persisted_topics;
pub mod sample;
pub mod sample_traffic;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::app::{App, Role, Topics};
use crate::config::Config;
use crate::feed::{FileSource, FlagSource};
use crate::store::Store;

pub use broker::Broker;
pub use config::embed;

/// The environments that are served by default.
pub const ENVIRONMENTS: [&str; 2] = ["development", "production"];

/// Timeout for the flags of the file to be in force.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts all parts, with the file `flags` as the source of each of the `environments`.
pub async fn start(
    config: Arc<Config>,
    flags: &Path,
    environments: &[String],
    topics: Topics,
) -> anyhow::Result<App> {
    forget_former_run(&config.state_dir)?;
    let flag_source =
        |environment: &String| FlagSource::File(FileSource::new(environment, PathBuf::from(flags)));
    let flag_sources = environments.iter().map(flag_source).collect();
    // Without Redis the warmer has nothing to write to.
    let roles = Role::ALL.iter().copied();
    let roles: Vec<_> = roles.filter(|role| *role != Role::Warmer || config.redis.url.is_some()).collect();
    App::start(config, &roles, flag_sources, topics).await
}

/// Waits until the flags of the file are in force.
pub async fn ready(store: &Store) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_TIMEOUT;
    // The store is ready once every source was read, even if the file contains no flags.
    let ready = store.wait_until_ready(deadline).await;
    anyhow::ensure!(ready, "no flags within {READY_TIMEOUT:?}: {:?}", store.status().follow_error);
    Ok(())
}

/// Removes the snapshot of the previous run. The broker starts empty, so the store must too; otherwise deleted flags
/// would reappear.
fn forget_former_run(state_dir: &Path) -> io::Result<()> {
    match std::fs::remove_file(crate::store::disk::Disk::new(state_dir).path()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
