//! `experiments plan`: how many users and days an experiment needs.

use std::process::ExitCode;

use anyhow::{Context, bail};
use reqwest::Method;
use serde::Serialize;
use serde_json::Value;

use crate::cli::{Global, Output, UsageError, print};
use crate::experiment::Results;
use crate::experiment::results::Part;
use crate::experiment::results::explanations::{percent, thousands};
use crate::experiment::statistics::planning::{Needed, Plan};
use crate::http::segment;

use super::PlaceArgs;

const SECONDS_PER_DAY: f64 = 86_400.0;

#[derive(Debug, clap::Args)]
pub struct PlanArgs {
    /// Rate or mean of the control
    #[arg(long, required_unless_present = "from")]
    baseline: Option<f64>,
    /// Standard deviation of the users' values; without it the baseline is a rate
    #[arg(long)]
    deviation: Option<f64>,
    /// Effect to find, relative to the baseline: 0.05 for five per cent
    #[arg(long)]
    effect: f64,
    /// Weights of the control and of each treatment
    #[arg(long, value_delimiter = ':', default_value = "50:50", value_name = "WEIGHTS")]
    split: Vec<f64>,
    /// Users a day
    #[arg(long)]
    traffic: Option<f64>,
    /// Number of deciding metrics
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20))]
    primary_metrics: u32,
    #[arg(long, default_value_t = 0.95)]
    confidence: f64,
    #[arg(long, default_value_t = 0.8)]
    power: f64,
    /// Measure baseline, deviation and traffic in the rows of this experiment
    #[arg(long, value_name = "EXPERIMENT", requires = "metric")]
    from: Option<String>,
    /// Metric of that experiment
    #[arg(long)]
    metric: Option<String>,
    #[command(flatten)]
    place: PlaceArgs,
}

/// Baseline of a plan.
#[derive(Debug, Clone, Copy, Serialize)]
struct Baseline {
    mean: f64,
    deviation: Option<f64>,
    /// Users a day.
    traffic: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    baseline: Baseline,
    effect: f64,
    /// Users of all variants.
    users: u64,
    days: Option<u64>,
    /// Value of `planned_users` for the experiment.
    planned_users: u64,
    /// Users without `planned_users`.
    users_without_plan: u64,
    /// Users for a single look at the end.
    users_single_look: u64,
}

