//! Exposures: the first evaluation of a user under each version of an experiment's flag.
//!
//! An evaluation exposes its user if it found the flag on and selected a variant. Repetitions and retries lead to the
//! same exposure. A user who sees another variant under the same version has crossed over.

use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use ahash::{AHashMap, AHashSet};

use super::key::{Key, assignment_key};

/// Maximum exposures that one writer remembers as already stored.
const KNOWN_MAX: usize = 500_000;
/// Time after which remembered exposures are dropped, because their rows may have been erased.
const KNOWN_FOR: Duration = Duration::from_secs(600);
/// Maximum ways of choosing a variant in one batch. A definition has a few; the exposures of others count as unknown.
const ASSIGNMENTS_MAX: usize = 10_000;

/// Properties of an experiment that exposures need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    pub id: i64,
    pub name: String,
    pub environment: String,
    pub flag_name: String,
    /// Start in microseconds since 1970, like all times here.
    pub started_at: i64,
    pub stopped_at: Option<i64>,
    /// Attributes of the context by which the results are broken down.
    pub attributes: Vec<String>,
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
    /// Key of how the variant was chosen. `None`: the event does not contain it.
    pub assignment: Option<i64>,
    /// Position of the evaluation among those that were read.
    pub place: usize,
    /// Values of the attributes by which the results are broken down, as the JSON text of an object. `None`: there are
    /// none.
    pub attributes: Option<String>,
}

/// Variant that an evaluation showed to its user.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'e> {
    pub variant: &'e str,
    /// Choice of the variant, as JSON text.
    pub assignment: Option<&'e str>,
    pub evaluated_at: i64,
    /// Position of the evaluation among those that are read, by which its event is found again.
    pub place: usize,
    /// Values of attributes, as in [`Exposure`]. `None`: there are none, or they are read later by the position.
    pub attributes: Option<&'e str>,
}

/// First exposure of a user, and whether another variant was seen later.
#[derive(Debug)]
struct First {
    variant: String,
    exposed_at: i64,
    assignment: Option<i64>,
    crossed: bool,
    place: usize,
    attributes: Option<String>,
}

/// Key of an exposure: experiment, user and version of the flag.
pub(crate) type ExposureId = (i64, Key, i64);

/// Exposures to be written, one per user and version.
#[derive(Debug, Default)]
pub struct Exposures {
    firsts: AHashMap<ExposureId, First>,
    /// Texts of the assignments by experiment and key.
    assignments: AHashMap<(i64, i64), String>,
}

/// Choice of a variant, to be stored once per experiment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAssignment {
    pub experiment_id: i64,
    pub key: i64,
    pub text: String,
}

/// Exposures and assignments that are not stored yet.
#[derive(Debug, Default)]
pub struct NewExposures {
    pub exposures: Vec<Exposure>,
    pub assignments: Vec<StoredAssignment>,
}

/// Exposures that are already stored and need not be written again.
#[derive(Debug, Default)]
pub struct KnownExposures {
    exposures: AHashMap<ExposureId, (String, i64)>,
    assignments: AHashSet<(i64, i64)>,
    since: Option<Instant>,
}

impl Exposure {
    pub(crate) fn id(&self) -> ExposureId {
        (self.experiment_id, self.user_key, self.flag_version)
    }
}

impl Running {
    pub fn covers(&self, evaluated_at: i64) -> bool {
        self.started_at <= evaluated_at && self.stopped_at.is_none_or(|stopped| evaluated_at < stopped)
    }
}

impl Exposures {
    /// Adds one evaluation.
    pub fn add(&mut self, experiment: i64, user: Key, flag_version: i64, shown: Shown<'_>) {
        let assignment = shown.assignment.map(assignment_key);
        if let (Some(key), Some(text)) = (assignment, shown.assignment)
            && self.assignments.len() < ASSIGNMENTS_MAX
        {
            self.assignments.entry((experiment, key)).or_insert_with(|| text.to_owned());
        }
        let first = First {
            variant: shown.variant.to_owned(),
            exposed_at: shown.evaluated_at,
            assignment,
            crossed: false,
            place: shown.place,
            attributes: shown.attributes.map(str::to_owned),
        };
        let known = match self.firsts.entry((experiment, user, flag_version)) {
            Entry::Vacant(place) => {
                place.insert(first);
                return;
            }
            Entry::Occupied(known) => known.into_mut(),
        };
        known.crossed |= known.variant != first.variant;
        // For equal times the smaller variant name wins, so that every count selects the same one.
        if (first.exposed_at, &first.variant) < (known.exposed_at, &known.variant) {
            *known = First { crossed: known.crossed, ..first };
        }
    }

