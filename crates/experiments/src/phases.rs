//! Phases of an experiment. A phase lasts as long as the flag's variants and their weights stay the same.

use chrono::{DateTime, Utc};

use super::assignment::{DrawList, Draws};
use super::tally::{Phase, Weighted};

/// A version of the flag.
#[derive(Debug, Clone, PartialEq)]
pub struct Version {
    pub version: u64,
    /// Draws of this version; none if the flag was deleted or selects no variant.
    pub draws: Draws,
    pub in_force_at: DateTime<Utc>,
}

/// Computes the phases of an experiment from all versions of its flag.
pub fn phases(
    versions: &[Version],
    control: &str,
    started_at: DateTime<Utc>,
    stopped_at: Option<DateTime<Utc>>,
) -> Vec<Phase> {
    let mut phases: Vec<Phase> = Vec::new();
    for version in versions {
        let Draws { lists, forced } = version.draws.clone().with(control);
        let variants = variants(&lists);
        let is_late = stopped_at.is_some_and(|stopped| version.in_force_at >= stopped);
        if variants.is_empty() || is_late {
            continue;
        }
        let first =
            Phase { number: 1, first_version: 0, started_at, ended_at: stopped_at, variants, lists, forced };
        match phases.last_mut() {
            None => phases.push(first),
            // The previous version was replaced before the experiment started, so this one defines the phase.
            Some(last) if version.in_force_at <= started_at => *last = first,
            Some(last) if same(&last.lists, &first.lists) => {
                let new: Vec<_> =
                    first.forced.into_iter().filter(|name| !last.forced.contains(name)).collect();
                last.forced.extend(new);
            }
            Some(last) => {
                last.ended_at = Some(version.in_force_at);
                let (number, first_version) = (last.number + 1, version.version);
                phases.push(Phase { number, first_version, started_at: version.in_force_at, ..first });
            }
        }
    }
    phases
}

/// Variants of a flag's draws. A weight is known only if there is a single draw.
pub fn variants(lists: &[DrawList]) -> Vec<Weighted> {
    let mut variants: Vec<Weighted> = Vec::new();
    for (name, weight) in lists.iter().flat_map(|list| &list.weights) {
        if !variants.iter().any(|known| known.name == *name) {
            let weight = (lists.len() == 1).then_some(*weight);
            variants.push(Weighted { name: name.clone(), weight });
        }
    }
    variants
}

/// Whether both have the same draws. Which rule has which does not matter.
fn same(lists: &[DrawList], others: &[DrawList]) -> bool {
    let has = |lists: &[DrawList], list: &DrawList| lists.iter().any(|other| other.is_like(list));
    lists.iter().all(|list| has(others, list)) && others.iter().all(|list| has(lists, list))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn version(version: u64, strategies: &[&str], at: i64) -> Version {
        let strategies: Vec<String> =
            strategies.iter().map(|variants| format!(r#"{{"variants": [{variants}]}}"#)).collect();
        let definition = format!(r#"{{"strategies": [{}], "variants": []}}"#, strategies.join(", "));
        Version {
            version,
            draws: Draws::read(&definition),
            in_force_at: DateTime::from_timestamp(at, 0).unwrap(),
        }
    }

    fn time(at: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(at, 0).unwrap()
    }

    const HALVES: &str = r#"{"name": "a", "weight": 500}, {"name": "b", "weight": 500}"#;
    const QUARTER: &str = r#"{"name": "a", "weight": 750}, {"name": "b", "weight": 250}"#;

    #[test]
    fn a_phase_lasts_as_long_as_the_weights() {
        let versions = [
            version(1, &[QUARTER], 0),
            version(2, &[HALVES], 10),
            version(3, &[HALVES], 30),
            version(4, &[], 35),
            version(5, &[QUARTER], 40),
            version(6, &[HALVES], 60),
        ];
        let found = phases(&versions, "a", time(20), Some(time(50)));
        let shown: Vec<_> =
            found.iter().map(|phase| (phase.number, phase.first_version, phase.started_at)).collect();
        assert_eq!(shown, [(1, 0, time(20)), (2, 5, time(40))]);
        let ended: Vec<_> = found.iter().map(|phase| phase.ended_at).collect();
        assert_eq!(ended, [Some(time(40)), Some(time(50))]);
        assert_eq!(found[0].variants[0], Weighted { name: "a".to_owned(), weight: Some(500.0) });
    }

    #[test]
    fn the_weights_of_each_rule_matter_and_their_order_does_not() {
        let tester = r#"{"name": "b", "weight": 1000}"#;
        let versions = [
            version(1, &[HALVES, QUARTER], 0),
            version(2, &[QUARTER, HALVES], 10),
            version(3, &[tester, QUARTER, HALVES], 20),
            version(4, &[QUARTER, QUARTER], 30),
        ];
        let found = phases(&versions, "a", time(0), None);
        assert_eq!(found.iter().map(|phase| phase.first_version).collect::<Vec<_>>(), [0, 4]);
        assert_eq!((found[0].forced.as_slice(), found[0].variants[0].weight), (&["b".to_owned()][..], None));
        assert_eq!(found[1].variants[0].weight, Some(750.0));
    }
}
