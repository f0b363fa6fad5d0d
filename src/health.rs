//! The state of all parts of this process, for `/health` and readiness.
//!
//! A part either reports changes itself ([`Registry::reporter`]) or is polled at each observation
//! ([`Registry::probe`]).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};
use serde_json::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Starting,
    Up,
    /// Working, although a dependency is missing or something is late.
    Degraded,
    Down,
}

/// The report of a part about its own state.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub state: State,
    /// One sentence about the problem, or about what the part waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Additional data of the part: numbers and lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub more: Option<Value>,
    /// The process is not ready while this is `true`, even if readiness does not require the part otherwise.
    #[serde(skip)]
    pub blocks_ready: bool,
}

/// A part's report as `/health` returns it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartHealth {
    #[serde(flatten)]
    pub report: Report,
    /// Time at which the state was first observed.
    #[serde(serialize_with = "rfc3339")]
    pub since: DateTime<Utc>,
    pub required_for_ready: bool,
}

/// The response of `/health`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Overview {
    /// The worst state of the parts that readiness requires; `degraded` if only other parts have problems.
    pub status: State,
    pub ready: bool,
    pub version: &'static str,
    pub instance: String,
    /// Addresses of listeners and dependencies: `http`, `kafka`, …
    pub addresses: BTreeMap<&'static str, String>,
    pub parts: BTreeMap<&'static str, PartHealth>,
}

type Probe = Box<dyn Fn() -> Report + Send + Sync>;

struct HealthPart {
    probe: Probe,
    required: bool,
    last: Option<(State, DateTime<Utc>)>,
}

/// All parts of the process.
#[derive(Default)]
pub struct Registry {
    instance: String,
    parts: Mutex<BTreeMap<&'static str, HealthPart>>,
    addresses: Mutex<BTreeMap<&'static str, String>>,
    stopping: AtomicBool,
}

/// Reports the state of one part. Clones report for the same part.
#[derive(Debug, Clone)]
pub struct Reporter(Arc<Mutex<Report>>);

impl Registry {
    pub fn new(instance: impl Into<String>) -> Self {
        Self { instance: instance.into(), ..Self::default() }
    }

    /// Registers a part that reports by itself. Until its first report it is starting.
    pub fn reporter(&self, name: &'static str, required_for_ready: bool) -> Reporter {
        self.reporter_with(name, required_for_ready, |report| report)
    }

    /// Registers a part that reports by itself. `add` extends its report at each observation and must not block.
    pub fn reporter_with(
        &self,
        name: &'static str,
        required_for_ready: bool,
        add: impl Fn(Report) -> Report + Send + Sync + 'static,
    ) -> Reporter {
        let reporter = Reporter::detached();
        let report = Arc::clone(&reporter.0);
        self.probe(name, required_for_ready, move || add(lock(&report).clone()));
        reporter
    }

    /// Registers a part that is polled at each observation; `probe` must not block.
    pub fn probe(
        &self,
        name: &'static str,
        required_for_ready: bool,
        probe: impl Fn() -> Report + Send + Sync + 'static,
    ) {
        let entry = HealthPart { probe: Box::new(probe), required: required_for_ready, last: None };
        lock(&self.parts).insert(name, entry);
    }

    /// Records an address that `/health` returns.
    pub fn address(&self, name: &'static str, address: impl fmt::Display) {
        lock(&self.addresses).insert(name, address.to_string());
    }

    /// Observes all parts, so that `since` is precise even without requests to `/health`. To be called about once per
    /// second.
    pub fn observe(&self) {
        let now = Utc::now();
        lock(&self.parts).values_mut().for_each(|entry| {
            entry.look(now);
        });
    }

    /// Reports not ready from now on, because the process drains.
    pub fn stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Whether this process should receive traffic: every part that readiness requires works.
    pub fn is_ready(&self) -> bool {
        let parts = lock(&self.parts);
        let works = |entry: &HealthPart| {
            let report = (entry.probe)();
            !report.blocks_ready && (!entry.required || matches!(report.state, State::Up | State::Degraded))
        };
        // Without any part the process is still being built.
        !self.stopping.load(Ordering::Acquire) && !parts.is_empty() && parts.values().all(works)
    }

    pub fn overview(&self) -> Overview {
        let ready = self.is_ready();
        let now = Utc::now();
        let mut parts = lock(&self.parts);
        let parts: BTreeMap<_, _> = parts.iter_mut().map(|(name, entry)| (*name, entry.look(now))).collect();
        Overview {
            status: overall(parts.values()),
            ready,
            version: env!("CARGO_PKG_VERSION"),
            instance: self.instance.clone(),
            addresses: lock(&self.addresses).clone(),
            parts,
        }
    }
}

