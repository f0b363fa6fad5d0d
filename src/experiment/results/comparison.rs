//! One variant compared with another in one metric.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::experiment::statistics::{Boundary, Cuped, Difference, Moments, difference, planning};
use crate::experiment::{Kind, Metric, Role, Sample};

use super::{Effect, Relative, Verdict};

/// In each variant. With fewer, a mean is not yet as normal as the intervals take it to be.
const USERS_MIN: u64 = 100;
/// In each variant, if there were no difference between them: so many must have converted, and, of a rate, so many must
/// not. With fewer, variances are estimated from too little; the simulation shows it where few are treated.
const CONVERTED_MIN: f64 = 20.0;

/// Why there is nothing to compare yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// The phase does not have the variant to compare with.
    NoControl,
    /// Fewer than 100 in a variant.
    TooFewUsers,
    /// Fewer than 20 users would have converted in one of the variants, or, of a rate, would have not, if both were alike.
    TooFewConversions,
    /// All users have the same value.
    NoVariance,
    /// A sum is no number.
    NotFinite,
}

/// The comparisons that share one chance of a false positive: each has its part of it (Bonferroni).
#[derive(Debug, Clone, Copy)]
pub struct Family {
    pub confidence: f64,
    pub power: f64,
    pub comparisons: usize,
}

impl Family {
    /// A wrong finding in any treatment counts; of the metrics that decide, in any metric.
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

/// Everything of an [`Effect`] but the time it takes; `users_left` counts users of these two variants.
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