pub async fn plan(args: PlanArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let shares = shares(&args)?;
    let baseline = baseline(&args, global).await?;
    let treatments = u32::try_from(args.split.len() - 1).unwrap_or(u32::MAX);
    let plan = Plan {
        mean: baseline.mean,
        deviation: baseline.deviation,
        effect: args.effect,
        shares,
        comparisons: treatments.saturating_mul(args.primary_metrics),
        confidence: args.confidence,
        power: args.power,
    };
    let Some(needed) = plan.users() else {
        bail!("no number of users finds this effect: check --baseline, --deviation and --effect");
    };
    let report = report(&args, baseline, needed);
    print::line(&match global.output {
        Output::Json => serde_json::to_string(&report)?,
        Output::Text => text(&report),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Shares of the control and of the smallest treatment.
fn shares(args: &PlanArgs) -> Result<[f64; 2], UsageError> {
    let total: f64 = args.split.iter().sum();
    let valid = args.split.iter().all(|weight| weight.is_finite() && *weight > 0.0);
    let smallest = args.split.iter().skip(1).copied().reduce(f64::min);
    match (args.split.first(), smallest) {
        (Some(control), Some(smallest)) if valid => Ok([control / total, smallest / total]),
        _ => Err(UsageError("--split: expected at least two weights above 0, such as 50:50".to_owned())),
    }
}

async fn baseline(args: &PlanArgs, global: &Global) -> anyhow::Result<Baseline> {
    let (Some(name), Some(metric)) = (&args.from, &args.metric) else {
        let (mean, deviation) = (args.baseline.unwrap_or_default(), args.deviation);
        let is_rate = deviation.is_none();
        if is_rate && !(mean > 0.0 && mean < 1.0) {
            let message = "--baseline: expected a rate between 0 and 1; a mean needs --deviation";
            return Err(UsageError(message.to_owned()).into());
        }
        return Ok(Baseline { mean, deviation, traffic: args.traffic });
    };
    let config = global.load_config()?;
    let path = args.place.path(&format!("/{}/results", segment(name)), &config);
    let answered = args.place.service(&config)?.call(Method::GET, &path, None, None::<&Value>).await?;
    let results: Results = serde_json::from_str(&answered.body)
        .context("the response does not contain results from flagstream; check --url")?;
    measured(&results, metric, args.traffic)
        .with_context(|| format!("{name}: the control has no value for the metric {metric} yet"))
}

/// Baseline of the control, and the users a day so far.
fn measured(results: &Results, metric: &str, traffic: Option<f64>) -> Option<Baseline> {
    let phase = results.phase.as_ref()?;
    let control = phase.variants.iter().find(|variant| variant.part == Part::Control)?;
    let found = phase.metrics.iter().find(|of| of.metric.name == metric)?;
    let level = found.levels.iter().find(|level| level.variant == control.name)?;
    let lasted = (phase.ended_at.unwrap_or(phase.counted_at) - phase.started_at).as_seconds_f64();
    let measured = (lasted > 0.0).then(|| phase.users as f64 / lasted * SECONDS_PER_DAY);
    let deviation = level.deviation.filter(|_| !found.metric.kind.is_rate());
    Some(Baseline { mean: level.mean?, deviation, traffic: traffic.or(measured) })
}

fn report(args: &PlanArgs, baseline: Baseline, needed: Needed) -> Report {
    let traffic = baseline.traffic.filter(|traffic| *traffic > 0.0);
    Report {
        baseline,
        effect: args.effect,
        users: needed.tuned,
        days: traffic.map(|traffic| (needed.tuned as f64 / traffic).ceil() as u64),
        planned_users: needed.compared,
        users_without_plan: needed.usual,
        users_single_look: needed.single_look,
    }
}

fn text(report: &Report) -> String {
    let Baseline { mean, deviation, traffic } = report.baseline;
    let baseline = match deviation {
        Some(deviation) => format!("a mean of {mean:.4} (standard deviation {deviation:.4})"),
        None => format!("a rate of {:.2}%", mean * 100.0),
    };
    let days = match (report.days, traffic) {
        (Some(days), Some(traffic)) => {
            let days = if days == 1 { "1 day".to_owned() } else { format!("{} days", thousands(days)) };
            format!(", {days} at {} users a day", thousands(traffic.round() as u64))
        }
        _ => String::new(),
    };
    let [users, without, single] =
        [report.users, report.users_without_plan, report.users_single_look].map(thousands);
    format!(
        "To find an effect of {} on {baseline}: {users} users{days}.\nSet \"planned_users\": {} in the experiment, so that \
         the intervals are narrowest then.\nWithout it: {without} users. For a single look at the end: {single} users.",
        percent(report.effect),
        report.planned_users
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::experiment::results::Conversions;
    use flagstream_experiments::sample_data::{experiment, tally, variant};

    #[test]
    fn the_control_of_an_experiment_is_the_baseline() {
        let counted = tally(vec![variant("old", 5_000, 100, 20), variant("new", 5_000, 150, 20)]);
        let results = Results::of(experiment(None), &[counted], Conversions::default());
        let rate = measured(&results, "purchase", None).unwrap();
        assert!((rate.mean - 0.1).abs() < 1e-12, "{rate:?}");
        assert_eq!((rate.deviation, rate.traffic), (None, Some(1_000.0)));
        let amount = measured(&results, "amount", Some(7.0)).unwrap();
        assert!(
            (amount.mean - 1.0).abs() < 1e-12 && (amount.deviation.unwrap() - 3.0).abs() < 1e-3,
            "{amount:?}"
        );
        assert_eq!(amount.traffic, Some(7.0));
        assert!(measured(&results, "other", None).is_none());
    }

    #[test]
    fn a_plan_is_three_sentences() {
        let report = Report {
            baseline: Baseline { mean: 0.1, deviation: None, traffic: Some(2_000.0) },
            effect: 0.1,
            users: 54_108,
            days: Some(28),
            planned_users: 54_108,
            users_without_plan: 57_966,
            users_single_look: 29_488,
        };
        assert_eq!(
            text(&report),
            "To find an effect of 10.0% on a rate of 10.00%: 54,108 users, 28 days at 2,000 users a day.\nSet \
             \"planned_users\": 54108 in the experiment, so that the intervals are narrowest then.\nWithout it: 57,966 \
             users. For a single look at the end: 29,488 users."
        );
    }
}
