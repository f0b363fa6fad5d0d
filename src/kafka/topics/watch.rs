//! Looks after Kafka and its topics while the service runs.

use std::time::Duration;

use tokio::sync::watch;

use crate::config::Config;
use crate::health::Reporter;
use crate::shutdown::Shutdown;

use super::{Topics, TopicsError, unfit};

/// Between looks while something is wrong; it doubles up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// Between looks while all is well.
const CALM_PAUSE: Duration = Duration::from_secs(5);
/// For one answer. A broker that is slower than this has troubles of its own.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether the topics were once found fit for the service.
pub type Fit = watch::Receiver<bool>;

/// Looks at the topics until `shutdown` and reports what is wrong; once they are fit, `fit` is told.
pub async fn look_after(
    config: &Config,
    health: &Reporter,
    fit: watch::Sender<bool>,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let topics = Topics::new(config)?;
    let mut pause = MIN_PAUSE;
    let mut trouble = None;
    loop {
        let now = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            found = look(&topics, config) => found.err(),
        };
        tell(health, trouble.as_deref(), now.as_deref());
        if now.is_none() {
            fit.send_replace(true);
        }
        pause = match (&trouble, &now) {
            (_, None) => CALM_PAUSE,
            (None, Some(_)) => MIN_PAUSE,
            (Some(_), Some(_)) => (pause * 2).min(MAX_PAUSE),
        };
        trouble = now;
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Waits until the topics are fit. `false`: `shutdown` came first.
pub async fn wait_until_fit(mut fit: Fit, shutdown: &Shutdown) -> bool {
    tokio::select! {
        () = shutdown.cancelled() => false,
        fit = fit.wait_for(|fit| *fit) => fit.is_ok(),
    }
}

async fn look(topics: &Topics, config: &Config) -> Result<(), String> {
    let partitions = topics.partitions(LOOK_TIMEOUT).await.map_err(|error: TopicsError| error.to_string())?;
    unfit(&config.topics, |name| partitions.get(name).copied()).map_or(Ok(()), Err)
}

fn tell(health: &Reporter, before: Option<&str>, now: Option<&str>) {
    match now {
        None => health.up(),
        Some(trouble) => health.down(trouble),
    }
    match (before, now) {
        (before, Some(trouble)) if before != Some(trouble) => tracing::error!("{trouble}"),
        (Some(_), None) => tracing::info!("kafka and its topics are as needed"),
        _ => {}
    }
}
