//! Exposures: the first evaluation of a user under each version of an experiment's flag.
//!
//! An evaluation exposes its user if it found the flag on and selected a variant. Repetitions and retries lead to the
//! same exposure. A user who sees another variant under the same version has crossed over.

use std::time::{Duration, Instant};

use ahash::AHashMap;

use super::key::Key;

/// Maximum exposures that one writer remembers as already stored.
const KNOWN_MAX: usize = 500_000;
/// Time after which remembered exposures are dropped, because their rows may have been erased.
const KNOWN_FOR: Duration = Duration::from_secs(600);

/// Properties of an experiment that exposures need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    pub id: i64,
    pub environment: String,
    pub flag_name: String,
    /// Start in microseconds since 1970, like all times here.
    pub started_at: i64,
    pub stopped_at: Option<i64>,
}

/// Exposure of one user under one version of the flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposure {
    pub experiment_id: i64,
    pub user_key: Key,
    pub flag_version: i64,
    pub variant: String,
    pub exposed_at: i64,
    pub crossed: bool,
}

type ExposureId = (i64, Key, i64);

/// Exposures to be written, one per user and version.
#[derive(Debug, Default)]
pub struct Exposures(AHashMap<ExposureId, (String, i64, bool)>);

/// Exposures that are already stored and need not be written again.
#[derive(Debug, Default)]
pub struct KnownExposures {
    exposures: AHashMap<ExposureId, (String, i64)>,
    since: Option<Instant>,
}

impl Running {
    pub fn covers(&self, evaluated_at: i64) -> bool {
        self.started_at <= evaluated_at && self.stopped_at.is_none_or(|stopped| evaluated_at < stopped)
    }
}

impl Exposures {
    /// Adds one evaluation.
    pub fn add(&mut self, experiment: i64, user: Key, flag_version: i64, variant: &str, evaluated_at: i64) {
        let place = (experiment, user, flag_version);
        let Some((first, exposed_at, crossed)) = self.0.get_mut(&place) else {
            self.0.insert(place, (variant.to_owned(), evaluated_at, false));
            return;
        };
        *crossed |= first != variant;
        // For equal times the smaller variant name wins, so that every count selects the same one.
        if (evaluated_at, variant) < (*exposed_at, first.as_str()) {
            (*first, *exposed_at) = (variant.to_owned(), evaluated_at);
        }
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the exposures that add something to `known`, sorted in the order in which every writer locks them.
    pub fn unknown(self, known: &KnownExposures) -> Vec<Exposure> {
        let exposures = self.0.into_iter().filter(|(place, exposure)| !known.has(place, exposure));
        let mut exposures: Vec<Exposure> = exposures
            .map(|((experiment_id, user_key, flag_version), (variant, exposed_at, crossed))| Exposure {
                experiment_id,
                user_key,
                flag_version,
                variant,
                exposed_at,
                crossed,
            })
            .collect();
        let place = |exposure: &Exposure| (exposure.experiment_id, exposure.user_key, exposure.flag_version);
        exposures.sort_unstable_by_key(place);
        exposures
    }
}

impl KnownExposures {
    fn has(&self, place: &ExposureId, (variant, exposed_at, crossed): &(String, i64, bool)) -> bool {
        let known = self.exposures.get(place);
        !crossed && known.is_some_and(|(known, since)| known == variant && since <= exposed_at)
    }

    /// Remembers what was committed by `now`.
    pub fn note(&mut self, written: Vec<Exposure>, now: Instant) {
        let is_old = self.since.is_none_or(|since| now - since >= KNOWN_FOR);
        if is_old || self.exposures.len() + written.len() > KNOWN_MAX {
            self.exposures.clear();
            self.since = Some(now);
        }
        for Exposure { experiment_id, user_key, flag_version, variant, exposed_at, .. } in written {
            self.exposures.insert((experiment_id, user_key, flag_version), (variant, exposed_at));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::experiment::key::key;

    fn written(seen: &[(&str, i64, &str, i64)], known: &KnownExposures) -> Vec<(String, i64, bool)> {
        let mut exposures = Exposures::default();
        seen.iter().for_each(|(user, version, variant, at)| {
            exposures.add(1, key(user), *version, variant, *at);
        });
        let unknown = exposures.unknown(known);
        unknown
            .into_iter()
            .map(|exposure| (exposure.variant, exposure.exposed_at, exposure.crossed))
            .collect()
    }

    #[test]
    fn the_first_evaluation_counts_whatever_the_order() {
        let known = KnownExposures::default();
        let seen = [("u", 1, "a", 20), ("u", 1, "a", 10), ("u", 1, "b", 15)];
        assert_eq!(written(&seen, &known), [("a".to_owned(), 10, true)]);
        let seen = [("u", 1, "b", 10), ("u", 1, "a", 10)];
        assert_eq!(written(&seen, &known), [("a".to_owned(), 10, true)]);
        assert_eq!(written(&[("u", 1, "a", 1), ("u", 2, "b", 2)], &known).len(), 2);
    }

    #[test]
    fn what_is_known_is_written_again_only_if_it_says_more() {
        let mut known = KnownExposures::default();
        let exposure = |variant: &str, exposed_at| Exposure {
            experiment_id: 1,
            user_key: key("u"),
            flag_version: 1,
            variant: variant.to_owned(),
            exposed_at,
            crossed: false,
        };
        let noted = Instant::now();
        known.note(vec![exposure("a", 10)], noted);
        assert!(written(&[("u", 1, "a", 10), ("u", 1, "a", 99)], &known).is_empty());
        assert_eq!(written(&[("u", 1, "a", 9)], &known).len(), 1);
        assert_eq!(written(&[("u", 1, "b", 99)], &known).len(), 1);
        assert_eq!(written(&[("u", 1, "a", 99), ("u", 1, "b", 100)], &known).len(), 1);
        assert_eq!(written(&[("v", 1, "a", 99)], &known).len(), 1);
        known.note(Vec::new(), noted + KNOWN_FOR / 2);
        assert!(written(&[("u", 1, "a", 10)], &known).is_empty());
        known.note(Vec::new(), noted + KNOWN_FOR);
        assert_eq!(written(&[("u", 1, "a", 10)], &known).len(), 1);
    }

    #[test]
    fn an_experiment_covers_its_time_only() {
        let running = |stopped_at| Running {
            id: 1,
            environment: String::new(),
            flag_name: String::new(),
            started_at: 10,
            stopped_at,
        };
        assert!(!running(None).covers(9) && running(None).covers(10));
        assert!(running(Some(20)).covers(19) && !running(Some(20)).covers(20));
    }
}
