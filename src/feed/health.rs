//! State of the feeder, which can be read at any time.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::refusal::Refused;

/// Maximum number of refused flags in the response of `/health`.
const REFUSED_SHOWN_MAX: usize = 100;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Another instance leads, or none does yet.
    #[default]
    Follower,
    /// This instance leads and is reading the definitions in force.
    Starting,
    Leader,
}

/// State of the feeder in this instance. Only the leader has information about the sources.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Health {
    pub role: Role,
    /// Reason why this instance last failed to lead or to publish; `None` after it has succeeded.
    pub failure: Option<String>,
    pub environments: BTreeMap<String, EnvironmentHealth>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct EnvironmentHealth {
    /// Time of the last response of the source that was accepted.
    pub last_success: Option<DateTime<Utc>>,
    /// Error of the last poll; `None` if it succeeded.
    pub error: Option<SourceError>,
    /// Number of deletions in a response that is held until a second one confirms it.
    pub held_deletions: usize,
    pub flags: usize,
    pub refused_total: usize,
    pub refused: Vec<Refused>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceError {
    pub reason: &'static str,
    pub message: String,
    pub since: DateTime<Utc>,
}

/// Shared view of the state, which only the feeder writes.
#[derive(Debug, Clone, Default)]
pub struct HealthView {
    current: Arc<ArcSwap<Health>>,
}

impl HealthView {
    pub fn load(&self) -> Arc<Health> {
        self.current.load_full()
    }

    /// Changes the state. Only the feeder's own task writes, so no update is lost between loading and
    /// storing.
    pub(super) fn update(&self, change: impl FnOnce(&mut Health)) {
        let mut health = Health::clone(&self.load());
        change(&mut health);
        self.current.store(Arc::new(health));
    }

    pub(super) fn edit(&self, environment: &str, change: impl FnOnce(&mut EnvironmentHealth)) {
        self.update(|health| change(health.environments.entry(environment.to_owned()).or_default()));
    }

    pub(super) fn environment(&self, name: &str) -> EnvironmentHealth {
        self.load().environments.get(name).cloned().unwrap_or_default()
    }
}

impl EnvironmentHealth {
    /// Sets the error. Returns whether its reason differs from the previous one, in which case it is logged.
    pub(super) fn fail(&mut self, reason: &'static str, message: String, now: DateTime<Utc>) -> bool {
        let before = self.error.take();
        let same = before.as_ref().is_some_and(|before| before.reason == reason);
        let since = before.filter(|_| same).map_or(now, |before| before.since);
        self.error = Some(SourceError { reason, message, since });
        !same
    }

    pub(super) fn set_refused<'r>(&mut self, refused: impl Iterator<Item = &'r Refused>) {
        self.refused = refused.cloned().collect();
        self.refused_total = self.refused.len();
        self.refused.truncate(REFUSED_SHOWN_MAX);
    }
}
