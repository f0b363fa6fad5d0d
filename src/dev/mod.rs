//! `flagstream dev`: everything in one process, for development.
//!
//! An in-process broker ([`broker`], at a fixed port by `forward`) with the topics in it, or a real one that is named; a
//! flag file in place of Unleash ([`sample`]) for each environment; flags that can be changed over HTTP ([`local`]); the
//! parts that `run` would start; and a [`trickle`] of requests, so that there is something to see. [`kept`] carries kill
//! switches and definitions over a restart.
//!
//! Delivery is transactional, as in production: the mock broker knows the protocol, from fencing to offsets in the
//! transaction. What it lacks is isolation (a reader of committed records sees aborted ones too), so guarantees are
//! to be tested on real Kafka.

pub mod broker;
pub mod config;
mod forward;
pub mod kept;
pub mod local;
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

/// The environments that are served unless others are named.
pub const ENVIRONMENTS: [&str; 2] = ["development", "production"];

/// The flags of the file are expected in the store within this time.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts all parts, with the file `flags` as the source of every one of `environments`.
pub async fn start(
    config: Arc<Config>,
    flags: &Path,
    environments: &[String],
    topics: Topics,
) -> anyhow::Result<App> {
    forget_former_run(&config.state_dir)?;
    let origin = |environment: &String| Origin::File(FileOrigin::new(environment, PathBuf::from(flags)));
    let origins = environments.iter().map(origin).collect();
    // Without a Redis the warmer has nothing to write to.
    let roles = Role::BUILT.iter().copied();
    let roles: Vec<_> = roles.filter(|role| *role != Role::Warmer || config.redis.url.is_some()).collect();
    App::start(config, &roles, origins, topics).await
}

/// Waits until the flags of the file are in force.
pub async fn ready(store: &Store) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_TIMEOUT;
    // Ready means that every source was read, even if the file has no flag.
    let ready = store.wait_until_ready(deadline).await;
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
