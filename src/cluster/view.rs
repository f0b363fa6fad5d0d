//! Overview of all instances, as `/api/v1/cluster` returns it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::message::instance::{InstanceReport, Numbers};

use super::{Cluster, SILENT_AGE};

/// Parts of an instance that stand for a system outside of flagstream, with their names in the overview.
const DEPENDENCIES: [(&str, &str); 6] = [
    ("kafka", "kafka"),
    ("database", "database"),
    ("redis", "redis"),
    ("unleash", "unleash"),
    ("local-flags", "local_flags"),
    ("schema-registry", "schema_registry"),
];
/// Lag in records from which it is an alarm.
const LAG_ALARM_RECORDS: u64 = 10_000;
/// Bytes of the spool from which it is an alarm.
const SPOOL_ALARM_BYTES: u64 = 1;

/// All instances, and the state of what they depend on.
#[derive(Debug, Serialize)]
pub struct ClusterView {
    pub instances: Vec<InstanceView>,
    /// Instance that publishes changes of flags; null while there is none.
    pub leader: Option<String>,
    /// Highest flags version in force on any instance.
    pub flags_version: u64,
    /// Whether that version is in force on every instance.
    pub in_force_everywhere: bool,
    /// State of each system that the instances depend on, in the worst case of all instances.
    pub dependencies: BTreeMap<&'static str, DependencyView>,
    /// Sums over all instances.
    pub totals: Numbers,
    /// Conditions that need attention, the most severe first.
    pub alarms: Vec<Alarm>,
    /// Instance that answers.
    pub answered_by: String,
    /// Reason why the reports of other instances cannot be read; null if they can.
    pub error: Option<String>,
}

/// One instance.
#[derive(Debug, Serialize)]
pub struct InstanceView {
    /// Age of the report in milliseconds.
    pub age_ms: i64,
    /// Whether the instance has missed its last reports.
    pub silent: bool,
    /// Whether the highest version is in force there.
    pub is_current: bool,
    #[serde(flatten)]
    pub report: InstanceReport,
}

/// State of a system outside of flagstream.
#[derive(Debug, Clone, Serialize)]
pub struct DependencyView {
    /// `up`, `starting`, `degraded` or `down`.
    pub state: String,
    pub detail: Option<String>,
    /// Instance that reports this state.
    pub reported_by: String,
}

/// A condition that needs attention.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alarm {
    /// `critical` or `warning`.
    pub severity: &'static str,
    pub text: String,
}

impl Cluster {
    /// Overview of all instances as of now.
    pub fn view(&self) -> ClusterView {
        let now = Utc::now();
        let reports: Vec<InstanceReport> = self.reports(now).into_values().collect();
        let flags_version = reports.iter().map(|report| report.flags_version).max().unwrap_or_default();
        let error = self.lock().error.clone();
        let dependencies = dependencies(&reports);
        let instances: Vec<InstanceView> =
            reports.into_iter().map(|report| instance(report, flags_version, now)).collect();
        ClusterView {
            leader: leader(&instances),
            flags_version,
            in_force_everywhere: instances.iter().all(|instance| instance.is_current),
            totals: totals(&instances),
            alarms: alarms(&instances, &dependencies, error.as_deref()),
            dependencies,
            instances,
            answered_by: self.own.instance().to_owned(),
            error,
        }
    }
}

fn instance(mut report: InstanceReport, flags_version: u64, now: DateTime<Utc>) -> InstanceView {
    // They are shown by change, not by instance.
    (report.changes, report.warmed) = (Vec::new(), Vec::new());
    let age = now - report.reported_at;
    InstanceView {
        age_ms: age.num_milliseconds(),
        silent: age > SILENT_AGE,
        is_current: report.flags_version == flags_version,
        report,
    }
}

/// The leader that reported last: a former leader may not have noticed yet that it was replaced.
fn leader(instances: &[InstanceView]) -> Option<String> {
    let leaders = instances.iter().filter(|instance| instance.report.leader);
    leaders.min_by_key(|instance| instance.age_ms).map(|instance| instance.report.instance.clone())
}

fn severity(state: &str) -> u8 {
    match state {
        "down" => 3,
        "degraded" => 2,
        "starting" => 1,
        _ => 0,
    }
}

fn dependencies(reports: &[InstanceReport]) -> BTreeMap<&'static str, DependencyView> {
    let mut worst: BTreeMap<&'static str, DependencyView> = BTreeMap::new();
    for report in reports {
        for (part, name) in DEPENDENCIES {
            let Some(seen) = report.parts.get(part) else { continue };
            if worst.get(name).is_none_or(|known| severity(&known.state) < severity(&seen.state)) {
                let (state, detail) = (seen.state.clone(), seen.detail.clone());
                worst.insert(name, DependencyView { state, detail, reported_by: report.instance.clone() });
            }
        }
    }
    worst
}

