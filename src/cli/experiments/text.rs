//! Experiment results as readable text.

mod dimensions;

use crate::cli::render::printable;
use crate::experiment::results::explanations::{duration, percent, signed_percent, thousands};
use crate::experiment::results::{
    Comparison, Counted, Effect, Experiment, Level, MetricResults, Part, PhaseResults, Rare, Results, Status,
    StratumResults, Verdict,
};
use crate::experiment::statistics::Interval;
use crate::experiment::{Goal, Role};

use super::bars::Scale;
use super::screen::{Colour, Screen};
use super::table::{Align, table};

/// Width limits of the bars. A shorter bar would not be readable.
const BAR_CHARS_MIN: usize = 21;
const BAR_CHARS_MAX: usize = 81;

pub fn of(results: &Results, screen: &Screen) -> String {
    let mut lines = head(results, screen);
    if let Some(phase) = results.phase.as_ref().filter(|phase| phase.users > 0) {
        lines.push(String::new());
        lines.extend(variants(phase));
        lines.push(split(phase, screen));
        lines.extend(strata(phase));
        lines.push(String::new());
        let confidence = results.experiment.design.confidence;
        lines.extend(metrics(phase, confidence));
        lines.push(String::new());
        lines.extend(bars(phase, screen));
        lines.extend(adjusted(phase));
        lines.extend(dimensions::tables(phase, confidence));
    }
    lines.push(String::new());
    for conclusion in &results.conclusions {
        let (sign, colour) =
            if conclusion.alarm { ("! ALARM: ", Colour::Bad) } else { ("- ", Colour::Plain) };
        let text = format!("{sign}{}", printable(&conclusion.text));
        lines.extend(screen.wrapped(&text, "  ").iter().map(|line| screen.painted(line, colour)));
    }
    lines.join("\n")
}

fn head(results: &Results, screen: &Screen) -> Vec<String> {
    let Experiment { design, status, started_at, stopped_at, .. } = &results.experiment;
    let status = match (status, stopped_at) {
        (Status::Running, _) => format!("running since {}", started_at.format("%F %H:%M UTC")),
        (Status::Stopped, at) => {
            let at = at.map(|at| at.format(" %F %H:%M UTC").to_string());
            format!("stopped{}", at.unwrap_or_default())
        }
    };
    let (name, environment, flag) = (&design.name, &design.environment, &design.flag_name);
    let mut lines = vec![printable(&format!("{name} in {environment}, flag {flag}: {status}"))];
    if let Some(hypothesis) = &design.hypothesis {
        lines.extend(screen.wrapped(&printable(hypothesis), ""));
    }
    let conversions = &results.conversions;
    let [attributed, waiting, expired] =
        [conversions.attributed, conversions.waiting, conversions.expired].map(thousands);
    let others = [
        (conversions.before_exposure, "before their exposure"),
        (conversions.after_window, "outside of their window"),
        (conversions.excluded, "of users who are not compared"),
        (conversions.duplicates, "duplicates"),
    ];
    let others = others.iter().filter(|(count, _)| *count > 0);
    let others: String = others.map(|(count, what)| format!(", {} {what}", thousands(*count))).collect();
    let conversions = format!(
        "Conversions: {attributed} counted, {waiting} waiting for an exposure, {expired} without one{others}."
    );
    let counted = results.phase.as_ref().map(|phase| {
        let lasted = (phase.ended_at.unwrap_or(phase.counted_at) - phase.started_at).num_seconds();
        let lasted = duration(lasted.unsigned_abs());
        let phase_number = match results.earlier_phases.len() {
            0 => String::new(),
            _ => format!("Phase {}; its users are counted from zero. ", phase.number),
        };
        format!("{phase_number}{} users in {lasted}. ", thousands(phase.users))
    });
    lines.extend(screen.wrapped(&format!("{}{conversions}", counted.unwrap_or_default()), ""));
    if let Some(counted) = &results.counted {
        lines.extend(screen.wrapped(&freshness(counted), ""));
    }
    lines
}

/// Age of the count, and what is not in it.
fn freshness(counted: &Counted) -> String {
    let age = thousands(counted.age_seconds);
    match (counted.evaluations_since, counted.conversions_since) {
        (Some(0), Some(0)) => format!("Counted {age} s ago; nothing has come in since."),
        (Some(evaluations), Some(conversions)) => {
            let [evaluations, conversions] = [evaluations, conversions].map(thousands);
            format!(
                "Counted {age} s ago; about {evaluations} evaluations (of all flags) and {conversions} conversions \
                 have come in since."
            )
        }
        _ => format!("Counted {age} s ago; Kafka does not answer, so what has come in since is not known."),
    }
}

