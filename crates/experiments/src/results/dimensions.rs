//! Results by the values of an attribute.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::statistics::Cuped;
use crate::{Design, Dimension, DimensionSource, Kind, Metric, Role, Tally};

use super::comparison::{Arms, Compared, Family, Level as TestLevel, compare, raw_p_value};
use super::phase::Counted;
use super::{Comparison, Level, Part};

/// Counts of a phase by the values of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub struct Breakdown {
    pub dimension: Dimension,
    /// Each level with the counts of its users, or of its conversions.
    pub levels: Vec<(DimensionLevel, Tally)>,
}

/// Users, or conversions, with the same value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DimensionLevel {
    pub kind: LevelKind,
    /// Value of the attribute. `None` unless the kind is `value`.
    pub value: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = DimensionLevelKind)]
pub enum LevelKind {
    /// A value that is among the most frequent ones.
    Value,
    /// All other values together.
    Other,
    /// No value.
    None,
}

/// Results of the current phase by the values of an attribute. They are hints: no conclusion is drawn from them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DimensionResults {
    /// Name of the attribute.
    pub name: String,
    pub source: DimensionSource,
    /// Levels, the most frequent first, then other and no values.
    pub levels: Vec<LevelResults>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LevelResults {
    #[serde(flatten)]
    pub level: DimensionLevel,
    /// Compared users. Of a dimension of conversions: all users.
    pub users: u64,
    pub metrics: Vec<LevelMetric>,
}

/// A metric among the users, or the conversions, of a level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LevelMetric {
    pub name: String,
    /// Levels in the order of the phase's variants.
    pub levels: Vec<Level>,
    /// Comparison of each treatment with the control. Intervals and p-values are corrected for the number of levels and
    /// treatments by Holm's method.
    pub comparisons: Vec<Comparison>,
}

/// A metric in one level, before it is compared.
struct Prepared {
    cuped: Option<Cuped>,
    /// Samples of each treatment and the control.
    treatments: Vec<(String, Option<Vec<Arms>>)>,
}

pub(super) fn results(design: &Design, breakdown: &Breakdown) -> DimensionResults {
    let counted: Vec<Counted<'_>> =
        breakdown.levels.iter().map(|(_, tally)| Counted { design, tally, users: tally.users() }).collect();
    let mut levels: Vec<LevelResults> = breakdown
        .levels
        .iter()
        .zip(&counted)
        .map(|((level, _), counted)| LevelResults {
            level: level.clone(),
            users: counted.users,
            metrics: Vec::new(),
        })
        .collect();
    // A quantile would need a pass of its own over the values of each level.
    let metrics = design.metrics.iter().enumerate().filter(|(_, metric)| metric.kind != Kind::Quantile);
    for (at, metric) in metrics {
        for (level, of_level) in levels.iter_mut().zip(of_metric(design, &counted, at, metric)) {
            level.metrics.push(of_level);
        }
    }
    let Dimension { name, source } = breakdown.dimension.clone();
    DimensionResults { name, source, levels }
}

