//! How the feeder is doing, for anyone to read at any time.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::refusal::Refused;

/// Part of a flag may be bad for good; the list in the answer of `/health` stays short.
const REFUSED_SHOWN_MAX: usize = 100;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Another instance leads, or none yet.
    #[default]
    Follower,
    /// Leads, and is reading what is in force.
    Starting,
    Leader,
}

/// The state of the feeder in this instance. Only the leader knows about the sources.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Health {
    pub role: Role,
    /// Why this instance last failed to lead or to publish; `None` once it did.
    pub failure: Option<String>,
    pub environments: BTreeMap<String, EnvironmentHealth>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct EnvironmentHealth {
    /// When the source last gave an answer that was believed.
    pub last_success: Option<DateTime<Utc>>,
    /// `None` when the last look was fine.
    pub error: Option<SourceError>,
    /// Deletions in an answer that was held for a second one that agrees.
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

/// Shared by the feeder, which writes, and everyone else.
#[derive(Debug, Clone, Default)]
pub struct HealthView {
    current: Arc<ArcSwap<Health>>,
}

impl HealthView {
    pub fn load(&self) -> Arc<Health> {
        self.current.load_full()
    }

    /// Only the feeder's own task writes: nothing is lost between reading and storing.
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
    /// Whether this is another failure than before: only then is it worth a line in the log.
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
