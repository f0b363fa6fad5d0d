//! Tallies of the phases from counted rows: decides which users belong to the experiment, and which of them can be
//! compared with each other.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::assignment::{Assignment, DrawList};
use crate::results::Conversions;
use crate::{Design, Excluded, Kind, Phase, Sample, Stratum, Tally, VariantTally};

/// Users of one phase who saw the same variant first, and for whom it was chosen in the same way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    pub phase: u32,
    pub variant: String,
    /// Key of the assignment. `None`: it was not recorded.
    pub assignment: Option<i64>,
    pub seen: Seen,
}

/// Variants that a user has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    One,
    /// More than one variant in the phase.
    Crossed,
    /// One variant in the phase, and another one in an earlier phase.
    Changed,
}

/// Number of users of a group.
#[derive(Debug, Clone, PartialEq)]
pub struct UserLine {
    pub group: Group,
    pub users: u64,
    /// Number of these users whose window is over, for each of the design's metrics.
    pub finished: Vec<u64>,
}

/// Values of the users of a group who have any for a metric.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricLine {
    pub group: Group,
    /// Index among the design's metrics.
    pub metric: usize,
    /// Sample of these users only.
    pub sample: Sample,
}

/// Number of conversions of the users of a group.
#[derive(Debug, Clone, PartialEq)]
pub struct ConversionLine {
    pub group: Group,
    pub attributed: u64,
    pub before_exposure: u64,
    pub after_window: u64,
}

/// Counts from all rows of an experiment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counts {
    pub users: Vec<UserLine>,
    pub metrics: Vec<MetricLine>,
    pub conversions: Vec<ConversionLine>,
    /// Number of conversions of users without an exposure.
    pub waiting: u64,
}

/// Whether the users of a group are eligible for the comparison of variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eligibility {
    /// Index of the stratum in the tally.
    Stratum(usize),
    /// Reason why they are not eligible.
    Excluded(&'static str),
}

/// Returns the stratum of a group in the tally of its phase, or why the group has none.
pub fn eligibility(
    design: &Design,
    tally: &Tally,
    assignments: &BTreeMap<i64, Assignment>,
    group: &Group,
) -> Eligibility {
    match place(design, &tally.phase, assignments, group) {
        Place::Stratum(list) => {
            let known = tally.strata.iter().position(|stratum| stratum.list.is_like(&list));
            known.map_or(Eligibility::Excluded("unknown"), Eligibility::Stratum)
        }
        Place::Forced => Eligibility::Excluded("forced"),
        Place::Other => Eligibility::Excluded("other"),
        Place::Unknown => Eligibility::Excluded("unknown"),
        Place::Crossed => Eligibility::Excluded("crossed"),
    }
}

/// Whether a group belongs to the experiment.
enum Place {
    Stratum(DrawList),
    Forced,
    Other,
    Unknown,
    Crossed,
}

impl Counts {
    /// Builds the tally of each phase.
    pub fn tallies(
        &self,
        design: &Design,
        phases: Vec<Phase>,
        assignments: &BTreeMap<i64, Assignment>,
        counted_at: DateTime<Utc>,
    ) -> Vec<Tally> {
        let tally = |phase| self.tally(design, phase, assignments, counted_at);
        phases.into_iter().map(tally).collect()
    }

    /// Groups whose users are in this stratum and variant.
    pub fn groups(
        &self,
        design: &Design,
        phase: &Phase,
        assignments: &BTreeMap<i64, Assignment>,
        list: &DrawList,
        variant: &str,
    ) -> Vec<Group> {
        let of_phase = self.users.iter().map(|line| &line.group).filter(|group| group.phase == phase.number);
        let is_in = |group: &&Group| {
            let place = place(design, phase, assignments, group);
            group.variant == variant && matches!(place, Place::Stratum(found) if found.is_like(list))
        };
        of_phase.filter(is_in).cloned().collect()
    }

    /// Number of conversions by outcome.
    pub fn conversions(
        &self,
        design: &Design,
        phases: &[Phase],
        assignments: &BTreeMap<i64, Assignment>,
    ) -> Conversions {
        let mut counts = Conversions { waiting: self.waiting, ..Conversions::default() };
        for line in &self.conversions {
            let phase = phases.iter().find(|phase| phase.number == line.group.phase);
            let place = phase.map(|phase| place(design, phase, assignments, &line.group));
            if matches!(place, Some(Place::Stratum(_))) {
                counts.attributed += line.attributed;
                counts.before_exposure += line.before_exposure;
                counts.after_window += line.after_window;
            } else {
                counts.excluded += line.attributed + line.before_exposure + line.after_window;
            }
        }
        counts
    }

