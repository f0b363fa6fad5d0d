//! Health probes of the parts that do not report by themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::feed;
use crate::health::{Report, State};
use crate::redis_cache::CacheError;
use crate::store::Store;

/// Maximum number of flags named in a report's detail; the report's data contains all known ones.
const NAMED_MAX: usize = 10;

pub(super) fn store(store: &Store) -> Report {
    let status = store.status();
    let waits_for = status.waiting_for.join("; ");
    let report = match (&status.follow_error, status.ready) {
        (None, true) if status.refused_total > 0 => {
            let named: Vec<_> = status.refused.keys().take(NAMED_MAX).map(String::as_str).collect();
            let more = status.refused_total.saturating_sub(named.len());
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let detail =
                format!("definitions are refused or cannot be fully evaluated: {}{more}", named.join(", "));
            Report::new(State::Degraded).detail(detail)
        }
        (None, true) if status.missing > 0 => Report::new(State::Degraded).detail(format!(
            "{} flags and kill switches in force are missing in their topics; the leader rewrites them",
            status.missing
        )),
        (None, true) => Report::new(State::Up),
        (Some(follow_error), true) => Report::new(State::Degraded).detail(follow_error),
        (Some(follow_error), false) => Report::new(State::Starting).detail(follow_error),
        (None, false) if !waits_for.is_empty() => Report::new(State::Starting).detail(format!(
            "waiting for {waits_for}; FLAGSTREAM_FEED__START_WITHOUT_SOURCE=true starts without it"
        )),
        (None, false) => Report::new(State::Starting).detail("reading the definitions topic"),
    };
    report.more(&*status)
}

/// The state of this instance's feeder. Another instance may be the leader.
pub(super) fn feeder(health: &feed::Health) -> Report {
    let report = match &health.failure {
        None => Report::new(State::Up),
        Some(failure) => Report::new(State::Degraded).detail(failure),
    };
    report.more(health.role)
}

/// The state of the remote flag sources, as seen by the leader.
pub(super) fn unleash(health: &feed::Health, store: &Store) -> Report {
    sources(health, store, |name| name != feed::EVERYWHERE)
}

/// The state of the local flags, as seen by the leader.
pub(super) fn local_flags(health: &feed::Health, store: &Store) -> Report {
    sources(health, store, |name| name == feed::EVERYWHERE)
}

fn sources(health: &feed::Health, store: &Store, are_meant: impl Fn(&str) -> bool) -> Report {
    if health.role == feed::Role::Follower {
        return reported(store, are_meant);
    }
    let meant: BTreeMap<_, _> = health.environments.iter().filter(|(name, _)| are_meant(name)).collect();
    let failing = meant.iter().filter_map(|(name, environment)| {
        let error = environment.error.as_ref()?;
        Some(format!("{name}: {}", error.message))
    });
    let failing: Vec<_> = failing.collect();
    let refused = meant.iter().flat_map(|(name, environment)| {
        environment.refused.iter().map(move |refused| format!("{name}/{}", refused.flag))
    });
    let refused: Vec<_> = refused.take(NAMED_MAX).collect();
    judged(&failing, meant.len(), &refused).more(&meant)
}

/// The last report about the sources by the leader, which is another instance.
fn reported(store: &Store, are_meant: impl Fn(&str) -> bool) -> Report {
    let statuses = store.sources();
    let meant = statuses.values().filter(|status| are_meant(&status.environment));
    let meant: BTreeMap<_, _> = meant.map(|status| (status.environment.as_str(), status)).collect();
    if meant.is_empty() {
        return Report::new(State::Up)
            .detail("this instance does not poll the sources, and the leader has not reported yet");
    }
    let failing = meant.iter().filter_map(|(name, status)| {
        let error = status.error.as_ref()?;
        Some(format!("{name}: {} (reported by {})", error.message, status.leader))
    });
    let failing: Vec<_> = failing.collect();
    judged(&failing, meant.len(), &[]).more(&meant)
}

fn judged(failing: &[String], all: usize, refused: &[String]) -> Report {
    match failing.len() {
        0 if !refused.is_empty() => Report::new(State::Degraded).detail(format!(
            "definitions are refused, the last valid versions stay in force: {}",
            refused.join(", ")
        )),
        0 => Report::new(State::Up),
        failed if failed == all => Report::new(State::Down).detail(failing.join("; ")),
        _ => Report::new(State::Degraded).detail(failing.join("; ")),
    }
}

/// The state of the schema registry. At most degraded, because known schemas keep working without it.
pub(super) fn schema_registry(away: Option<Arc<str>>) -> Report {
    match away {
        None => Report::new(State::Up),
        Some(why) => Report::new(State::Degraded).detail(why),
    }
}

/// The state of Redis for the API.
pub(super) fn redis(follow_error: Option<CacheError>) -> Report {
    match follow_error {
        None => Report::new(State::Up),
        Some(follow_error) => Report::new(State::Degraded).detail(follow_error),
    }
}
