//! Results of one phase.

use crate::statistics::{Boundary, Cuped, Difference, Moments, Pair, moments, sample_ratio};
use crate::{Design, Kind, Metric, Role, Sample, Stratum, Tally};

use super::comparison::{Arms, Compared, Family, Level, compare, raw_p_value, without_control};
use super::{
    Adjustment, Comparison, Covariate, MetricResults, Part, PhaseResults, SampleRatio, SampleRatioTest,
    StratumResults, StratumVariant, VariantResults,
};

/// Share of correctly split experiments that ever raise the sample ratio alarm.
pub const SAMPLE_RATIO_ALPHA: f64 = 0.01;
/// Share of experiments with a correct covariate that ever raise its alarm.
pub const COVARIATE_ALPHA: f64 = 0.01;
/// Minimum number of users of the smaller variant that the values from before the exposures must effectively come from,
/// so that they can be compared.
const COVARIATE_USERS_MIN: f64 = 20.0;
/// Maximum share of users who saw two variants. Above it, the comparison is distorted.
pub const CROSSED_SHARE_MAX: f64 = 0.01;

pub fn results(design: &Design, tally: &Tally) -> PhaseResults {
    let variants = || tally.strata.iter().flat_map(|stratum| &stratum.variants);
    let users = tally.users();
    let crossed = variants().map(|variant| variant.crossed).sum();
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
        changed: variants().map(|variant| variant.changed).sum(),
        excluded: tally.excluded,
        strata: tally.strata.iter().map(|stratum| counted.stratum(stratum)).collect(),
        unit: tally.strata.iter().find_map(|stratum| stratum.list.unit.clone()),
        variants: counted.variants(),
        sample_ratio: counted.sample_ratio(),
        metrics: counted.metrics(),
        dimensions: Vec::new(),
    }
}

/// Counts of a phase, or of a part of its users.
pub(super) struct Counted<'c> {
    pub(super) design: &'c Design,
    pub(super) tally: &'c Tally,
    pub(super) users: u64,
}

/// A variant, or several together, with its samples in each stratum.
struct Side {
    samples: Vec<Option<Sample>>,
    /// Weight in each stratum.
    shares: Vec<f64>,
}

