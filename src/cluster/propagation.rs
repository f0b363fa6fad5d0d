//! Path of a change: seen at its source, written, in force on each instance, cached values invalidated.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::message::change::{Change, ChangeKind};
use crate::message::instance::InstanceReport;

use super::{Cluster, State};

/// Path of one change through all instances.
#[derive(Debug, Clone, Serialize)]
pub struct PropagationView {
    pub version: u64,
    pub environment: String,
    pub flag_name: String,
    pub event_type: ChangeKind,
    pub actor: String,
    /// Time at which the leader saw the change at its source.
    pub seen_at: Option<DateTime<Utc>>,
    /// Time at which the leader wrote the change to Kafka.
    pub committed_at: Option<DateTime<Utc>>,
    /// Instances that were running when the change was written.
    pub instances: Vec<InstanceArrival>,
    /// Instance on which the change came into force last, or is not in force yet; null without any.
    pub slowest: Option<InstanceArrival>,
    /// Time from which readers of Redis ignore older values; null without Redis, or while it is not reached.
    pub announced_at: Option<DateTime<Utc>>,
    /// Time at which the last raw key in Redis was correct.
    pub refreshed_at: Option<DateTime<Utc>>,
}

/// Arrival of a change on one instance.
#[derive(Debug, Clone, Serialize)]
pub struct InstanceArrival {
    pub instance: String,
    /// `in_force`, `waiting`, or `unknown`: in force, but the instance no longer reports since when.
    pub state: &'static str,
    pub in_force_at: Option<DateTime<Utc>>,
    /// Milliseconds since the change was written; for a waiting instance, until now.
    pub after_ms: Option<i64>,
}

/// Median and 99th percentile in milliseconds of each stage, over the changes that are remembered.
#[derive(Debug, Default, Serialize)]
pub struct PropagationStatistics {
    pub changes: usize,
    /// Time of the oldest change that is remembered; null without any.
    pub since: Option<DateTime<Utc>>,
    /// Statistics by stage: `seen_to_committed`, `committed_to_in_force` (on the slowest instance), `committed_to_announced`,
    /// `committed_to_refreshed`.
    pub stages: BTreeMap<&'static str, StageStatistics>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct StageStatistics {
    pub count: usize,
    pub p50_ms: i64,
    pub p99_ms: i64,
}

impl Cluster {
    /// Path of a change. `None`: it is unknown, or older than a day.
    pub fn propagation(&self, version: u64) -> Option<PropagationView> {
        let now = Utc::now();
        let reports = self.reports(now);
        let mut state = self.lock();
        state.take_own(&reports, now);
        let change = state.changes.get(&version)?;
        Some(state.view(change, &reports, now))
    }

    /// The latest changes that `may_see` allows, newest first, and the statistics of all of them.
    pub fn propagations(
        &self,
        limit: usize,
        may_see: impl Fn(&Change) -> bool,
    ) -> (Vec<PropagationView>, PropagationStatistics) {
        let now = Utc::now();
        let reports = self.reports(now);
        let mut state = self.lock();
        state.take_own(&reports, now);
        let seen = state.changes.values().rev().filter(|change| may_see(change));
        let all: Vec<PropagationView> = seen.map(|change| state.view(change, &reports, now)).collect();
        let statistics = statistics(&all);
        (all.into_iter().take(limit).collect(), statistics)
    }
}

impl State {
    /// Adds what this instance knows about itself and has not read back from Kafka yet.
    fn take_own(&mut self, reports: &BTreeMap<String, InstanceReport>, now: DateTime<Utc>) {
        for (instance, report) in reports {
            self.note_changes(instance, report);
        }
        self.forget(now);
    }

    fn view(
        &self,
        change: &Change,
        reports: &BTreeMap<String, InstanceReport>,
        now: DateTime<Utc>,
    ) -> PropagationView {
        let time = |text: &str| text.parse::<DateTime<Utc>>().ok();
        let (seen_at, committed_at) = (time(&change.changed_at), time(&change.published_at));
        let applied = self.applied.get(&change.version);
        let since =
            |at: DateTime<Utc>| committed_at.map(|committed| (at - committed).num_milliseconds().max(0));
        let running = reports.values().filter(|report| committed_at.is_none_or(|at| report.started_at <= at));
        let instances: Vec<InstanceArrival> = running
            .map(|report| {
                let at = applied.and_then(|applied| applied.get(&report.instance)).copied();
                let state = match at {
                    Some(_) => "in_force",
                    None if report.flags_version >= change.version => "unknown",
                    None => "waiting",
                };
                let after_ms = at.or((state == "waiting").then_some(now)).and_then(since);
                InstanceArrival { instance: report.instance.clone(), state, in_force_at: at, after_ms }
            })
            .collect();
        let slowest = instances.iter().max_by_key(|it| (it.state == "waiting", it.after_ms)).cloned();
        let warmed = self.warmed.get(&change.version);
        PropagationView {
            version: change.version,
            environment: change.environment.clone(),
            flag_name: change.flag_name.clone(),
            event_type: change.event_type,
            actor: change.actor.clone(),
            seen_at,
            committed_at,
            instances,
            slowest,
            announced_at: warmed.map(|(announced, _)| *announced),
            refreshed_at: warmed.and_then(|(_, refreshed)| *refreshed),
        }
    }
}

fn statistics(changes: &[PropagationView]) -> PropagationStatistics {
    let mut stages: BTreeMap<&'static str, Vec<i64>> = BTreeMap::new();
    for change in changes {
        let Some(committed) = change.committed_at else { continue };
        let since = |at: DateTime<Utc>| (at - committed).num_milliseconds().max(0);
        let mut add = |stage, ms: Option<i64>| stages.entry(stage).or_default().extend(ms);
        add("seen_to_committed", change.seen_at.map(|seen| (committed - seen).num_milliseconds().max(0)));
        let arrived = change.instances.iter().filter(|it| it.in_force_at.is_some());
        add("committed_to_in_force", arrived.filter_map(|it| it.after_ms).max());
        add("committed_to_announced", change.announced_at.map(since));
        add("committed_to_refreshed", change.refreshed_at.map(since));
    }
    stages.retain(|_, durations| !durations.is_empty());
    let summary = |(stage, mut durations): (&'static str, Vec<i64>)| {
        durations.sort_unstable();
        let at = |percent: usize| {
            let rank = (durations.len() * percent).div_ceil(100).max(1) - 1;
            durations.get(rank).copied().unwrap_or_default()
        };
        (stage, StageStatistics { count: durations.len(), p50_ms: at(50), p99_ms: at(99) })
    };
    PropagationStatistics {
        changes: changes.len(),
        since: changes.last().and_then(|oldest| oldest.committed_at),
        stages: stages.into_iter().map(summary).collect(),
    }
}
