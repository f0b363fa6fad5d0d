//! Results over time: a point for each day, and for each time that the number of users has grown.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::statistics::Interval;

use super::{Results, Verdict};

/// Growth of the number of users since the last point that is worth a new one.
const GROWTH: f64 = 1.05;

/// Results at one time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ExperimentPoint)]
pub struct Point {
    #[schema(value_type = String, format = DateTime)]
    pub counted_at: DateTime<Utc>,
    pub phase: u32,
    pub users: u64,
    /// Comparisons that had an interval.
    pub comparisons: Vec<PointComparison>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ExperimentPointComparison)]
pub struct PointComparison {
    pub metric: String,
    pub variant: String,
    pub verdict: Verdict,
    pub difference: f64,
    pub interval: Interval,
    pub p_value: f64,
    /// Relative difference and its interval; `None` if the control is too close to zero.
    pub relative: Option<RelativePoint>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RelativePoint {
    pub difference: f64,
    pub interval: Interval,
}

impl Point {
    /// Point of these results. `None` before the first user.
    pub fn of(results: &Results) -> Option<Self> {
        let phase = results.phase.as_ref().filter(|phase| phase.users > 0)?;
        let comparisons = phase.metrics.iter().flat_map(|metric| {
            metric.comparisons.iter().filter_map(move |of| {
                let effect = of.effect.as_ref()?;
                let relative = effect.relative.map(|relative| RelativePoint {
                    difference: relative.difference,
                    interval: relative.interval,
                });
                Some(PointComparison {
                    metric: metric.metric.name.clone(),
                    variant: of.variant.clone(),
                    verdict: of.verdict,
                    difference: effect.difference,
                    interval: effect.interval,
                    p_value: effect.p_value,
                    relative,
                })
            })
        });
        Some(Self {
            counted_at: phase.counted_at,
            phase: phase.number,
            users: phase.users,
            comparisons: comparisons.collect(),
        })
    }

    /// Whether this point is worth keeping after `last`: on another day or in another phase, or with more users by a
    /// twentieth.
    pub fn follows(&self, last: Option<&Self>) -> bool {
        last.is_none_or(|last| {
            last.phase != self.phase
                || last.counted_at.date_naive() != self.counted_at.date_naive()
                || self.users as f64 >= last.users as f64 * GROWTH
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::results::Conversions;
    use crate::sample_data::{experiment, tally, variant};

    #[test]
    fn a_point_has_what_can_be_compared() {
        let counted = tally(vec![variant("old", 5_000, 100, 0), variant("new", 5_000, 150, 0)]);
        let results = Results::of(experiment(None), &[counted], Conversions::default());
        let point = Point::of(&results).unwrap();
        let names: Vec<_> = point.comparisons.iter().map(|of| of.metric.as_str()).collect();
        assert_eq!((point.users, names), (10_000, vec!["purchase", "amount"]));
        assert_eq!(point.comparisons[0].verdict, Verdict::Better);
        assert_eq!(Point::of(&Results::of(experiment(None), &[], Conversions::default())), None);
    }

    #[test]
    fn points_are_kept_for_each_day_and_for_growth() {
        let point = |users, minutes| Point {
            counted_at: crate::sample_data::start() + TimeDelta::minutes(minutes),
            phase: 1,
            users,
            comparisons: Vec::new(),
        };
        let last = point(1_000, 0);
        assert!(last.follows(None));
        assert!(!point(1_049, 60).follows(Some(&last)) && point(1_050, 60).follows(Some(&last)));
        assert!(point(1_000, 24 * 60).follows(Some(&last)));
        assert!(Point { phase: 2, ..point(1, 1) }.follows(Some(&last)));
    }
}
