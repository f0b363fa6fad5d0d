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

use tokio::time::Instant;

use crate::app::{App, Role, Topics};
use crate::config::Config;
use crate::feed::{FileOrigin, Origin};
use crate::store::Store;

pub use broker::Broker;
pub use config::embed;

/// The flags of the file are expected in the store within this time.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts all parts on an embedded broker, with `flags` as the one source.
pub async fn start(config: Arc<Config>, flags: PathBuf) -> anyhow::Result<App> {
    forget_former_run(&config.state_dir)?;
    let origin = Origin::File(FileOrigin::new(&config.unleash.default_environment, flags));
    App::start(config, Role::BUILT, vec![origin], Topics::Made).await
}

/// Waits until the flags of the file are in force.
pub async fn ready(store: &Store) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_TIMEOUT;
    let ready = store.wait_until_ready(deadline).await && store.wait_for_version(1, deadline).await;
    anyhow::ensure!(ready, "no flags within {READY_TIMEOUT:?}: {:?}", store.standing().trouble);
    Ok(())
}

/// The broker starts empty every time, and so does the store: else flags that were deleted meanwhile would linger.
fn forget_former_run(state_dir: &Path) -> io::Result<()> {
    match std::fs::remove_file(crate::store::disk::Disk::new(state_dir).path()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
