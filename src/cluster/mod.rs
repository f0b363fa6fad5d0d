//! State of all instances: each writes a report to a compacted topic every few seconds, and those with
//! the role `api` read the reports of all.
//!
//! ```text
//!  health, metrics, store ──► reporter ──► feature-flag-instances ──► reader ──┐
//!  feature-flag-updates (changes of the last day) ────────────────► reader ──┴─► Cluster ──► /api/v1/cluster,
//!                                                                                            …/propagation
//! ```
//!
//! The reports serve people. Nothing in flagstream decides by them: an instance that cannot write or read them works
//! as before.

mod numbers;
mod propagation;
mod reader;
mod reporter;
mod view;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::AHashMap;
use chrono::{DateTime, TimeDelta, Utc};

use crate::message::change::Change;
use crate::message::instance::InstanceReport;

pub use propagation::{PropagationStatistics, PropagationView};
pub use reader::ClusterReader;
pub use reporter::{Reporting, TopicState};
pub use view::{Alarm, ClusterView, DependencyView, InstanceView};

/// Age at which a report is ignored: its instance was killed, or cannot reach Kafka.
pub const REPORT_MAX_AGE: TimeDelta = TimeDelta::seconds(30);
/// Age at which an instance is shown as silent. It writes a report every [`reporter::REPORT_INTERVAL`].
const SILENT_AGE: TimeDelta = TimeDelta::seconds(12);
/// Maximum instances that are remembered.
const INSTANCES_MAX_COUNT: usize = 1_000;
/// Maximum changes that are remembered.
const CHANGES_MAX_COUNT: usize = 2_000;
/// Time for which changes are remembered.
const CHANGES_MAX_AGE: TimeDelta = TimeDelta::hours(24);

/// Latest reports of all instances, and the latest changes of flags.
#[derive(Debug)]
pub struct Cluster {
    /// Report of this instance, created on demand, so that it is current even if Kafka is unreachable.
    own: Arc<Reporting>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    reports: BTreeMap<String, InstanceReport>,
    /// Changes by version.
    changes: BTreeMap<u64, Change>,
    /// Times at which a change came into force, by version and instance.
    applied: AHashMap<u64, BTreeMap<String, DateTime<Utc>>>,
    /// Times at which cached values were invalidated, by version.
    warmed: AHashMap<u64, (DateTime<Utc>, Option<DateTime<Utc>>)>,
    /// Reason why the reports cannot be read; `None` if they can.
    error: Option<String>,
}

impl Cluster {
    pub fn new(own: Arc<Reporting>) -> Arc<Self> {
        Arc::new(Self { own, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Report of this instance as it is now, and those of the others that are not too old.
    fn reports(&self, now: DateTime<Utc>) -> BTreeMap<String, InstanceReport> {
        let mut reports = self.lock().reports.clone();
        reports.retain(|_, report| now - report.reported_at < REPORT_MAX_AGE);
        // Rates are those of the last report, because the time since then may be too short.
        let numbers = reports.remove(self.own.instance()).map(|known| known.numbers);
        let own = self.own.report(now, numbers.unwrap_or_else(|| self.own.numbers(now)));
        reports.insert(own.instance.clone(), own);
        reports
    }

    fn failed(&self, error: Option<String>) {
        self.lock().error = error;
    }
}

impl State {
    /// Replaces the report of an instance. `None`: the instance has stopped.
    fn report(&mut self, instance: &str, report: Option<InstanceReport>, now: DateTime<Utc>) {
        let Some(report) = report else {
            self.reports.remove(instance);
            return;
        };
        self.note_changes(instance, &report);
        self.reports.retain(|_, report| now - report.reported_at < REPORT_MAX_AGE);
        if self.reports.len() < INSTANCES_MAX_COUNT || self.reports.contains_key(instance) {
            self.reports.insert(instance.to_owned(), report);
        }
        self.forget(now);
    }

    /// Remembers when changes came into force on an instance, and when it invalidated their cached values.
    fn note_changes(&mut self, instance: &str, report: &InstanceReport) {
        for change in &report.changes {
            self.applied.entry(change.version).or_default().entry(instance.to_owned()).or_insert(change.at);
        }
        for warmed in &report.warmed {
            let known = self.warmed.entry(warmed.version).or_insert((warmed.announced_at, None));
            known.1 = known.1.or(warmed.refreshed_at);
        }
    }

    fn change(&mut self, change: Change) {
        self.changes.insert(change.version, change);
        while self.changes.len() > CHANGES_MAX_COUNT {
            self.changes.pop_first();
        }
    }

    /// Removes what belongs to changes that are no longer shown.
    fn forget(&mut self, now: DateTime<Utc>) {
        // Versions are Unix milliseconds, or slightly ahead of them.
        let oldest = u64::try_from((now - CHANGES_MAX_AGE).timestamp_millis()).unwrap_or(0);
        self.changes.retain(|version, _| *version >= oldest);
        let first = self.changes.first_key_value().map_or(oldest, |(version, _)| *version);
        self.applied.retain(|version, _| *version >= first);
        self.warmed.retain(|version, _| *version >= first);
    }
}

#[cfg(test)]
mod tests;