fn variants(phase: &PhaseResults) -> Vec<String> {
    let head = ["variant", "", "users", "share", "expected", "saw others"].map(str::to_owned).to_vec();
    let rows = phase.variants.iter().map(|of| {
        let part = match of.part {
            Part::Control => "control",
            Part::Treatment => "treatment",
            Part::Holdout => "holdout",
        };
        let share = |share: Option<f64>| share.map_or_else(|| "-".to_owned(), percent);
        let (users, crossed) = (thousands(of.users), thousands(of.crossed));
        vec![of.name.clone(), part.to_owned(), users, share(of.share), share(of.expected_share), crossed]
    });
    use Align::{Left, Right};
    table(&[Left, Left, Right, Right, Right, Right], std::iter::once(head).chain(rows).collect())
}

/// The draws, if the flag's rules have different weights.
fn strata(phase: &PhaseResults) -> Vec<String> {
    if phase.strata.len() < 2 {
        return Vec::new();
    }
    let line = |stratum: &StratumResults| {
        let rules: Vec<String> = stratum.rules.iter().map(|rule| format!("rule {}", rule + 1)).collect();
        let who = if rules.is_empty() { "flag".to_owned() } else { rules.join(", ") };
        let variants = stratum.variants.iter();
        let shares = variants
            .map(|of| format!("{} {} ({})", of.name, thousands(of.users), percent(of.expected_share)));
        printable(&format!("  by {who}: {}", shares.collect::<Vec<_>>().join(", ")))
    };
    let head = "compared within each draw of the flag, combined by their users:".to_owned();
    std::iter::once(head).chain(phase.strata.iter().map(line)).collect()
}

fn split(phase: &PhaseResults, screen: &Screen) -> String {
    match phase.sample_ratio.tested {
        None => "split: not tested".to_owned(),
        Some(test) if phase.sample_ratio.alarm => {
            screen.painted(&format!("split: SAMPLE RATIO MISMATCH, p {}", p_value(test.p_value)), Colour::Bad)
        }
        Some(test) => format!("split: consistent with the weights, p {}", p_value(test.p_value)),
    }
}

fn metrics(phase: &PhaseResults, confidence: f64) -> Vec<String> {
    let interval = format!("{}% interval", (confidence * 1000.0).round() / 10.0);
    let head = ["metric", "variant", "mean", "difference", &interval, "p", "can find", ""];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for metric in &phase.metrics {
        let of = |variant: &str| metric.comparisons.iter().find(|of| of.variant == variant);
        for (at, level) in metric.levels.iter().enumerate() {
            let name = match at {
                0 => metric.metric.name.clone(),
                1 => asked(metric),
                _ => String::new(),
            };
            let mut row = vec![name];
            row.extend([level.variant.clone(), mean(metric, level)]);
            row.extend(of(&level.variant).map(compared).into_iter().flatten());
            rows.push(row);
        }
        if let Some(holdout) = &metric.holdout {
            let mut row = vec![String::new(), against(holdout), String::new()];
            row.extend(compared(holdout));
            rows.push(row);
        }
    }
    use Align::{Left, Right};
    table(&[Left, Left, Right, Right, Left, Right, Right, Left], rows)
}

/// The metric's role, and the direction of its goal.
fn asked(metric: &MetricResults) -> String {
    let goal = match metric.metric.goal {
        Goal::Increase => "up",
        Goal::Decrease => "down",
    };
    let role = match metric.metric.role {
        Role::Primary => "decides",
        Role::Secondary => "beside",
        Role::Guardrail => "guards",
    };
    format!("  {role}, {goal}")
}

fn mean(metric: &MetricResults, level: &Level) -> String {
    let format = |mean: f64| match metric.metric.kind {
        kind if kind.is_rate() => format!("{:.2}%", mean * 100.0),
        _ => number(mean),
    };
    level.mean.map_or_else(|| "-".to_owned(), format)
}

/// Label of the comparison of all other variants with the holdout.
fn against(holdout: &Comparison) -> String {
    format!("all others / {}", holdout.variant)
}