    pub fn len(&self) -> usize {
        self.firsts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.firsts.is_empty()
    }

    /// Returns the exposures that add something to `known`, sorted in the order in which every writer locks them.
    pub fn unknown(self, known: &KnownExposures) -> NewExposures {
        let exposures = self.firsts.into_iter().filter(|(place, first)| !known.has(place, first));
        let mut exposures: Vec<Exposure> = exposures
            .map(|((experiment_id, user_key, flag_version), first)| Exposure {
                experiment_id,
                user_key,
                flag_version,
                variant: first.variant,
                exposed_at: first.exposed_at,
                crossed: first.crossed,
                assignment: first.assignment,
                place: first.place,
                attributes: first.attributes,
            })
            .collect();
        exposures.sort_unstable_by_key(Exposure::id);
        let assignments =
            self.assignments.into_iter().filter(|(place, _)| !known.assignments.contains(place));
        let stored = |((experiment_id, key), text)| StoredAssignment { experiment_id, key, text };
        let mut assignments: Vec<StoredAssignment> = assignments.map(stored).collect();
        assignments.sort_unstable_by_key(|of| (of.experiment_id, of.key));
        NewExposures { exposures, assignments }
    }
}

impl KnownExposures {
    fn has(&self, place: &ExposureId, first: &First) -> bool {
        let known = self.exposures.get(place);
        !first.crossed
            && known.is_some_and(|(known, since)| *known == first.variant && *since <= first.exposed_at)
    }

    /// Remembers what was committed by `now`.
    pub fn note(&mut self, written: NewExposures, now: Instant) {
        let NewExposures { exposures: written, assignments } = written;
        let is_old = self.since.is_none_or(|since| now - since >= KNOWN_FOR);
        if is_old || self.exposures.len() + written.len() > KNOWN_MAX {
            self.exposures.clear();
            self.assignments.clear();
            self.since = Some(now);
        }
        for Exposure { experiment_id, user_key, flag_version, variant, exposed_at, .. } in written {
            self.exposures.insert((experiment_id, user_key, flag_version), (variant, exposed_at));
        }
        self.assignments.extend(assignments.iter().map(|of| (of.experiment_id, of.key)));
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
            let assignment = (*variant == "a").then_some(r#"{"how": "drawn"}"#);
            exposures.add(
                1,
                key(user),
                *version,
                Shown { variant, assignment, evaluated_at: *at, place: 0, attributes: None },
            );
        });
        let unknown = exposures.unknown(known);
        let is_recorded = |exposure: &Exposure| exposure.assignment.is_some() == (exposure.variant == "a");
        assert!(unknown.exposures.iter().all(is_recorded), "it belongs to the variant that counts");
        unknown
            .exposures
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
            assignment: None,
            place: 0,
            attributes: None,
        };
        let noted = Instant::now();
        let assignments = vec![StoredAssignment { experiment_id: 1, key: 7, text: String::new() }];
        known.note(NewExposures { exposures: vec![exposure("a", 10)], assignments }, noted);
        assert!(known.assignments.contains(&(1, 7)));
        assert!(written(&[("u", 1, "a", 10), ("u", 1, "a", 99)], &known).is_empty());
        assert_eq!(written(&[("u", 1, "a", 9)], &known).len(), 1);
        assert_eq!(written(&[("u", 1, "b", 99)], &known).len(), 1);
        assert_eq!(written(&[("u", 1, "a", 99), ("u", 1, "b", 100)], &known).len(), 1);
        assert_eq!(written(&[("v", 1, "a", 99)], &known).len(), 1);
        known.note(NewExposures::default(), noted + KNOWN_FOR / 2);
        assert!(written(&[("u", 1, "a", 10)], &known).is_empty());
        known.note(NewExposures::default(), noted + KNOWN_FOR);
        assert!(known.assignments.is_empty());
        assert_eq!(written(&[("u", 1, "a", 10)], &known).len(), 1);
    }

    #[test]
    fn an_experiment_covers_its_time_only() {
        let running = |stopped_at| Running {
            id: 1,
            name: String::new(),
            environment: String::new(),
            flag_name: String::new(),
            started_at: 10,
            stopped_at,
            attributes: Vec::new(),
        };
        assert!(!running(None).covers(9) && running(None).covers(10));
        assert!(running(Some(20)).covers(19) && !running(Some(20)).covers(20));
    }
}
