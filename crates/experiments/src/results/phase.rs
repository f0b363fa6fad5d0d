//! Results of one phase.

use crate::statistics::{Cuped, Moments, moments, sample_ratio};
use crate::{Design, Kind, Metric, Role, Sample, Tally, VariantTally};

use super::comparison::{Family, Missing, compare};
use super::{
    Adjustment, Comparison, Level, MetricResults, Part, PhaseResults, SampleRatio, SampleRatioTest,
    VariantResults, Verdict,
};

/// Share of correctly split experiments that ever raise the sample ratio alarm.
pub const SAMPLE_RATIO_ALPHA: f64 = 0.01;
/// Maximum share of users who saw two variants. Above it, the comparison is distorted.
pub const CROSSED_SHARE_MAX: f64 = 0.01;

pub fn results(design: &Design, tally: &Tally) -> PhaseResults {
    let (users, crossed) = tally
        .variants
        .iter()
        .fold((0, 0), |(users, crossed), variant| (users + variant.users, crossed + variant.crossed));
    let counted = Counted { design, tally, users };
    PhaseResults {
        number: tally.phase.number,
        first_version: tally.phase.first_version,
        started_at: tally.phase.started_at,
        ended_at: tally.phase.ended_at,
        counted_at: tally.counted_at,
        users,
        crossed,
        crossed_alarm: crossed as f64 > CROSSED_SHARE_MAX * users as f64,
        variants: counted.variants(),
        sample_ratio: counted.sample_ratio(),
        metrics: design.metrics.iter().enumerate().map(|(at, metric)| counted.metric(at, metric)).collect(),
    }
}

struct Counted<'c> {
    design: &'c Design,
    tally: &'c Tally,
    users: u64,
}

impl<'c> Counted<'c> {
    fn part(&self, variant: &str) -> Part {
        match variant {
            _ if variant == self.design.control => Part::Control,
            _ if self.design.holdout.as_deref() == Some(variant) => Part::Holdout,
            _ => Part::Treatment,
        }
    }

    fn of_part(&self, part: Part) -> impl Iterator<Item = &'c VariantTally> {
        self.tally.variants.iter().filter(move |variant| self.part(&variant.variant) == part)
    }

    /// Weights of the phase's variants. `None` if one of them is unknown.
    fn weights(&self) -> Option<Vec<f64>> {
        self.tally.phase.variants.iter().map(|variant| variant.weight).collect()
    }

    fn variants(&self) -> Vec<VariantResults> {
        let weights = self.weights().unwrap_or_default();
        let total: f64 = weights.iter().sum();
        let expected = |name: &str| {
            let at = self.tally.phase.variants.iter().position(|of| of.name == name)?;
            weights.get(at).map(|weight| weight / total).filter(|share| share.is_finite())
        };
        let of = |variant: &VariantTally| VariantResults {
            name: variant.variant.clone(),
            part: self.part(&variant.variant),
            users: variant.users,
            share: (self.users > 0).then(|| variant.users as f64 / self.users as f64),
            expected_share: expected(&variant.variant),
            crossed: variant.crossed,
        };
        self.tally.variants.iter().map(of).collect()
    }

    fn sample_ratio(&self) -> SampleRatio {
        let users_of = |name: &str| {
            let counted = self.tally.variants.iter().find(|variant| variant.variant == name);
            counted.map_or(0, |variant| variant.users)
        };
        let users: Vec<_> = self.tally.phase.variants.iter().map(|variant| users_of(&variant.name)).collect();
        let fit = self.weights().and_then(|weights| sample_ratio::fit(&users, &weights));
        SampleRatio {
            tested: fit.map(|fit| SampleRatioTest {
                p_value: fit.p_value,
                single_look_p_value: fit.single_look_p_value,
            }),
            alarm: fit.is_some_and(|fit| fit.p_value < SAMPLE_RATIO_ALPHA),
        }
    }

    fn metric(&self, at: usize, metric: &Metric) -> MetricResults {
        let sample = |variant: &VariantTally| variant.samples.get(at).copied().unwrap_or_default();
        let of_parts = |parts: &[Part]| -> Vec<Sample> {
            parts.iter().flat_map(|part| self.of_part(*part)).map(sample).collect()
        };
        let everyone = of_parts(&[Part::Control, Part::Treatment, Part::Holdout]);
        let cuped = Cuped::of(&everyone, metric.kind);
        let control = self.of_part(Part::Control).next().map(sample);
        let treatments = self.of_part(Part::Treatment).count();
        let compared = |variant: &str, with: Option<Sample>, sample: &Sample, treatments: usize| {
            let family = self.family(metric.role, treatments);
            let found = with
                .ok_or(Missing::NoControl)
                .and_then(|with| compare(metric, &family, cuped.as_ref(), &with, sample));
            self.comparison(variant, found, with.map_or(0, |with| with.users) + sample.users)
        };
        let comparisons = self.of_part(Part::Treatment);
        let comparisons =
            comparisons.map(|variant| compared(&variant.variant, control, &sample(variant), treatments));
        let holdout = self.design.holdout.as_ref().map(|name| {
            let others = moments::together(&of_parts(&[Part::Control, Part::Treatment]));
            compared(name, self.of_part(Part::Holdout).next().map(sample), &others, 1)
        });
        MetricResults {
            metric: metric.clone(),
            levels: self
                .tally
                .variants
                .iter()
                .map(|variant| level(variant, &sample(variant), metric.kind))
                .collect(),
            comparisons: comparisons.collect(),
            holdout,
            cuped: cuped.map(|of| Adjustment { theta: of.theta, variance_reduction: of.variance_reduction }),
        }
    }

    fn family(&self, role: Role, treatments: usize) -> Family {
        let design = self.design;
        let primaries = design.metrics.iter().filter(|metric| metric.role == Role::Primary).count();
        Family::of(role, design.confidence, design.power, treatments, primaries)
    }

    /// Converts the remaining users of two variants into users of the whole experiment and into time.
    fn comparison(
        &self,
        variant: &str,
        found: Result<(Verdict, super::Effect), Missing>,
        users: u64,
    ) -> Comparison {
        let variant = variant.to_owned();
        let (verdict, mut effect) = match found {
            Ok(found) => found,
            Err(missing) => {
                let verdict = Verdict::NotKnownYet;
                return Comparison { variant, verdict, missing: Some(missing), effect: None };
            }
        };
        let all = self.users as f64;
        effect.users_left = effect.users_left.map(|left| (left as f64 * all / users as f64).ceil() as u64);
        let lasted = (self.tally.counted_at - self.tally.phase.started_at).as_seconds_f64();
        if self.tally.phase.ended_at.is_none() && lasted > 0.0 {
            effect.seconds_left = effect.users_left.map(|left| (left as f64 * lasted / all).ceil() as u64);
        }
        Comparison { variant, verdict, missing: None, effect: Some(effect) }
    }
}

fn level(variant: &VariantTally, sample: &Sample, kind: Kind) -> Level {
    Level {
        variant: variant.variant.clone(),
        converted: sample.converted,
        mean: Moments::of(sample, kind).map(|moments| moments.mean),
    }
}
