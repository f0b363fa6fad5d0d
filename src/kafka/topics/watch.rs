//! Monitors Kafka and its topics while the service runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::debug;

use crate::config::Config;
use crate::health::Reporter;
use crate::kafka::describe::Overview;
use crate::shutdown::Shutdown;

use super::{Topics, TopicsError, uneven, unfit};

/// Check interval after a problem was found; it doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(100);
/// Longest check interval after a problem was found.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// Check interval while the topics are fit.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Timeout of one request; a slower broker counts as unreachable.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// Interval of the checks of topic settings, which rarely change.
const POLICY_CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// The ids of our topics by name, as of the last check; empty before the first one. A topic that was created again has
/// a different id.
pub type TopicIds = watch::Receiver<Arc<BTreeMap<String, String>>>;

/// Whether the topics have been found fit for the service at least once.
pub type Fit = watch::Receiver<bool>;

/// A problem with the topics.
#[derive(Debug, Clone, PartialEq, Eq)]
enum TopicsFault {
    /// Requests cannot be answered.
    Unfit(String),
    /// Requests are answered, but some partitions are paused, or flags or kill switches will be lost.
    Partial(String),
}

/// Checks the topics, and caches what is not checked each time.
struct Watcher<'w> {
    topics: Topics,
    config: &'w Config,
    ids: watch::Sender<Arc<BTreeMap<String, String>>>,
    /// The reason why some partitions are paused.
    uneven: Option<String>,
    policies: Vec<String>,
    policies_at: Option<Instant>,
    is_embedded: bool,
}

/// Checks the topics until `shutdown` and reports problems to `health`. Sends `true` to `fit` once the topics are fit,
/// and the topics' ids to `ids` after each check.
pub async fn look_after(
    config: &Config,
    health: &Reporter,
    fit: watch::Sender<bool>,
    ids: watch::Sender<Arc<BTreeMap<String, String>>>,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let topics = Topics::new(config)?;
    let mut watcher = Watcher {
        topics,
        config,
        ids,
        uneven: None,
        policies: Vec::new(),
        policies_at: None,
        is_embedded: false,
    };
    let mut pause = MIN_BACKOFF;
    let mut trouble = None;
    loop {
        let unfit = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            found = watcher.look() => found.err(),
        };
        let is_fit = unfit.is_none();
        if is_fit {
            fit.send_replace(true);
        }
        let now = match unfit {
            Some(trouble) => Some(TopicsFault::Unfit(trouble)),
            None => tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = watcher.look_at_policies() => watcher.partial(),
            },
        };
        tell(health, trouble.as_ref(), now.as_ref());
        pause = match (matches!(trouble, Some(TopicsFault::Unfit(_))), is_fit) {
            (_, true) => CHECK_INTERVAL,
            (false, false) => MIN_BACKOFF,
            (true, false) => (pause * 2).min(MAX_BACKOFF),
        };
        trouble = now;
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Waits until the topics are fit. `false` if `shutdown` came first.
pub async fn wait_until_fit(mut fit: Fit, shutdown: &Shutdown) -> bool {
    tokio::select! {
        () = shutdown.cancelled() => false,
        fit = fit.wait_for(|fit| *fit) => fit.is_ok(),
    }
}

impl Watcher<'_> {
    /// Checks the topics. The error states why requests cannot be answered.
    async fn look(&mut self) -> Result<(), String> {
        let failed = |error: TopicsError| error.to_string();
        let Overview { topics: found, is_embedded, .. } =
            self.topics.describe(LOOK_TIMEOUT).await.map_err(failed)?;
        self.is_embedded = is_embedded;
        let ids = found.iter().map(|(name, topic)| (name.clone(), topic.id.clone())).collect();
        self.ids.send_if_modified(|before| {
            let is_new = **before != ids;
            if is_new {
                *before = Arc::new(ids);
            }
            is_new
        });
        let partitions = |name: &str| found.get(name).map(|topic| topic.partitions);
        self.uneven = uneven(&self.config.topics, partitions);
        unfit(&self.config.topics, partitions).map_or(Ok(()), Err)
    }

    /// Reads the topics' settings, but only once per minute while they are correct.
    async fn look_at_policies(&mut self) {
        let is_recent = self.policies_at.is_some_and(|at| at.elapsed() < POLICY_CHECK_INTERVAL);
        // The broker of `dev` has no topic settings.
        if !self.is_embedded && (!is_recent || !self.policies.is_empty()) {
            self.policies_at = Some(Instant::now());
            match self.topics.wrong_policies().await {
                Ok(policies) => self.policies = policies,
                // This user may not read them, or the broker just became unreachable, which the next check of the
                // topics reports.
                Err(error) => debug!(%error, "the settings of the topics cannot be read"),
            }
        }
    }

    fn partial(&self) -> Option<TopicsFault> {
        let texts: Vec<&str> = self.uneven.iter().chain(&self.policies).map(String::as_str).collect();
        (!texts.is_empty()).then(|| TopicsFault::Partial(texts.join("; ")))
    }
}

fn tell(health: &Reporter, before: Option<&TopicsFault>, now: Option<&TopicsFault>) {
    match now {
        None => health.up(),
        Some(TopicsFault::Unfit(trouble)) => health.down(trouble),
        Some(TopicsFault::Partial(trouble)) => health.degraded(trouble),
    }
    match (before, now) {
        (before, Some(trouble)) if before != Some(trouble) => {
            let (TopicsFault::Unfit(trouble) | TopicsFault::Partial(trouble)) = trouble;
            tracing::error!("{trouble}");
        }
        (Some(_), None) => tracing::info!("kafka and its topics are as needed"),
        _ => {}
    }
}
