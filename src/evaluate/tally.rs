//! Counters without contention: each worker counts locally and adds its counts to the metrics when a batch is
//! committed.
//!
//! The evaluations of an uncommitted batch are repeated and counted then, so that the counts of evaluated, published
//! and audited records agree.

use std::sync::Arc;
use std::time::Instant;

use ahash::AHashMap;

use crate::feed::usage::Usage;
use crate::flag::{Answer, CompiledFlag, Outcome, Reason, Variant};
use crate::log_limit::LogLimit;
use crate::metrics::{EnvironmentLabels, EvaluationLabels, Metrics};

/// Common label of all environments that this deployment does not serve. Callers choose those names, so they must not
/// become labels.
pub const UNSERVED: &str = "(unserved)";
const REASONS: [Reason; 4] = [Reason::TargetingMatch, Reason::Default, Reason::Disabled, Reason::Error];

/// One evaluation in this many is timed. A prime, so that no regular pattern of requests excludes a flag.
const TIMED_EVERY: u32 = 31;

/// The counts of one batch.
#[derive(Debug, Default)]
pub struct Tally {
    environments: Vec<EnvironmentCounts>,
    flags: AHashMap<usize, FlagCounts>,
    /// Evaluations that did not become events, by the index of their reason.
    unrecorded: [u64; UNRECORDED_REASONS],
    since_timed: u32,
}

/// Number of reasons for which an evaluation does not become an event.
pub const UNRECORDED_REASONS: usize = 4;

/// The evaluations of one environment.
#[derive(Debug)]
struct EnvironmentCounts {
    name: Arc<str>,
    /// Evaluations by the index of their reason.
    reasons: [u64; REASONS.len()],
    /// Evaluations that do not become events, because the tap does not audit them.
    unpublished: u64,
}

#[derive(Debug)]
struct FlagCounts {
    flag: Arc<CompiledFlag>,
    yes: u64,
    no: u64,
    variants: Vec<(Arc<str>, u64)>,
}

impl Tally {
    /// Returns the start time if this evaluation is one of the sampled ones. Timing all of them would be too expensive.
    pub fn stopwatch(&mut self) -> Option<Instant> {
        self.since_timed += 1;
        (self.since_timed >= TIMED_EVERY).then(|| {
            self.since_timed = 0;
            Instant::now()
        })
    }

    /// Counts one answer under its environment and reason.
    pub fn answer(&mut self, environment: Option<&Arc<str>>, answer: &Answer<'_>) {
        self.reason(environment, answer.reason);
    }

    /// Counts one answer with this reason.
    pub fn reason(&mut self, environment: Option<&Arc<str>>, reason: Reason) {
        self.count_answer(environment, reason, true);
    }

    /// Counts one answer that does not become an event.
    pub fn unpublished_answer(&mut self, environment: Option<&Arc<str>>, answer: &Answer<'_>) {
        self.count_answer(environment, answer.reason, false);
    }

    fn count_answer(&mut self, environment: Option<&Arc<str>>, answered: Reason, is_published: bool) {
        let slot = REASONS.iter().position(|reason| *reason == answered).unwrap_or_default();
        let label = environment.map_or(UNSERVED, |name| name);
        let known = self.environments.iter_mut().position(|counts| &*counts.name == label);
        let index = known.unwrap_or_else(|| {
            let (name, reasons, unpublished) = (label.into(), Default::default(), 0);
            self.environments.push(EnvironmentCounts { name, reasons, unpublished });
            self.environments.len() - 1
        });
        if let Some(counts) = self.environments.get_mut(index) {
            counts.unpublished += u64::from(!is_published);
            if let Some(count) = counts.reasons.get_mut(slot) {
                *count += 1;
            }
        }
    }

    /// Counts an evaluation that does not become an event, by the index of the reason.
    pub fn unrecorded(&mut self, reason: usize) {
        if let Some(count) = self.unrecorded.get_mut(reason) {
            *count += 1;
        }
    }

    /// Takes the counts of evaluations that did not become events.
    pub fn take_unrecorded(&mut self) -> [u64; UNRECORDED_REASONS] {
        std::mem::take(&mut self.unrecorded)
    }

    /// Counts enabled, disabled and the variant for Unleash's metrics.
    pub fn outcome(&mut self, outcome: &Outcome<'_>) {
        if let Some(parent) = outcome.unmet {
            log_unmet(outcome.flag, parent);
        }
        self.flag(outcome.flag, outcome.enabled, outcome.variant.map(|(_, variant)| variant));
    }

    /// Counts a cached outcome, given by the variant's name.
    pub fn kept(&mut self, flag: &Arc<CompiledFlag>, enabled: bool, variant: Option<&str>) {
        let variant = variant.and_then(|name| flag.variants().iter().find(|variant| &*variant.name == name));
        self.flag(flag, enabled, variant);
    }

    fn flag(&mut self, flag: &Arc<CompiledFlag>, enabled: bool, variant: Option<&Variant>) {
        let counts = self.flags.entry(Arc::as_ptr(flag) as usize).or_insert_with(|| FlagCounts {
            flag: Arc::clone(flag),
            yes: 0,
            no: 0,
            variants: Vec::new(),
        });
        counts.yes += u64::from(enabled);
        counts.no += u64::from(!enabled);
        let Some(variant) = variant else {
            return;
        };
        match counts.variants.iter_mut().find(|(name, _)| Arc::ptr_eq(name, &variant.name)) {
            Some((_, count)) => *count += 1,
            None => counts.variants.push((Arc::clone(&variant.name), 1)),
        }
    }

    /// Discards the counts of a batch that was not committed.
    pub fn clear(&mut self) {
        self.environments.clear();
        self.flags.clear();
    }

    /// Adds a committed batch to the process's metrics and to the usage reported to Unleash.
    pub fn commit(&mut self, path: &'static str, metrics: &Metrics, usage: &Usage) {
        for counts in &self.environments {
            let labels = EnvironmentLabels { environment: Arc::clone(&counts.name) };
            let published = counts.reasons.iter().sum::<u64>() - counts.unpublished;
            metrics.events_published.get_or_create(&labels).inc_by(published);
        }
        self.count(path, metrics, usage);
    }

    /// Adds the evaluations for callers of `path` to the metrics. Published events are counted elsewhere.
    pub fn count(&mut self, path: &'static str, metrics: &Metrics, usage: &Usage) {
        for EnvironmentCounts { name: environment, reasons, .. } in self.environments.drain(..) {
            for (reason, count) in REASONS.iter().zip(reasons).filter(|(_, count)| *count > 0) {
                let reason = reason.as_str();
                let labels = EvaluationLabels { path, reason, environment: Arc::clone(&environment) };
                metrics.evaluations.get_or_create(&labels).inc_by(count);
            }
        }
        for (_, counts) in self.flags.drain() {
            metrics.flags.count(&counts.flag, counts.yes, counts.no);
            let variants = counts.variants.iter().map(|(name, count)| (&**name, *count));
            usage.merge(&counts.flag.environment, &counts.flag.name, counts.yes, counts.no, variants);
        }
    }
}

/// Logs at most one line per minute for all flags together, because flags are evaluated several 100,000 times per
/// second.
fn log_unmet(flag: &CompiledFlag, parent: &str) {
    static LIMIT: LogLimit = LogLimit::new();
    if let Some(suppressed) = LIMIT.admit() {
        let (environment, flag) = (&*flag.environment, &*flag.name);
        tracing::warn!(
            suppressed,
            environment,
            flag,
            parent,
            "flag is off, because its parent flag does not have the required state"
        );
    }
}
