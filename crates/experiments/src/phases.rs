//! Phases of an experiment. A phase lasts as long as the flag's variants and their weights stay the same.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::tally::{Phase, Weighted};

/// A version of the flag.
#[derive(Debug, Clone, PartialEq)]
pub struct Version {
    pub version: u64,
    /// Variants of this version; empty if the flag was deleted or selects no variant.
    pub variants: Vec<Weighted>,
    pub in_force_at: DateTime<Utc>,
}

/// Computes the phases of an experiment from all versions of its flag.
pub fn phases(
    versions: &[Version],
    started_at: DateTime<Utc>,
    stopped_at: Option<DateTime<Utc>>,
) -> Vec<Phase> {
    let mut phases: Vec<Phase> = Vec::new();
    for version in versions {
        let variants = version.variants.clone();
        let is_late = stopped_at.is_some_and(|stopped| version.in_force_at >= stopped);
        if variants.is_empty() || is_late {
            continue;
        }
        let first = Phase { number: 1, first_version: 0, started_at, ended_at: stopped_at, variants };
        match phases.last_mut() {
            None => phases.push(first),
            // The previous version was replaced before the experiment started, so this one defines the phase.
            Some(last) if version.in_force_at <= started_at => *last = first,
            Some(last) if last.variants == first.variants => {}
            Some(last) => {
                last.ended_at = Some(version.in_force_at);
                let (number, first_version) = (last.number + 1, version.version);
                phases.push(Phase { number, first_version, started_at: version.in_force_at, ..first });
            }
        }
    }
    phases
}

/// Variants of a flag's definition. A weight is known only if all rules agree on it.
pub fn variants(definition: &str) -> Vec<Weighted> {
    let definition: Value = serde_json::from_str(definition).unwrap_or_default();
    let list = |place: &Value| weighted(place.get("variants"));
    let of_strategies =
        definition.get("strategies").and_then(Value::as_array).into_iter().flatten().map(list);
    // A single variant only carries a value; nothing is selected.
    let mut lists: Vec<Vec<Weighted>> =
        of_strategies.chain([list(&definition)]).filter(|list| list.len() > 1).collect();
    lists.dedup();
    let mut variants: Vec<Weighted> = Vec::new();
    let agreed = lists.len() == 1;
    for variant in lists.into_iter().flatten() {
        if !variants.iter().any(|known| known.name == variant.name) {
            variants.push(Weighted { weight: variant.weight.filter(|_| agreed), ..variant });
        }
    }
    variants
}

fn weighted(variants: Option<&Value>) -> Vec<Weighted> {
    let variants = variants.and_then(Value::as_array).into_iter().flatten();
    variants
        .filter_map(|variant| {
            let name = variant.get("name")?.as_str()?.to_owned();
            Some(Weighted { name, weight: variant.get("weight").and_then(Value::as_f64) })
        })
        // A variant with weight 0 is never selected.
        .filter(|variant| variant.weight != Some(0.0))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn version(version: u64, variants: &str, at: i64) -> Version {
        let definition = format!(r#"{{"strategies": [{{"variants": [{variants}]}}], "variants": []}}"#);
        Version {
            version,
            variants: super::variants(&definition),
            in_force_at: DateTime::from_timestamp(at, 0).unwrap(),
        }
    }

    const HALVES: &str = r#"{"name": "a", "weight": 500}, {"name": "b", "weight": 500}"#;
    const QUARTER: &str = r#"{"name": "a", "weight": 750}, {"name": "b", "weight": 250}"#;

    #[test]
    fn a_phase_lasts_as_long_as_the_weights() {
        let time = |at| DateTime::from_timestamp(at, 0).unwrap();
        let versions = [
            version(1, QUARTER, 0),
            version(2, HALVES, 10),
            version(3, HALVES, 30),
            version(4, "", 35),
            version(5, QUARTER, 40),
            version(6, HALVES, 60),
        ];
        let found = phases(&versions, time(20), Some(time(50)));
        let shown: Vec<_> =
            found.iter().map(|phase| (phase.number, phase.first_version, phase.started_at)).collect();
        assert_eq!(shown, [(1, 0, time(20)), (2, 5, time(40))]);
        let ended: Vec<_> = found.iter().map(|phase| phase.ended_at).collect();
        assert_eq!(ended, [Some(time(40)), Some(time(50))]);
        assert_eq!(found[0].variants[0], Weighted { name: "a".to_owned(), weight: Some(500.0) });
    }

    #[test]
    fn weights_are_known_where_all_rules_agree() {
        let two = |one: &str, other: &str| {
            let text = format!(r#"{{"strategies": [{{"variants": [{one}]}}, {{"variants": [{other}]}}]}}"#);
            variants(&text).into_iter().map(|variant| (variant.name, variant.weight)).collect::<Vec<_>>()
        };
        assert_eq!(two(HALVES, HALVES).len(), 2);
        assert_eq!(two(HALVES, r#"{"name": "sole", "weight": 1000}"#)[1], ("b".to_owned(), Some(500.0)));
        assert_eq!(two(HALVES, QUARTER), [("a".to_owned(), None), ("b".to_owned(), None)]);
        assert_eq!(variants("not JSON"), []);
    }
}