fn totals(instances: &[InstanceView]) -> Numbers {
    let mut totals = Numbers::default();
    for InstanceView { report: InstanceReport { numbers, .. }, .. } in instances {
        for (path, rate) in &numbers.evaluations_per_second {
            *totals.evaluations_per_second.entry(path.clone()).or_default() += rate;
        }
        totals.dead_letters_per_minute += numbers.dead_letters_per_minute;
        totals.dropped_per_minute += numbers.dropped_per_minute;
        totals.request_lag += numbers.request_lag;
        totals.audit_lag += numbers.audit_lag;
        totals.spool_bytes += numbers.spool_bytes;
        totals.stuck += numbers.stuck;
        // Every instance has the same kill switches.
        totals.killed = totals.killed.max(numbers.killed);
        for (name, quantiles) in &numbers.durations_ms {
            // The slowest instance, because quantiles cannot be added.
            let slowest = totals.durations_ms.entry(name.clone()).or_default();
            slowest.p50 = slowest.p50.max(quantiles.p50);
            slowest.p99 = slowest.p99.max(quantiles.p99);
        }
    }
    totals
}

fn alarms(
    instances: &[InstanceView],
    dependencies: &BTreeMap<&'static str, DependencyView>,
    error: Option<&str>,
) -> Vec<Alarm> {
    let mut alarms = Vec::new();
    let mut alarm = |severity: &'static str, text: String| alarms.push(Alarm { severity, text });
    for (name, seen) in dependencies {
        let detail = seen.detail.as_deref().map(|detail| format!(": {detail}")).unwrap_or_default();
        match seen.state.as_str() {
            "down" => alarm("critical", format!("{name} is down for {}{detail}", seen.reported_by)),
            "degraded" => alarm("warning", format!("{name} is degraded for {}{detail}", seen.reported_by)),
            _ => {}
        }
    }
    for instance in instances {
        let InstanceReport { instance: name, numbers, parts, .. } = &instance.report;
        if instance.silent {
            let seconds = instance.age_ms / 1_000;
            alarm(
                "critical",
                format!("{name} has not reported for {seconds} s: it is frozen, or has no Kafka"),
            );
        }
        let own = parts.iter().filter(|(part, _)| !DEPENDENCIES.iter().any(|(known, _)| known == part));
        for (part, seen) in own.filter(|(_, seen)| seen.state == "down") {
            let detail = seen.detail.as_deref().map(|detail| format!(": {detail}")).unwrap_or_default();
            alarm("critical", format!("{part} of {name} is down{detail}"));
        }
        if !instance.report.ready {
            alarm("warning", format!("{name} is not ready"));
        }
        if !instance.is_current {
            alarm("warning", format!("{name} does not have the latest flags in force"));
        }
        if numbers.stuck > 0 {
            alarm("critical", format!("{} partitions of {name} make no progress", numbers.stuck));
        }
        if numbers.request_lag >= LAG_ALARM_RECORDS {
            alarm("warning", format!("{} requests wait for {name}", numbers.request_lag));
        }
        if numbers.audit_lag >= LAG_ALARM_RECORDS {
            alarm("warning", format!("{} events wait for the audit sink of {name}", numbers.audit_lag));
        }
        if numbers.spool_bytes >= SPOOL_ALARM_BYTES {
            let bytes = numbers.spool_bytes;
            alarm(
                "warning",
                format!("{name} has {bytes} bytes of events on disk that Kafka does not have yet"),
            );
        }
    }
    if leader(instances).is_none() && instances.iter().any(|it| it.report.parts.contains_key("feeder")) {
        alarm(
            "warning",
            "no instance is the leader of the feeder: changes of flags are not published".to_owned(),
        );
    }
    if let Some(error) = error {
        alarm("warning", format!("the reports of the other instances cannot be read: {error}"));
    }
    alarms.sort_by_key(|alarm| alarm.severity != "critical");
    alarms
}

impl ClusterView {
    /// Removes the details of parts, and the alarms that repeat them.
    pub fn hide_details(&mut self) {
        for instance in &mut self.instances {
            instance.report.parts.values_mut().for_each(|part| part.detail = None);
        }
        self.dependencies.values_mut().for_each(|dependency| dependency.detail = None);
        self.alarms = alarms(&self.instances, &self.dependencies, None);
        self.error = None;
    }
}
