//! Conclusions from the results, as sentences.

mod decision;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Goal, Role};

use super::explanations::{duration, percent, signed_percent, thousands};
use super::phase::CROSSED_SHARE_MAX;
use super::{
    Comparison, Effect, Experiment, MetricResults, Missing, Part, PhaseResults, Rare, Status, VariantResults,
    Verdict,
};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Conclusion {
    pub finding: Finding,
    /// Whether the conclusion reports a problem.
    pub alarm: bool,
    pub metric: Option<String>,
    pub variant: Option<String>,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    Stopped,
    NoUsers,
    SampleRatioMismatch,
    SampleRatioUnknown,
    /// The values from before the exposures differ between the variants.
    CovariateImbalance,
    /// Variants are drawn by something else than the user.
    UnitIsNotUser,
    CrossedUsers,
    /// Exposed users who are not compared.
    ExcludedUsers,
    /// Conclusion from all metrics of a treatment.
    Decision,
    Treatment,
    Guardrail,
    Holdout,
}

impl Finding {
    /// Whether nothing else may be concluded.
    pub fn blocks(self) -> bool {
        matches!(self, Self::SampleRatioMismatch | Self::CovariateImbalance | Self::UnitIsNotUser)
    }
}

pub fn of(experiment: &Experiment, phase: Option<&PhaseResults>) -> Vec<Conclusion> {
    let mut conclusions = Vec::new();
    let phase = phase.filter(|phase| phase.users + phase.excluded.total() > 0);
    if let Some(phase) = phase {
        alarms(phase, &mut conclusions);
    }
    if experiment.status == Status::Stopped {
        conclusions.push(plain(Finding::Stopped, stopped(experiment)));
    }
    let Some(phase) = phase else {
        let text = format!("No user was exposed to {} yet.", experiment.design.flag_name);
        conclusions.push(plain(Finding::NoUsers, text));
        return conclusions;
    };
    if conclusions.iter().any(|of| of.alarm && of.finding.blocks()) {
        return conclusions;
    }
    if phase.sample_ratio.tested.is_none() && phase.users > 0 {
        let text = "The split of the users cannot be tested: the flag has no single weight for each variant.";
        conclusions.push(plain(Finding::SampleRatioUnknown, text.to_owned()));
    }
    conclusions.extend(excluded(phase));
    if experiment.status == Status::Running {
        let treatments = phase.variants.iter().filter(|variant| variant.part == Part::Treatment);
        let control = &experiment.design.control;
        conclusions.extend(treatments.map(|variant| decision::of(&variant.name, control, &phase.metrics)));
    }
    for role in [Role::Primary, Role::Guardrail, Role::Secondary] {
        for metric in phase.metrics.iter().filter(|metric| metric.metric.role == role) {
            let control = Some(experiment.design.control.as_str());
            conclusions.extend(metric.comparisons.iter().map(|of| conclusion(metric, of, control)));
            conclusions.extend(metric.holdout.iter().map(|of| conclusion(metric, of, None)));
        }
    }
    conclusions
}

fn alarms(phase: &PhaseResults, conclusions: &mut Vec<Conclusion>) {
    let alarm = |finding, text| Conclusion { alarm: true, ..plain(finding, text) };
    if phase.sample_ratio.alarm {
        let shares: Vec<_> = phase.variants.iter().filter_map(share).collect();
        conclusions.push(alarm(
            Finding::SampleRatioMismatch,
            format!(
                "The split of the users does not match the weights: {}. Users of some variants are lost or added, so \
                 the variants can't be compared. Do not draw conclusions from this phase.",
                shares.join(", ")
            ),
        ));
    }
    if let Some(unit) = &phase.unit {
        conclusions.push(alarm(
            Finding::UnitIsNotUser,
            format!(
                "The flag draws its variants by {unit} and not by user. Users who share a value of {unit} are not independent \
                 of each other, so no interval would hold. Use the stickiness `default` or `userId`."
            ),
        ));
    }
    let unbalanced = phase.metrics.iter().filter(|metric| metric.covariate.is_some_and(|of| of.alarm));
    let unbalanced: Vec<&str> = unbalanced.map(|metric| metric.metric.name.as_str()).collect();
    if !unbalanced.is_empty() {
        conclusions.push(alarm(
            Finding::CovariateImbalance,
            format!(
                "The values of {} from before the first exposure differ between the variants, more than chance explains. \
                 Users of the variants were different from the start, or had seen a variant before the experiment began. Do \
                 not draw conclusions from this phase.",
                unbalanced.join(", ")
            ),
        ));
    }
    if phase.crossed_alarm {
        let share = percent(phase.crossed as f64 / phase.users as f64);
        let limit = percent(CROSSED_SHARE_MAX);
        conclusions.push(alarm(
            Finding::CrossedUsers,
            format!(
                "{} users ({share}, more than {limit}) saw more than one variant: differences look smaller than they are. \
                 Check whether the stickiness attribute can change for a user.",
                thousands(phase.crossed)
            ),
        ));
    }
}

