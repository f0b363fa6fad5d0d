//! Comparison of two variants in one metric.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::statistics::{Boundary, Cuped, Difference, Moments, difference, planning};
use crate::{Kind, Metric, Role, Sample};

use super::{Effect, Relative, Verdict};

/// Minimum users in each variant. With fewer, a mean is not close enough to a normal distribution for the intervals.
const USERS_MIN: u64 = 100;
/// Minimum number of users in each variant who would have converted, and for a rate of users who would not have, if the
/// variants were equal. With fewer, the variances are too uncertain. The simulation shows this for small treatment
/// groups.
const CONVERTED_MIN: f64 = 20.0;

/// Reason why a comparison is not possible yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// The phase does not have the variant to compare with.
    NoControl,
    /// A variant has fewer than 100 users.
    TooFewUsers,
    /// If both variants were equal, fewer than 20 users of one would have converted or, for a rate, would not have.
    TooFewConversions,
    /// All users have the same value.
    NoVariance,
    /// A sum is not a finite number.
    NotFinite,
}

/// Comparisons that share one probability of a false positive, divided equally among them (Bonferroni correction).
#[derive(Debug, Clone, Copy)]
pub struct Family {
    pub confidence: f64,
    pub power: f64,
    pub comparisons: usize,
}

impl Family {
    /// Builds the family. A false positive in any treatment counts, and for primary metrics in any of them.
    pub fn of(role: Role, confidence: f64, power: f64, treatments: usize, primaries: usize) -> Self {
        let metrics = if role == Role::Primary { primaries } else { 1 };
        Self { confidence, power, comparisons: (treatments * metrics).max(1) }
    }

    pub fn boundary(&self) -> Boundary {
        Boundary::new((1.0 - self.confidence) / self.comparisons as f64)
    }

    fn corrected(&self, p_value: f64) -> f64 {
        (p_value * self.comparisons as f64).min(1.0)
    }
}

/// Compares two variants. Sets all of the [`Effect`] except the remaining time; `users_left` counts users of these two
/// variants.
pub fn compare(
    metric: &Metric,
    family: &Family,
    cuped: Option<&Cuped>,
    control: &Sample,
    treatment: &Sample,
) -> Result<(Verdict, Effect), Missing> {
    enough(metric.kind, control, treatment)?;
    let moments = |sample: &Sample| {
        let moments = cuped.map_or_else(|| Moments::of(sample, metric.kind), |cuped| cuped.moments(sample));
        moments.ok_or(Missing::NotFinite)
    };
    let (control, treatment) = (moments(control)?, moments(treatment)?);
    let between = Difference::between(&control, &treatment);
    if between.absolute.error <= 0.0 {
        return Err(Missing::NoVariance);
    }
    let boundary = family.boundary();
    let errors = boundary.half_width(between.users);
    let relative = between.relative.map(|relative| Relative {
        difference: relative.value,
        interval: relative.within(errors),
        minimum_detectable_effect: planning::detectable(
            &between.absolute,
            between.users,
            &boundary,
            family.power,
        ) / control.mean.abs(),
    });
    let single_look = match (metric.kind, cuped) {
        (Kind::Conversion, None) => difference::two_rates(&control, &treatment, boundary.alpha()),
        _ => difference::welch(&control, &treatment, boundary.alpha()),
    };
    let interval = between.absolute.within(errors);
    let effect = metric.minimum_effect * control.mean.abs();
    let needed = planning::users_needed(&between.absolute, between.users, effect, &boundary, family.power);
    let verdict = Verdict::of(metric, interval, relative.map(|relative| relative.interval));
    let effect = Effect {
        difference: between.absolute.value,
        interval,
        p_value: family.corrected(between.p_value(&boundary)),
        relative,
        single_look: single_look
            .map(|look| difference::SingleLook { p_value: family.corrected(look.p_value), ..look }),
        users_left: needed.map(|needed| needed.saturating_sub(between.users as u64)),
        seconds_left: None,
    };
    Ok((verdict, effect))
}

fn enough(kind: Kind, control: &Sample, treatment: &Sample) -> Result<(), Missing> {
    if control.users.min(treatment.users) < USERS_MIN {
        return Err(Missing::TooFewUsers);
    }
    let users = control.users + treatment.users;
    let share_of_smaller = control.users.min(treatment.users) as f64 / users as f64;
    let converted = control.converted + treatment.converted;
    let not_converted = users.saturating_sub(converted);
    let too_few = |of_both: u64| of_both as f64 * share_of_smaller < CONVERTED_MIN;
    if too_few(converted) || (kind == Kind::Conversion && too_few(not_converted)) {
        return Err(Missing::TooFewConversions);
    }
    Ok(())
}