/// Results of a metric in each level.
fn of_metric(design: &Design, counted: &[Counted<'_>], at: usize, metric: &Metric) -> Vec<LevelMetric> {
    let prepared: Vec<Prepared> =
        counted.iter().map(|counted| prepare(design, counted, at, metric)).collect();
    let comparisons: usize = prepared.iter().map(|of| of.treatments.len()).sum();
    let family = Family { comparisons: comparisons.max(1), ..Family::of(design, Role::Secondary, 1) };
    let boundary = family.level().boundary;
    let p_values: Vec<f64> = prepared
        .iter()
        .flat_map(|of| of.treatments.iter().map(|(_, arms)| (of.cuped.as_ref(), arms)))
        .map(|(cuped, arms)| raw_p_value(metric, cuped, arms.as_deref()?, &boundary))
        .map(|p_value| p_value.unwrap_or(1.0))
        .collect();
    let mut tests = family.holm(&p_values).into_iter();
    let level = |(counted, prepared): (&Counted<'_>, &Prepared)| LevelMetric {
        name: metric.name.clone(),
        levels: counted.levels(at, metric.kind),
        comparisons: prepared
            .treatments
            .iter()
            .map(|(name, arms)| {
                let test = tests.next().unwrap_or_else(|| family.level());
                comparison(metric, name, &test, prepared.cuped.as_ref(), arms.as_deref())
            })
            .collect(),
    };
    counted.iter().zip(&prepared).map(level).collect()
}

fn prepare(design: &Design, counted: &Counted<'_>, at: usize, metric: &Metric) -> Prepared {
    let treatments = counted.of_part(Part::Treatment).into_iter();
    let arms = |name: &str| counted.arms(at, &[&design.control], &[name]);
    Prepared {
        cuped: Cuped::of(&counted.all_samples(at), metric.kind),
        treatments: treatments.map(|name| (name.to_owned(), arms(name))).collect(),
    }
}

fn comparison(
    metric: &Metric,
    variant: &str,
    test: &TestLevel,
    cuped: Option<&Cuped>,
    arms: Option<&[Arms]>,
) -> Comparison {
    let (verdict, missing, rare, mut effect): Compared = match arms {
        Some(arms) => compare(metric, test, cuped, arms),
        None => super::comparison::without_control(),
    };
    // The plan of an experiment is about all users.
    if let Some(effect) = &mut effect {
        (effect.users_left, effect.seconds_left) = (None, None);
    }
    Comparison { variant: variant.to_owned(), verdict, missing, rare, effect }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::results::{Conversions, Results, Verdict};
    use crate::sample_data::{experiment, tally, variant};

    /// Results by levels with these purchases per thousand users, under the control and the treatment.
    fn broken_down(levels: &[(u64, u64, u64)]) -> DimensionResults {
        let level = |(index, (users, old, new)): (usize, &(u64, u64, u64))| {
            let level = DimensionLevel { kind: LevelKind::Value, value: Some(format!("level {index}")) };
            (level, tally(vec![variant("old", *users, *old, 5), variant("new", *users, *new, 5)]))
        };
        let dimension = Dimension { name: "plan".to_owned(), source: DimensionSource::Context };
        let levels: Vec<_> = levels.iter().enumerate().map(level).collect();
        let all = [tally(vec![variant("old", 9_000, 100, 5), variant("new", 9_000, 100, 5)])];
        let mut results = Results::of(experiment(None), &all, Conversions::default());
        assert!(results.phase.as_ref().unwrap().dimensions.is_empty());
        results.break_down(&[Breakdown { dimension, levels }]);
        results.phase.unwrap().dimensions.remove(0)
    }

    fn purchase(of: &DimensionResults, level: usize) -> &Comparison {
        &of.levels[level].metrics[0].comparisons[0]
    }

    #[test]
    fn each_level_is_compared_on_its_own() {
        let found = broken_down(&[(8_000, 100, 100), (4_000, 100, 160), (50, 100, 100)]);
        assert_eq!(found.levels.iter().map(|level| level.users).collect::<Vec<_>>(), [16_000, 8_000, 100]);
        let verdicts: Vec<Verdict> = (0..3).map(|level| purchase(&found, level).verdict).collect();
        assert_eq!(verdicts[1], Verdict::Better);
        assert_ne!(verdicts[0], Verdict::Better);
        assert!(purchase(&found, 2).missing.is_some() && purchase(&found, 2).effect.is_none());
        let level = &found.levels[1].metrics[0].levels[1];
        assert_eq!((level.variant.as_str(), level.converted), ("new", 640));
        assert!(purchase(&found, 1).effect.as_ref().unwrap().users_left.is_none());
    }

    #[test]
    fn the_correction_is_that_of_the_number_of_levels() {
        let p_value = |levels: usize| {
            let mut all = vec![(4_000, 100, 125)];
            all.extend(vec![(4_000, 100, 100); levels - 1]);
            let found = broken_down(&all);
            let effect = purchase(&found, 0).effect.clone().unwrap();
            (effect.p_value, effect.alpha, purchase(&found, 0).verdict)
        };
        let ((one, alone, better), (ten, among, not)) = (p_value(1), p_value(10));
        assert!((alone - 0.05).abs() < 1e-12 && (among - 0.005).abs() < 1e-12, "{alone} and {among}");
        assert!(ten > 3.0 * one, "{one} and {ten}");
        assert_eq!((better, not), (Verdict::Better, Verdict::NotKnownYet));
    }

    #[test]
    fn a_rejected_level_leaves_more_to_the_others() {
        let found = broken_down(&[(8_000, 100, 200), (8_000, 100, 100)]);
        let alpha = |level: usize| purchase(&found, level).effect.as_ref().unwrap().alpha;
        assert!((alpha(0) - 0.025).abs() < 1e-12 && (alpha(1) - 0.05).abs() < 1e-12, "Holm");
    }
}