/// Users who are exposed but not compared.
fn excluded(phase: &PhaseResults) -> Option<Conclusion> {
    let excluded = phase.excluded;
    let reasons = [
        (excluded.forced, "whose variant a rule or an override sets without a draw"),
        (excluded.other, "whose variant was drawn from variants without the control"),
        (excluded.crossed, "who saw more than one variant"),
        (excluded.unknown, "for whom it is not known how the variant was chosen"),
    ];
    let reasons = reasons.iter().filter(|(users, _)| *users > 0);
    let reasons: Vec<String> = reasons.map(|(users, who)| format!("{} {who}", thousands(*users))).collect();
    (!reasons.is_empty()).then(|| {
        let text = format!("Exposed users who are not compared: {}.", reasons.join(", "));
        plain(Finding::ExcludedUsers, text)
    })
}

fn share(variant: &VariantResults) -> Option<String> {
    let (share, expected) = (variant.share?, variant.expected_share?);
    Some(format!("{} {} instead of {}", variant.name, percent(share), percent(expected)))
}

fn stopped(experiment: &Experiment) -> String {
    let at = experiment.stopped_at.map(|at| format!(" on {}", at.format("%F"))).unwrap_or_default();
    let reason = experiment.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let winner =
        experiment.winner.as_ref().map(|winner| format!(" The winner is {winner}.")).unwrap_or_default();
    format!("Stopped{at}{reason}{}{winner}", if reason.ends_with('.') { "" } else { "." })
}

/// Conclusion from the comparison of a treatment with the control, or, without `control`, of all other variants with
/// the holdout.
fn conclusion(metric: &MetricResults, of: &Comparison, control: Option<&str>) -> Conclusion {
    let finding = match (control, metric.metric.role) {
        (None, _) => Finding::Holdout,
        (_, Role::Guardrail) => Finding::Guardrail,
        _ => Finding::Treatment,
    };
    let (subject, base) = match control {
        Some(control) => (of.variant.as_str(), control),
        None => ("all others together", of.variant.as_str()),
    };
    let words = Explanations { metric, subject, base };
    let text = match (&of.effect, &of.rare, of.missing) {
        (Some(effect), ..) => words.of_effect(of.verdict, effect),
        (None, Some(rare), _) => words.of_rare(of.verdict, rare),
        (None, None, missing) => words.of_nothing(missing),
    };
    let text = format!("{text}{}", unfinished(metric));
    Conclusion {
        finding,
        alarm: of.verdict == Verdict::Harmed,
        metric: Some(metric.metric.name.clone()),
        variant: Some(of.variant.clone()),
        text,
    }
}

/// Sentence about users whose window is not over; empty if there are none.
fn unfinished(metric: &MetricResults) -> String {
    let all: u64 = metric.levels.iter().map(|level| level.users).sum();
    match metric.unfinished {
        0 => String::new(),
        open if open >= all => format!(" The windows of {} users are not over yet.", thousands(open)),
        open => {
            format!(" The windows of {} of {} users are not over yet.", thousands(open), thousands(all))
        }
    }
}

struct Explanations<'w> {
    metric: &'w MetricResults,
    subject: &'w str,
    base: &'w str,
}

