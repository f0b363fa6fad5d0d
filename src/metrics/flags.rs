//! Evaluations by flag, for the flags of `FLAGSTREAM_METRICS__FLAGS`. `flagstream_flag_…`.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::flag::CompiledFlag;

/// Maximum flags with a separate time series, counted per environment. All further flags are counted as `(other)`.
pub const COUNTED_FLAGS_MAX: usize = 1_000;

/// Common label of the flags beyond [`COUNTED_FLAGS_MAX`].
const OTHERS: &str = "(other)";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FlagLabels {
    pub environment: Arc<str>,
    pub flag: Arc<str>,
    pub enabled: &'static str,
}

/// Counters of the chosen flags. Without a choice nothing is counted.
#[derive(Debug, Default)]
pub struct FlagMetrics {
    evaluations: Family<FlagLabels, Counter>,
    chosen: OnceLock<ChosenFlags>,
    /// The flags that have series.
    known: Mutex<HashSet<FlagKey, ahash::RandomState>>,
}

/// Environment and name of a flag.
type FlagKey = (Arc<str>, Arc<str>);

/// Names of flags, and beginnings of names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChosenFlags {
    names: HashSet<String>,
    prefixes: Vec<String>,
}

impl ChosenFlags {
    /// Reads names; a name that ends in `*` stands for all names with this beginning.
    pub fn of(patterns: &[String]) -> Self {
        let mut chosen = Self::default();
        for pattern in patterns {
            match pattern.strip_suffix('*') {
                Some(prefix) => chosen.prefixes.push(prefix.to_owned()),
                None => drop(chosen.names.insert(pattern.clone())),
            }
        }
        chosen
    }

    fn contains(&self, name: &str) -> bool {
        self.names.contains(name) || self.prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()))
    }
}

impl FlagMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "Evaluations of the flags chosen by FLAGSTREAM_METRICS__FLAGS";
        registry.register("evaluations", help, metrics.evaluations.clone());
        metrics
    }

    /// Chooses the flags that are counted. Only the first call has an effect.
    pub fn choose(&self, patterns: &[String]) {
        if !patterns.is_empty() {
            let _ = self.chosen.set(ChosenFlags::of(patterns));
        }
    }

    /// Adds the evaluations of a batch in which the flag was enabled and not enabled.
    pub fn count(&self, flag: &CompiledFlag, yes: u64, no: u64) {
        if self.chosen.get().is_none_or(|chosen| !chosen.contains(&flag.name)) {
            return;
        }
        let name = self.label(&flag.environment, &flag.name);
        for (enabled, count) in [("true", yes), ("false", no)] {
            if count > 0 {
                let (environment, flag) = (Arc::clone(&flag.environment), Arc::clone(&name));
                self.evaluations.get_or_create(&FlagLabels { environment, flag, enabled }).inc_by(count);
            }
        }
    }

    fn label(&self, environment: &Arc<str>, name: &Arc<str>) -> Arc<str> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Arc::clone(environment), Arc::clone(name));
        if known.contains(&key) {
            return Arc::clone(name);
        }
        if known.len() >= COUNTED_FLAGS_MAX {
            return OTHERS.into();
        }
        known.insert(key);
        Arc::clone(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(metrics: &FlagMetrics, name: &str) -> Arc<str> {
        metrics.label(&"production".into(), &name.into())
    }

    #[test]
    fn names_and_prefixes_are_chosen() {
        let chosen = ChosenFlags::of(&["checkout".to_owned(), "team-*".to_owned()]);
        let counted: Vec<_> =
            ["checkout", "checkout-2", "team-a", "tea"].map(|name| chosen.contains(name)).into();
        assert_eq!(counted, [true, false, true, false]);
        assert!(ChosenFlags::of(&["*".to_owned()]).contains("any"));
    }

    #[test]
    fn flags_beyond_the_limit_share_one_name() {
        let metrics = FlagMetrics::default();
        for number in 0..COUNTED_FLAGS_MAX {
            assert_eq!(&*labels(&metrics, &format!("flag-{number}")), format!("flag-{number}"));
        }
        assert_eq!(&*labels(&metrics, "one-more"), OTHERS);
        assert_eq!(&*labels(&metrics, "flag-7"), "flag-7");
    }
}