impl HealthPart {
    fn look(&mut self, now: DateTime<Utc>) -> PartHealth {
        let report = (self.probe)();
        let since = match self.last {
            Some((state, since)) if state == report.state => since,
            _ => now,
        };
        self.last = Some((report.state, since));
        let required_for_ready = self.required || report.blocks_ready;
        PartHealth { report, since, required_for_ready }
    }
}

fn overall<'p>(parts: impl Iterator<Item = &'p PartHealth> + Clone) -> State {
    let is = |state, part: &&PartHealth| part.required_for_ready && part.report.state == state;
    if parts.clone().any(|part| is(State::Down, &part)) {
        State::Down
    } else if parts.clone().any(|part| is(State::Starting, &part)) {
        State::Starting
    } else if parts.clone().any(|part| part.report.state != State::Up) {
        State::Degraded
    } else {
        State::Up
    }
}

impl Report {
    pub fn new(state: State) -> Self {
        Self { state, detail: None, more: None, blocks_ready: false }
    }

    #[must_use]
    pub fn detail(self, detail: impl fmt::Display) -> Self {
        Self { detail: Some(detail.to_string()), ..self }
    }

    #[must_use]
    pub fn more(self, more: impl Serialize) -> Self {
        Self { more: serde_json::to_value(more).ok(), ..self }
    }
}

impl Reporter {
    /// A reporter whose reports are never read.
    pub fn detached() -> Self {
        Self(Arc::new(Mutex::new(Report::new(State::Starting))))
    }

    pub fn set(&self, report: Report) {
        *lock(&self.0) = report;
    }

    /// The last report.
    pub fn report(&self) -> Report {
        lock(&self.0).clone()
    }

    pub fn up(&self) {
        self.set(Report::new(State::Up));
    }

    pub fn degraded(&self, detail: impl fmt::Display) {
        self.set(Report::new(State::Degraded).detail(detail));
    }

    pub fn down(&self, detail: impl fmt::Display) {
        self.set(Report::new(State::Down).detail(detail));
    }

    /// Reports that the part is not working yet; `detail` states what it waits for.
    pub fn starting(&self, detail: impl fmt::Display) {
        self.set(Report::new(State::Starting).detail(detail));
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("instance", &self.instance).finish_non_exhaustive()
    }
}

fn rfc3339<S: Serializer>(moment: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&moment.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// Recovers a poisoned lock, so that a part that panicked while reporting does not break health.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_all_required_parts_work_and_not_while_stopping() {
        let registry = Registry::new("i");
        assert!(!registry.is_ready(), "nothing is built yet");
        let store = registry.reporter("store", true);
        let unleash = registry.reporter("unleash", false);
        assert!(!registry.is_ready());
        store.up();
        unleash.down("connection refused");
        assert!(registry.is_ready());
        assert_eq!(registry.overview().status, State::Degraded);
        store.degraded("kafka is unreachable");
        assert!(registry.is_ready());
        unleash.set(Report { blocks_ready: true, ..Report::new(State::Degraded) });
        assert!(!registry.is_ready(), "a part that is not required may block readiness");
        assert!(registry.overview().parts["unleash"].required_for_ready);
        unleash.up();
        assert!(registry.is_ready());
        registry.stopping();
        assert!(!registry.is_ready());
    }

    #[test]
    fn the_overview_tells_the_worst_and_since_when() {
        let registry = Registry::new("i");
        let store = registry.reporter("store", true);
        registry.probe("feeder", false, || Report::new(State::Up).more([1]));
        registry.address("http", "127.0.0.1:1");
        let first = registry.overview();
        assert_eq!(first.status, State::Starting);
        store.down("gone");
        let second = registry.overview();
        assert_eq!(second.status, State::Down);
        assert!(second.parts["store"].since >= first.parts["store"].since);
        store.down("still gone");
        assert_eq!(registry.overview().parts["store"].since, second.parts["store"].since);
        assert_eq!(registry.overview().parts["feeder"].since, first.parts["feeder"].since);
        let json = serde_json::to_value(registry.overview()).unwrap_or_default();
        assert_eq!(json["parts"]["store"]["detail"], "still gone");
        assert_eq!(json["parts"]["feeder"]["more"][0], 1);
        assert_eq!(json["addresses"]["http"], "127.0.0.1:1");
    }
}