impl Counted<'_> {
    fn part(&self, variant: &str) -> Part {
        match variant {
            _ if variant == self.design.control => Part::Control,
            _ if self.design.holdout.as_deref() == Some(variant) => Part::Holdout,
            _ => Part::Treatment,
        }
    }

    /// Names of the phase's variants of a part.
    pub(super) fn of_part(&self, part: Part) -> Vec<&str> {
        let names = self.tally.phase.variants.iter().map(|variant| variant.name.as_str());
        names.filter(|name| self.part(name) == part).collect()
    }

    fn variants(&self) -> Vec<VariantResults> {
        let of = |name: &str| {
            let users = self.tally.of_variant(name).map(|of| of.users).sum();
            let expected = |stratum: &Stratum| stratum.users() as f64 * stratum.list.share(name);
            let expected: f64 = self.tally.strata.iter().map(expected).sum();
            let all = (self.users > 0).then_some(self.users as f64);
            VariantResults {
                name: name.to_owned(),
                part: self.part(name),
                users,
                share: all.map(|all| users as f64 / all),
                expected_share: all.map(|all| expected / all),
                crossed: self.tally.of_variant(name).map(|of| of.crossed).sum(),
            }
        };
        self.tally.phase.variants.iter().map(|variant| of(&variant.name)).collect()
    }

    fn stratum(&self, stratum: &Stratum) -> StratumResults {
        let variant = |of: &crate::VariantTally| StratumVariant {
            name: of.variant.clone(),
            users: of.users,
            expected_share: stratum.list.share(&of.variant),
        };
        StratumResults {
            rules: stratum.list.rules.clone(),
            users: stratum.users(),
            variants: stratum.variants.iter().map(variant).collect(),
        }
    }

    fn sample_ratio(&self) -> SampleRatio {
        let counts: Vec<(Vec<u64>, Vec<f64>)> = self
            .tally
            .strata
            .iter()
            .map(|stratum| {
                let variants = stratum.variants.iter();
                variants.map(|of| (of.users, stratum.list.share(&of.variant))).unzip()
            })
            .collect();
        let strata = counts.iter().map(|(users, shares)| (users.as_slice(), shares.as_slice()));
        let fit = sample_ratio::fit_strata(strata);
        SampleRatio {
            tested: fit.map(|fit| SampleRatioTest {
                p_value: fit.p_value,
                single_look_p_value: fit.single_look_p_value,
            }),
            alarm: fit.is_some_and(|fit| fit.p_value < SAMPLE_RATIO_ALPHA),
        }
    }

    fn metrics(&self) -> Vec<MetricResults> {
        let prepared: Vec<_> = self
            .design
            .metrics
            .iter()
            .enumerate()
            .map(|(at, metric)| {
                let cuped = Cuped::of(&self.all_samples(at), metric.kind);
                let arms = |treatment: &str| self.arms(at, &[&self.design.control], &[treatment]);
                let treatments =
                    self.of_part(Part::Treatment).into_iter().map(|name| (name.to_owned(), arms(name)));
                (at, metric, cuped, treatments.collect::<Vec<_>>())
            })
            .collect();
        let treatments = self.of_part(Part::Treatment).len();
        let guardrails = Family::of(self.design, Role::Guardrail, treatments);
        let of_guardrails = prepared.iter().filter(|(_, metric, ..)| metric.role == Role::Guardrail);
        let p_values: Vec<f64> = of_guardrails
            .flat_map(|(_, metric, cuped, treatments)| {
                let boundary = guardrails.level().boundary;
                let p_value = move |arms: &Option<Vec<Arms>>| {
                    raw_p_value(metric, cuped.as_ref(), arms.as_deref()?, &boundary)
                };
                treatments.iter().map(move |(_, arms)| p_value(arms).unwrap_or(1.0))
            })
            .collect();
        let mut guards = guardrails.holm(&p_values).into_iter();
        let metrics = prepared.iter().map(|(at, metric, cuped, treatments)| {
            let family = Family::of(self.design, metric.role, treatments.len());
            let comparisons = treatments.iter().map(|(name, arms)| {
                let holm = if metric.role == Role::Guardrail { guards.next() } else { None };
                self.comparison(metric, name, &holm.unwrap_or_else(|| family.level()), cuped.as_ref(), arms)
            });
            let comparisons = comparisons.collect();
            MetricResults { comparisons, ..self.metric(*at, metric, cuped.as_ref()) }
        });
        metrics.collect()
    }

    /// Results of a metric without the comparisons of its treatments.
    fn metric(&self, at: usize, metric: &Metric, cuped: Option<&Cuped>) -> MetricResults {
        let variants = &self.tally.phase.variants;
        let holdout = self.design.holdout.as_ref().map(|name| {
            let others: Vec<&str> =
                variants.iter().map(|variant| variant.name.as_str()).filter(|other| other != name).collect();
            // The holdout is one comparison, and a family of its own.
            let level = Family { comparisons: 1, ..Family::of(self.design, metric.role, 1) }.level();
            self.comparison(metric, name, &level, cuped, &self.arms(at, &[name], &others))
        });
        let all: Vec<Sample> = self.all_samples(at).concat();
        MetricResults {
            metric: metric.clone(),
            levels: self.levels(at, metric.kind),
            comparisons: Vec::new(),
            holdout,
            cuped: cuped.map(|of| Adjustment { theta: of.theta, variance_reduction: of.variance_reduction }),
            covariate: self.covariate(at, metric),
            unfinished: all.iter().map(|sample| sample.unfinished).sum(),
        }
    }

    /// Compares the values from before the exposures.
    fn covariate(&self, at: usize, metric: &Metric) -> Option<Covariate> {
        let treatments = self.of_part(Part::Treatment);
        let comparisons = (treatments.len() * self.design.metrics.len()) as f64;
        let boundary = Boundary::new(COVARIATE_ALPHA / comparisons);
        let p_values = treatments.iter().filter_map(|treatment| {
            let arms = self.arms(at, &[&self.design.control], &[treatment])?;
            let pairs: Vec<Pair> = arms.iter().filter_map(|arms| before(metric.kind, arms)).collect();
            let difference = Difference::of(&pairs, true);
            let p_value = difference.p_value(&boundary) * comparisons;
            (difference.absolute().error > 0.0).then_some(p_value.min(1.0))
        });
        let p_value = p_values.reduce(f64::min)?;
        Some(Covariate { p_value, alarm: p_value < COVARIATE_ALPHA })
    }

    pub(super) fn all_samples(&self, at: usize) -> Vec<Vec<Sample>> {
        let sample = |variant: &crate::VariantTally| variant.samples.get(at).copied().unwrap_or_default();
        self.tally.strata.iter().map(|stratum| stratum.variants.iter().map(sample).collect()).collect()
    }

    /// Levels of a metric in the order of the phase's variants.
    pub(super) fn levels(&self, at: usize, kind: Kind) -> Vec<super::Level> {
        self.tally.phase.variants.iter().map(|variant| self.level(at, &variant.name, kind)).collect()
    }

    fn level(&self, at: usize, name: &str, kind: Kind) -> super::Level {
        let samples = self.tally.of_variant(name).filter_map(|of| of.samples.get(at));
        let all = moments::together(samples);
        super::Level {
            variant: name.to_owned(),
            users: all.users,
            converted: all.converted,
            mean: Moments::of(&all, kind).map(|moments| moments.mean),
            deviation: Moments::of(&all, kind).map(|moments| moments.variance.sqrt()),
        }
    }

    /// Samples of both sides in each stratum that has both. `None` if the phase does not have the first side.
    pub(super) fn arms(&self, at: usize, control: &[&str], treatment: &[&str]) -> Option<Vec<Arms>> {
        let has = |names: &[&str]| {
            names.iter().any(|name| self.tally.phase.variants.iter().any(|of| of.name == *name))
        };
        if !has(control) {
            return None;
        }
        let (control, treatment) = (self.side(at, control), self.side(at, treatment));
        let strata =
            control.samples.iter().zip(&treatment.samples).zip(control.shares.iter().zip(&treatment.shares));
        let arms =
            strata.enumerate().filter_map(|(stratum, ((control, treatment), (of_control, of_treatment)))| {
                let share = of_treatment / (of_control + of_treatment);
                Some(Arms { stratum, control: (*control)?, treatment: (*treatment)?, share })
            });
        Some(arms.collect())
    }

    fn side(&self, at: usize, names: &[&str]) -> Side {
        let mut side = Side { samples: Vec::new(), shares: Vec::new() };
        for stratum in &self.tally.strata {
            let ours = stratum.variants.iter().filter(|of| names.contains(&of.variant.as_str()));
            let drawn = ours.filter(|of| stratum.list.has(&of.variant));
            let samples: Vec<_> = drawn.filter_map(|of| of.samples.get(at)).collect();
            side.samples.push((!samples.is_empty()).then(|| moments::together(samples)));
            side.shares.push(names.iter().map(|name| stratum.list.share(name)).sum());
        }
        side
    }

    fn comparison(
        &self,
        metric: &Metric,
        variant: &str,
        level: &Level,
        cuped: Option<&Cuped>,
        arms: &Option<Vec<Arms>>,
    ) -> Comparison {
        let compared = match arms {
            Some(arms) => compare(metric, level, cuped, arms),
            None => without_control(),
        };
        self.with_time(variant, compared)
    }

    /// Converts the remaining users of two variants into users of the whole experiment and into time.
    fn with_time(&self, variant: &str, (verdict, missing, rare, mut effect): Compared) -> Comparison {
        if let Some(effect) = &mut effect {
            let (all, users) = (self.users as f64, effect.users as f64);
            effect.users_left = effect.users_left.map(|left| (left as f64 * all / users).ceil() as u64);
            let lasted = (self.tally.counted_at - self.tally.phase.started_at).as_seconds_f64();
            if self.tally.phase.ended_at.is_none() && lasted > 0.0 {
                effect.seconds_left =
                    effect.users_left.map(|left| (left as f64 * lasted / all).ceil() as u64);
            }
        }
        Comparison { variant: variant.to_owned(), verdict, missing, rare, effect }
    }
}

/// Moments of the values from before the exposure. `None` if too few users have any.
fn before(kind: Kind, arms: &Arms) -> Option<Pair> {
    if matches!(kind, Kind::Ratio | Kind::Quantile) {
        return None;
    }
    let both = arms.control.merged(&arms.treatment);
    let users = both.users as f64;
    let squares = both.other_scatter + users * both.other_mean * both.other_mean;
    // Number of users with equal values that would have the same sum and sum of squares.
    let effective = (users * both.other_mean).powi(2) / squares;
    let share_of_smaller = arms.control.users.min(arms.treatment.users) as f64 / users;
    let moments = |sample: &Sample| {
        let variance = sample.other_scatter / (sample.users as f64 - 1.0).max(1.0);
        Moments { users: sample.users as f64, mean: sample.other_mean, variance }.checked()
    };
    let enough = effective * share_of_smaller >= COVARIATE_USERS_MIN;
    enough.then(|| Some(Pair { control: moments(&arms.control)?, treatment: moments(&arms.treatment)? }))?
}