    fn tally(
        &self,
        design: &Design,
        phase: Phase,
        assignments: &BTreeMap<i64, Assignment>,
        counted_at: DateTime<Utc>,
    ) -> Tally {
        let mut strata: Vec<Stratum> = Vec::new();
        let mut excluded = Excluded::default();
        for line in self.users.iter().filter(|line| line.group.phase == phase.number) {
            let list = match place(design, &phase, assignments, &line.group) {
                Place::Stratum(list) => list,
                Place::Forced => {
                    excluded.forced += line.users;
                    continue;
                }
                Place::Other => {
                    excluded.other += line.users;
                    continue;
                }
                Place::Unknown => {
                    excluded.unknown += line.users;
                    continue;
                }
                Place::Crossed => {
                    excluded.crossed += line.users;
                    continue;
                }
            };
            let stratum = match strata.iter().position(|stratum| stratum.list.is_like(&list)) {
                Some(known) => known,
                None => {
                    let variants = phase.variants.iter().map(|variant| empty(design, &variant.name));
                    strata.push(Stratum { list: list.clone(), variants: variants.collect() });
                    strata.len() - 1
                }
            };
            if let Some(stratum) = strata.get_mut(stratum) {
                stratum.list.absorb(&list);
                self.add(design, line, stratum);
            }
        }
        // The order of the lines depends on the database.
        strata.sort_by(|a, b| a.list.rules.cmp(&b.list.rules).then(b.users().cmp(&a.users())));
        Tally { phase, counted_at, strata, excluded }
    }

    /// Adds a group to its variant in the stratum.
    fn add(&self, design: &Design, line: &UserLine, stratum: &mut Stratum) {
        let Some(variant) = stratum.variants.iter_mut().find(|of| of.variant == line.group.variant) else {
            return;
        };
        variant.users += line.users;
        match line.group.seen {
            Seen::One => {}
            Seen::Crossed => variant.crossed += line.users,
            Seen::Changed => variant.changed += line.users,
        }
        for (index, sample) in variant.samples.iter_mut().enumerate() {
            let finished = line.finished.get(index).copied().unwrap_or(line.users);
            let users = if design.finished_windows { finished } else { line.users };
            let of_metric = |of: &&MetricLine| of.metric == index && of.group == line.group;
            let valued = self.metrics.iter().find(of_metric).map(|of| of.sample).unwrap_or_default();
            let quantile = valued.quantile;
            // A quantile is that of the users with a value.
            let is_quantile = design.metrics.get(index).is_some_and(|metric| metric.kind == Kind::Quantile);
            let zeros = if is_quantile { 0 } else { users.saturating_sub(valued.users) };
            let valued = valued.with_zeros(zeros);
            *sample = sample.merged(&valued);
            sample.unfinished += line.users.saturating_sub(finished);
            sample.quantile = sample.quantile.or(quantile);
        }
    }
}

fn empty(design: &Design, variant: &str) -> VariantTally {
    VariantTally {
        variant: variant.to_owned(),
        users: 0,
        crossed: 0,
        changed: 0,
        samples: vec![Sample::default(); design.metrics.len()],
    }
}

