//! Monitors Kafka and its topics while the service runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::debug;

use crate::config::TopicsConfig;
use crate::health::Reporter;
use crate::kafka::KafkaConfig;
use crate::kafka::backoff::Backoff;
use crate::kafka::describe::Overview;
use crate::kafka::reach::{REACH_TIMEOUT, reach};
use crate::log_limit::limited;
use crate::shutdown::Shutdown;

use super::{Settings, Topics, TopicsError, uneven, unfit, unwritable, value, wrong_policies};

/// Check interval after a problem was found; it doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(100);
/// Longest check interval after a problem was found.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// Check interval while the topics are fit.
const CHECK_INTERVAL: Duration = Duration::from_secs(3);
/// Timeout of one request; a slower broker counts as unreachable.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// How long settings of topics that were read stay valid. They rarely change.
const SETTINGS_MAX_AGE: Duration = Duration::from_secs(15);

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
    kafka: &'w KafkaConfig,
    required: &'w TopicsConfig,
    ids: watch::Sender<Arc<BTreeMap<String, String>>>,
    /// The last description of the topics.
    found: Option<Overview>,
    settings: Settings,
    settings_at: Option<Instant>,
    /// Problems with the settings, or with the replicas that they require, at the last check.
    wrong: Vec<String>,
}

/// Checks the topics until `shutdown` and reports problems to `health`. Sends `true` to `fit` once the topics are fit,
/// and the topics' ids to `ids` after each check. `set_event_limit` gets the `max.message.bytes` of the events topic each
/// time that it is read.
pub async fn look_after(
    kafka: &KafkaConfig,
    required: &TopicsConfig,
    health: &Reporter,
    fit: watch::Sender<bool>,
    ids: watch::Sender<Arc<BTreeMap<String, String>>>,
    set_event_limit: impl Fn(usize),
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let topics = Topics::new(kafka, required)?;
    let mut watcher = Watcher {
        topics,
        kafka,
        required,
        ids,
        found: None,
        settings: Settings::new(),
        settings_at: None,
        wrong: Vec::new(),
    };
    let mut backoff = Backoff::new(MIN_BACKOFF, MAX_BACKOFF);
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
                () = watcher.look_at_settings() => watcher.partial(),
            },
        };
        if let Some(bytes) = watcher.event_limit() {
            set_event_limit(bytes);
        }
        tell(health, trouble.as_ref(), now.as_ref());
        let pause = if is_fit {
            backoff.reset();
            CHECK_INTERVAL
        } else {
            backoff.delay()
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
        let overview = match self.topics.describe(LOOK_TIMEOUT).await {
            Ok(overview) => overview,
            Err(error @ TopicsError::Unreachable { .. }) => {
                return Err(self.why_unreachable().await.unwrap_or_else(|| error.to_string()));
            }
            Err(error) => return Err(error.to_string()),
        };
        let ids = overview.topics.iter().map(|(name, topic)| (name.clone(), topic.id.clone())).collect();
        self.ids.send_if_modified(|before| {
            let is_new = **before != ids;
            if is_new {
                *before = Arc::new(ids);
            }
            is_new
        });
        let partitions = |name: &str| overview.topics.get(name).map(|topic| topic.partitions);
        let unfit = unfit(self.required, partitions);
        self.found = Some(overview);
        unfit.map_or(Ok(()), Err)
    }

    /// The reason why no broker can be used, such as refused credentials: a failed request reports only that there was no
    /// answer. `None` if a broker answers.
    async fn why_unreachable(&self) -> Option<String> {
        let (kafka, events) = (self.kafka.clone(), self.required.events.clone());
        let reached = tokio::task::spawn_blocking(move || reach(&kafka, &events, REACH_TIMEOUT)).await;
        reached.ok()?.err().map(|unreachable| unreachable.to_string())
    }

    /// Reads the topics' settings, but only sometimes while nothing is wrong with them.
    async fn look_at_settings(&mut self) {
        // The broker of `dev` has no topic settings.
        let Some(found) = self.found.as_ref().filter(|found| !found.is_embedded) else { return };
        let is_recent = self.settings_at.is_some_and(|at| at.elapsed() < SETTINGS_MAX_AGE);
        if !is_recent || !self.wrong.is_empty() {
            match self.topics.settings().await {
                Ok(settings) => (self.settings, self.settings_at) = (settings, Some(Instant::now())),
                // This user may not read them, or the broker just became unreachable, which the next check of the
                // topics reports.
                Err(error) => debug!(%error, "the settings of the topics cannot be read"),
            }
        }
        self.wrong = wrong_policies(self.required, &self.settings);
        self.wrong.extend(unwritable(found, &self.settings));
    }

    /// Size in bytes up to which the events topic accepts records; `None` if it is not known.
    fn event_limit(&self) -> Option<usize> {
        value(&self.settings, &self.required.events, "max.message.bytes")?.parse().ok()
    }

    fn partial(&self) -> Option<TopicsFault> {
        let found = self.found.as_ref()?;
        let uneven = uneven(self.required, |name| found.topics.get(name).map(|topic| topic.partitions));
        let texts: Vec<&str> = uneven.iter().chain(&self.wrong).map(String::as_str).collect();
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
            limited!(error, "{trouble}");
        }
        (Some(_), None) => tracing::info!("Kafka is reachable, and its topics are configured as required"),
        _ => {}
    }
}