/// The cells of a comparison: difference, interval, p-value, detectable effect, verdict.
fn compared(of: &Comparison) -> Vec<String> {
    if let Some(rare) = &of.rare {
        return rarely(of.verdict, rare);
    }
    let Some(effect) = &of.effect else {
        return ["-", "-", "-", "-", verdict(of.verdict)].map(str::to_owned).to_vec();
    };
    let (difference, interval) = match effect.relative {
        Some(relative) => (signed_percent(relative.difference), relative.interval),
        None => (signed(effect.difference), effect.interval),
    };
    let end = |end: f64| if effect.relative.is_some() { signed_percent(end) } else { signed(end) };
    let found = effect.relative.map(|relative| format!("±{}", percent(relative.minimum_detectable_effect)));
    vec![
        difference,
        format!("{} to {}", end(interval.low), end(interval.high)),
        p_value(effect.p_value),
        found.unwrap_or_else(|| "-".to_owned()),
        verdict(of.verdict).to_owned(),
    ]
}

/// The cells of a rate with few conversions.
fn rarely(verdict: Verdict, rare: &Rare) -> Vec<String> {
    let end = |end: Option<f64>| end.map_or_else(|| "?".to_owned(), signed_percent);
    let interval = format!("{} to {}", end(rare.low), end(rare.high));
    vec!["-".to_owned(), interval, p_value(rare.p_value), "-".to_owned(), self::verdict(verdict).to_owned()]
}

fn bars(phase: &PhaseResults, screen: &Screen) -> Vec<String> {
    let rows = phase.metrics.iter().flat_map(|metric| {
        let name = metric.metric.name.as_str();
        let treatments = metric.comparisons.iter().map(move |of| (name, of.variant.clone(), of));
        treatments.chain(metric.holdout.iter().map(move |of| (name, against(of), of)))
    });
    let bars: Vec<_> =
        rows.filter_map(|(name, variant, of)| Some((name, variant, of, of.effect.as_ref()?))).collect();
    if bars.is_empty() {
        return Vec::new();
    }
    let labels = bars.iter().map(|(name, variant, ..)| vec![(*name).to_owned(), variant.clone()]);
    let labels = table(&[Align::Left; 2], labels.collect());
    let longest = labels.iter().map(|label| label.chars().count()).max().unwrap_or(0);
    let width = screen.width.saturating_sub(longest + 2).clamp(BAR_CHARS_MIN, BAR_CHARS_MAX);
    let scale = Scale::new(bars.iter().filter_map(|(.., effect)| relative(effect)).map(|of| of.1), width);
    let mut lines = vec![format!("{:longest$}  {}", "", scale.legend())];
    lines.extend(labels.iter().zip(&bars).map(|(label, (_, _, of, effect))| {
        let bar = match relative(effect) {
            Some((value, interval)) => screen.painted(&scale.bar(value, interval), colour(of.verdict)),
            None => "no relative difference: the value of the compared variant is too uncertain".to_owned(),
        };
        format!("{label:longest$}  {bar}")
    }));
    lines
}

fn relative(effect: &Effect) -> Option<(f64, Interval)> {
    effect.relative.map(|relative| (relative.difference, relative.interval))
}

fn adjusted(phase: &PhaseResults) -> Vec<String> {
    let adjusted = phase.metrics.iter().filter_map(|metric| Some((&metric.metric.name, metric.cuped?)));
    let line = |(name, cuped): (&String, crate::experiment::results::Adjustment)| {
        let less = percent(cuped.variance_reduction);
        printable(&format!(
            "{name}: adjusted for the users' values before their exposure, which reduces the variance by {less}"
        ))
    };
    adjusted.map(line).collect()
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Better => "better",
        Verdict::Worse => "worse",
        Verdict::NoEffect => "no relevant effect",
        Verdict::Harmed => "HARMED",
        Verdict::SafeSoFar => "safe so far",
        Verdict::NotKnownYet => "not known yet",
    }
}

fn colour(verdict: Verdict) -> Colour {
    match verdict {
        Verdict::Better | Verdict::SafeSoFar => Colour::Good,
        Verdict::Worse | Verdict::Harmed => Colour::Bad,
        Verdict::NoEffect | Verdict::NotKnownYet => Colour::Plain,
    }
}

fn p_value(p_value: f64) -> String {
    if p_value < 0.001 { "<0.001".to_owned() } else { format!("{p_value:.3}") }
}

/// Formats a number with a precision suitable for its size.
fn number(value: f64) -> String {
    let decimals = if value.abs() >= 1_000.0 { 0 } else { 3 };
    format!("{value:.decimals$}")
}

fn signed(value: f64) -> String {
    format!("{value:+.4}")
}

#[cfg(test)]
mod tests;