impl Explanations<'_> {
    fn of_nothing(&self, missing: Option<Missing>) -> String {
        let Self { metric, subject, base } = self;
        let name = &metric.metric.name;
        let why = match missing {
            None | Some(Missing::TooFewUsers) => "fewer than 100 users in one of the variants",
            Some(Missing::NoConversions) => {
                return format!(
                    "{name}: nothing to compare between {subject} and {base}: no {name} was reported."
                );
            }
            Some(Missing::NoControl) => {
                return format!("{name}: {subject} can't be compared: the flag has no variant {base}.");
            }
            Some(Missing::TooSkewed) => {
                "a single user has more than a fifth of the sum of squares; set a cap, or wait for more users"
            }
            Some(Missing::TooUncertain) => "the mean is too uncertain for an interval",
            Some(Missing::TooFewConversions) if metric.metric.kind.is_rate() => {
                "too few users converted, or too few did not"
            }
            Some(Missing::TooFewConversions) => "too few users have a value",
            Some(Missing::NoVariance) => "all users have the same value",
            Some(Missing::NotFinite) => "the sum of the values is too large for a number",
        };
        format!("{name}: {subject} can't be compared with {base} yet: {why}.")
    }

    fn of_effect(&self, verdict: Verdict, effect: &Effect) -> String {
        let Self { metric, subject, base } = self;
        let (name, small) = (&metric.metric.name, percent(metric.metric.minimum_effect));
        let range = range(effect);
        let worse = match metric.metric.goal {
            Goal::Increase => "lower",
            Goal::Decrease => "higher",
        };
        match verdict {
            Verdict::Better => format!("{name}: {subject} is better than {base}, by {range}."),
            Verdict::Worse => format!("{name}: {subject} is worse than {base}, by {range}."),
            Verdict::NoEffect => format!(
                "{name}: no relevant difference between {subject} and {base}: it is {range}, less than {small} in \
                 either direction."
            ),
            Verdict::Harmed => {
                format!("{name}: harmed by {subject}: it is {worse} than under {base}, by {range}.")
            }
            Verdict::SafeSoFar => {
                format!(
                    "{name}: safe so far under {subject}: it is not {worse} than under {base} by {small} or more: {range}."
                )
            }
            Verdict::NotKnownYet => {
                format!(
                    "{name}: not known yet whether {subject} differs from {base}: {range}. {}",
                    self.left(effect)
                )
            }
        }
    }

    /// Sentence about a rate with few conversions.
    fn of_rare(&self, verdict: Verdict, rare: &Rare) -> String {
        let Self { metric, subject, base } = self;
        let name = &metric.metric.name;
        let range = match (rare.low, rare.high) {
            (Some(low), Some(high)) => {
                format!("between {} and {}", signed_percent(low), signed_percent(high))
            }
            (Some(low), None) => format!("by {} or more", signed_percent(low)),
            (None, Some(high)) => format!("by {} or less", signed_percent(high)),
            (None, None) => "by any amount".to_owned(),
        };
        match verdict {
            Verdict::Better => {
                format!("{name}: {subject} is better than {base}, {range}. Few users converted.")
            }
            Verdict::Worse => {
                format!("{name}: {subject} is worse than {base}, {range}. Few users converted.")
            }
            Verdict::Harmed => {
                format!("{name}: harmed by {subject}: it differs from {base} {range}. Few users converted.")
            }
            Verdict::SafeSoFar => {
                format!(
                    "{name}: safe so far under {subject}: it differs from {base} {range}. Few users converted."
                )
            }
            Verdict::NoEffect => {
                format!("{name}: no relevant difference between {subject} and {base}: {range}.")
            }
            Verdict::NotKnownYet => format!(
                "{name}: not known yet whether {subject} differs from {base}: too few users converted, or too few did \
                 not."
            ),
        }
    }

    fn left(&self, effect: &Effect) -> String {
        let small = percent(self.metric.metric.minimum_effect);
        let time = effect.seconds_left.map(|left| format!(", about {}", duration(left))).unwrap_or_default();
        match effect.users_left {
            None => format!("An effect of {small} cannot be detected."),
            Some(0) => format!("An effect of {small} would most likely have been detected by now."),
            Some(users) => {
                format!(
                    "To detect an effect of {small}, about {} more users are needed{time}.",
                    thousands(users)
                )
            }
        }
    }
}

/// Difference and its interval, relative if possible.
fn range(effect: &Effect) -> String {
    match effect.relative {
        Some(relative) => format!(
            "{} (between {} and {})",
            signed_percent(relative.difference),
            signed_percent(relative.interval.low),
            signed_percent(relative.interval.high)
        ),
        None => format!(
            "{:+.4} (between {:+.4} and {:+.4})",
            effect.difference, effect.interval.low, effect.interval.high
        ),
    }
}

fn plain(finding: Finding, text: String) -> Conclusion {
    Conclusion { finding, alarm: false, metric: None, variant: None, text }
}