fn place(design: &Design, phase: &Phase, assignments: &BTreeMap<i64, Assignment>, group: &Group) -> Place {
    let is_ours = |list: &DrawList| list.has(&design.control) && list.has(&group.variant);
    let known = group.assignment.and_then(|key| assignments.get(&key));
    let list = match known {
        Some(assignment) => match assignment.list() {
            Some(list) => list,
            None => return Place::Forced,
        },
        None => {
            // The flag's definition leaves only one way to this variant, or the way is not known.
            let mut lists = phase.lists.iter().filter(|list| list.has(&group.variant));
            let is_forced = phase.forced.contains(&group.variant);
            match (lists.next(), lists.next(), is_forced) {
                (Some(list), None, false) => list.clone(),
                (None, None, true) => return Place::Forced,
                (None, None, false) => return Place::Other,
                _ => return Place::Unknown,
            }
        }
    };
    // Without the control in any draw, all are shown, and the comparison reports what is missing.
    let without_control = !phase.lists.iter().any(|list| list.has(&design.control));
    if !is_ours(&list) && !without_control {
        return Place::Other;
    }
    if design.exclude_crossed && group.seen != Seen::One {
        return Place::Crossed;
    }
    Place::Stratum(list)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::assignment::Draws;
    use crate::phases::{Version, phases};
    use crate::sample_data::{experiment, start};

    const FLAG: &str = r#"{"strategies": [
        {"variants": [{"name": "new", "weight": 1000}]},
        {"variants": [{"name": "old", "weight": 500}, {"name": "new", "weight": 500}]},
        {"variants": [{"name": "x", "weight": 500}, {"name": "y", "weight": 500}]},
        {}], "variants": [{"name": "old", "weight": 900}, {"name": "new", "weight": 100}]}"#;

    fn counted(flag: &str, lines: &[(&str, Option<i64>, u64)]) -> Tally {
        let design = experiment(None).design;
        let version = Version { version: 1, draws: Draws::read(flag), in_force_at: start() };
        let phases = phases(&[version], &design.control, start(), None);
        let assignments = [
            (1, r#"{"how": "forced", "rule": 0, "weights": {"new": 1000}}"#),
            (2, r#"{"how": "drawn", "rule": 1, "weights": {"old": 500, "new": 500}}"#),
            (3, r#"{"how": "drawn", "rule": 2, "weights": {"x": 500, "y": 500}}"#),
            (4, r#"{"how": "drawn", "weights": {"old": 900, "new": 100}}"#),
            (5, r#"{"how": "drawn", "rule": 7, "weights": {"new": 1, "old": 1}}"#),
        ];
        let assignments =
            assignments.map(|(key, text)| (key, Assignment::read(text).unwrap())).into_iter().collect();
        let line = |(variant, assignment, users): &(&str, Option<i64>, u64)| UserLine {
            group: Group {
                phase: 1,
                variant: (*variant).to_owned(),
                assignment: *assignment,
                seen: Seen::One,
            },
            users: *users,
            finished: vec![*users; 3],
        };
        let counts = Counts { users: lines.iter().map(line).collect(), ..Counts::default() };
        counts.tallies(&design, phases, &assignments, start()).remove(0)
    }

    #[test]
    fn only_users_with_a_drawn_variant_are_compared_each_with_those_of_the_same_weights() {
        let tally = counted(
            FLAG,
            &[
                ("new", Some(1), 60),
                ("old", Some(2), 10),
                ("new", Some(2), 11),
                ("x", Some(3), 7),
                ("old", Some(4), 90),
                ("new", Some(4), 9),
                ("new", Some(5), 3),
                ("old", Some(99), 2),
                ("x", None, 1),
            ],
        );
        let names: Vec<_> = tally.phase.variants.iter().map(|variant| variant.name.as_str()).collect();
        assert_eq!(names, ["old", "new"], "x and y are never compared with old");
        let users = |at: usize| tally.strata[at].variants.iter().map(|of| of.users).collect::<Vec<_>>();
        assert_eq!((tally.strata.len(), users(0), users(1)), (2, vec![90, 9], vec![10, 14]));
        assert_eq!(tally.strata[1].list.rules, [1, 7]);
        assert_eq!(tally.excluded, Excluded { forced: 60, other: 8, unknown: 2, crossed: 0 });
    }

    #[test]
    fn what_was_not_recorded_is_derived_if_there_is_only_one_way() {
        let plain = r#"{"strategies": [{}], "variants": [{"name": "old", "weight": 1}, {"name": "new", "weight": 1}]}"#;
        let tally = counted(plain, &[("old", None, 10), ("new", None, 11), ("gone", None, 4)]);
        assert_eq!((tally.users(), tally.excluded.other), (21, 4));
        let tester = plain.replace("[{}]", r#"[{"variants": [{"name": "new", "weight": 1}]}, {}]"#);
        let tally = counted(&tester, &[("old", None, 10), ("new", None, 11)]);
        assert_eq!((tally.users(), tally.excluded.unknown), (10, 11), "new may be a tester's");
    }
}
