//! Writes the report of this instance, and its tombstone at the end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::{Instant, sleep_until, timeout};

use crate::config::Config;
use crate::evaluate::Parts;
use crate::health::{Registry, State as HealthState};
use crate::kafka::sender::Sender;
use crate::log_limit::LogLimit;
use crate::message::instance::{InstanceReport, Numbers, PartReport};
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;
use crate::store::Store;

use super::numbers::Reading;

/// Interval of the reports.
pub(super) const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// Delay of the report after a change came into force, so that changes that follow each other share one.
const CHANGE_DELAY: Duration = Duration::from_millis(500);
/// Timeout of the tombstone, so that a stop does not wait for an unreachable Kafka.
const TOMBSTONE_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest detail of a part, in characters.
const DETAIL_CHARS_MAX: usize = 300;

/// Whether the topic of the reports exists. A record for a missing topic could create it, with settings that do not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicState {
    /// Kafka has not been asked yet.
    Unknown,
    Missing,
    Exists,
}

/// Creates and writes the reports of this instance.
#[derive(Debug)]
pub struct Reporting {
    config: Arc<Config>,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    health: Arc<Registry>,
    roles: Vec<String>,
    started_at: DateTime<Utc>,
    /// Reading of the metrics at the last written report.
    last: Mutex<Option<Reading>>,
}

impl Reporting {
    /// Reports about the given parts of this process, which runs `roles`.
    pub fn of_parts(parts: &Parts, health: Arc<Registry>, roles: Vec<String>) -> Arc<Self> {
        let Parts { config, store, metrics, .. } = parts.clone();
        Self::new(config, store, metrics, health, roles)
    }

    pub(super) fn new(
        config: Arc<Config>,
        store: Arc<Store>,
        metrics: Arc<Metrics>,
        health: Arc<Registry>,
        roles: Vec<String>,
    ) -> Arc<Self> {
        let last = Mutex::default();
        Arc::new(Self { config, store, metrics, health, roles, started_at: Utc::now(), last })
    }

    /// Writes a report at each interval and after changes, until `shutdown`. Writes nothing while the topic is missing.
    pub async fn run(self: Arc<Self>, shutdown: Shutdown, topic: impl Fn() -> TopicState) {
        let sender = Sender::new(self.config.kafka.clone(), "instances");
        let (mut versions, failures) = (self.store.versions(), LogLimit::new());
        let mut next = Instant::now();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = sleep_until(next) => {}
                changed = versions.changed() => {
                    if changed.is_ok() {
                        next = next.min(Instant::now() + CHANGE_DELAY);
                        continue;
                    }
                }
            }
            let topic = topic();
            if topic == TopicState::Unknown {
                next = Instant::now() + CHANGE_DELAY;
                continue;
            }
            next = Instant::now() + REPORT_INTERVAL;
            let written = tokio::select! {
                () = shutdown.cancelled() => break,
                written = self.write(&sender, topic) => written,
            };
            if let Err(error) = written
                && let Some(suppressed) = failures.admit()
            {
                let topic = &self.config.topics.instances;
                tracing::warn!(
                    topic,
                    suppressed,
                    "the report of this instance cannot be written: {error:#}; other instances do not see it \
                     (`flagstream topics apply` creates the topic)"
                );
            }
        }
        if topic() != TopicState::Exists {
            return;
        }
        let deleted = sender.delete(&self.config.topics.instances, &self.config.instance);
        // Without the tombstone, the others ignore the last report after some seconds.
        let _ = timeout(TOMBSTONE_TIMEOUT, deleted).await;
    }

    async fn write(&self, sender: &Sender, topic: TopicState) -> anyhow::Result<()> {
        anyhow::ensure!(topic == TopicState::Exists, "the topic does not exist");
        let now = Utc::now();
        let reading = self.reading(now);
        let numbers = reading.since(self.last.lock().unwrap_or_else(PoisonError::into_inner).as_ref());
        let report = self.report(now, numbers);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(reading);
        let body = serde_json::to_vec(&report)?;
        sender.send(&self.config.topics.instances, &self.config.instance, &body, None).await?;
        Ok(())
    }

    fn reading(&self, now: DateTime<Utc>) -> Reading {
        Reading::of(&self.metrics.encode().unwrap_or_default(), now)
    }

    /// Name of this instance.
    pub(super) fn instance(&self) -> &str {
        &self.config.instance
    }

    /// Numbers as of now. Rates are those since the last written report.
    pub(super) fn numbers(&self, now: DateTime<Utc>) -> Numbers {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        self.reading(now).since(last.as_ref())
    }

    /// Report as of now, with these numbers.
    pub(super) fn report(&self, now: DateTime<Utc>, numbers: Numbers) -> InstanceReport {
        let overview = self.health.overview();
        let parts = overview.parts.iter().map(|(name, part)| {
            let shorten = |text: &String| text.chars().take(DETAIL_CHARS_MAX).collect();
            let part = PartReport {
                state: state_name(part.report.state).to_owned(),
                detail: part.report.detail.as_ref().map(shorten),
                since: part.since,
            };
            ((*name).to_owned(), part)
        });
        let (changes, warmed) = self.store.propagation().latest();
        InstanceReport {
            instance: self.config.instance.clone(),
            roles: self.roles.clone(),
            build: env!("CARGO_PKG_VERSION").to_owned(),
            address: self.config.http.listen.to_string(),
            started_at: self.started_at,
            reported_at: now,
            ready: overview.ready,
            status: state_name(overview.status).to_owned(),
            leader: self.metrics.feed.leader.get() > 0,
            flags_version: self.store.version(),
            parts: parts.collect(),
            numbers,
            changes,
            warmed,
        }
    }
}

fn state_name(state: HealthState) -> &'static str {
    match state {
        HealthState::Starting => "starting",
        HealthState::Up => "up",
        HealthState::Degraded => "degraded",
        HealthState::Down => "down",
    }
}
