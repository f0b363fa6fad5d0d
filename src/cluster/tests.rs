//! Reports and changes as they arrive, without Kafka.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::*;
use crate::config::{Profile, load_from};
use crate::health::Registry;
use crate::message::change::ChangeKind;
use crate::message::instance::{AppliedChange, PartReport, WarmedChange};
use crate::metrics::Metrics;
use crate::store::Store;

fn cluster() -> Arc<Cluster> {
    let file = (Path::new("test.toml"), "instance = \"here\"\n");
    let config = Arc::new(load_from(Some(file), [], Profile::Service).unwrap().config);
    let health = Arc::new(Registry::new("here"));
    health.reporter("kafka", false).up();
    Cluster::new(Reporting::new(config, Arc::new(Store::default()), Metrics::new(), health, Vec::new()))
}

fn report(instance: &str, age_seconds: i64) -> InstanceReport {
    let now = Utc::now();
    InstanceReport {
        instance: instance.to_owned(),
        started_at: now - TimeDelta::hours(1),
        reported_at: now - TimeDelta::seconds(age_seconds),
        ready: true,
        status: "up".to_owned(),
        ..InstanceReport::default()
    }
}

fn take(cluster: &Cluster, report: InstanceReport) {
    let instance = report.instance.clone();
    cluster.lock().report(&instance, Some(report), Utc::now());
}

fn change(version: u64, at: DateTime<Utc>) -> Change {
    Change {
        event_type: ChangeKind::Updated,
        flag_name: "f".to_owned(),
        environment: "e".to_owned(),
        version,
        previous_version: None,
        changed_at: (at - TimeDelta::milliseconds(40)).to_rfc3339(),
        published_at: at.to_rfc3339(),
        actor: "ann".to_owned(),
    }
}

#[test]
fn an_instance_is_shown_until_it_stops_or_is_silent_for_too_long() {
    let cluster = cluster();
    take(&cluster, report("fresh", 1));
    take(&cluster, report("frozen", 20));
    take(&cluster, report("killed", 31));
    let shown = |cluster: &Cluster| -> Vec<(String, bool)> {
        let view = cluster.view();
        view.instances.into_iter().map(|it| (it.report.instance, it.silent)).collect()
    };
    let expected = [("fresh", false), ("frozen", true), ("here", false)];
    assert_eq!(shown(&cluster), expected.map(|(name, silent)| (name.to_owned(), silent)));
    let alarms = cluster.view().alarms;
    assert!(
        alarms[0].severity == "critical" && alarms[0].text.contains("frozen has not reported"),
        "{alarms:?}"
    );
    cluster.lock().report("fresh", None, Utc::now());
    assert_eq!(shown(&cluster).len(), 2, "a tombstone removes an instance at once");
}

#[test]
fn a_dependency_is_as_bad_as_the_worst_instance_says() {
    let cluster = cluster();
    let part = |state: &str| PartReport {
        state: state.to_owned(),
        detail: Some("gone".to_owned()),
        since: Utc::now(),
    };
    let parts = [("kafka".to_owned(), part("down")), ("database".to_owned(), part("up"))].into();
    take(&cluster, InstanceReport { parts, leader: true, flags_version: 9, ..report("other", 1) });
    let view = cluster.view();
    assert_eq!(view.dependencies["kafka"].state, "down");
    assert_eq!(view.dependencies["kafka"].reported_by, "other");
    assert_eq!(view.dependencies["database"].state, "up");
    assert_eq!((view.leader.as_deref(), view.flags_version), (Some("other"), 9));
    assert!(!view.in_force_everywhere, "this instance has no flags");
    assert!(view.alarms.iter().any(|alarm| alarm.text.contains("kafka is down for other: gone")));
}

#[test]
fn the_slowest_instance_of_a_change_is_the_one_that_still_waits() {
    let cluster = cluster();
    let written = Utc::now() - TimeDelta::seconds(2);
    let version = u64::try_from(written.timestamp_millis()).unwrap();
    let applied = |after| vec![AppliedChange { version, at: written + TimeDelta::milliseconds(after) }];
    let warmed = vec![WarmedChange {
        version,
        announced_at: written + TimeDelta::milliseconds(60),
        refreshed_at: Some(written + TimeDelta::milliseconds(90)),
    }];
    take(&cluster, InstanceReport { flags_version: version, changes: applied(30), warmed, ..report("a", 1) });
    take(&cluster, InstanceReport { flags_version: version, changes: applied(80), ..report("b", 1) });
    assert!(cluster.propagation(version).is_none(), "the change itself was not read yet");
    cluster.lock().change(change(version, written));
    let seen = cluster.propagation(version).unwrap();
    let slowest = seen.slowest.unwrap();
    assert_eq!((slowest.instance.as_str(), slowest.after_ms), ("b", Some(80)));
    assert_eq!(seen.instances.len(), 2, "this instance has started later");
    assert!(seen.announced_at < seen.refreshed_at);

    take(&cluster, InstanceReport { flags_version: version - 1, ..report("frozen", 20) });
    let slowest = cluster.propagation(version).unwrap().slowest.unwrap();
    assert_eq!((slowest.instance.as_str(), slowest.state, slowest.in_force_at), ("frozen", "waiting", None));
    assert!(slowest.after_ms.is_some_and(|ms| ms >= 2_000));

    let (changes, statistics) = cluster.propagations(10, |_| true);
    assert_eq!((changes.len(), statistics.changes), (1, 1));
    let stage = |name| statistics.stages[name].p99_ms;
    assert_eq!(
        ["seen_to_committed", "committed_to_in_force", "committed_to_announced", "committed_to_refreshed"]
            .map(stage),
        [40, 80, 60, 90]
    );
    assert_eq!(cluster.propagations(10, |_| false).0.len(), 0);
}

#[test]
fn what_is_remembered_is_bounded() {
    let cluster = cluster();
    let now = Utc::now();
    let first = u64::try_from((now - TimeDelta::hours(1)).timestamp_millis()).unwrap();
    let mut state = cluster.lock();
    for number in 0..CHANGES_MAX_COUNT as u64 + 10 {
        state.change(change(first + number, now));
    }
    state.change(change(1, now));
    for number in 0..INSTANCES_MAX_COUNT + 10 {
        let changes = vec![AppliedChange { version: 5, at: now }];
        let report = InstanceReport { changes, ..report(&format!("i-{number}"), 1) };
        let name = report.instance.clone();
        state.report(&name, Some(report), now);
    }
    assert_eq!(state.changes.len(), CHANGES_MAX_COUNT);
    assert_eq!(state.reports.len(), INSTANCES_MAX_COUNT);
    assert!(state.applied.is_empty(), "version 5 is much older than a day");
}
