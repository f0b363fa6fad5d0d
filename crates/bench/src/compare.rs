//! `bench compare`: two builds of this program take turns with one benchmark.
//!
//! In each round both run the same benchmark once, the order alternates, and the ratio of their results is one sample.
//! The interval of the median ratio comes from the order of the samples (sign test), so no distribution is assumed. A
//! benchmark fails only if the whole interval is below the limit: noise of a busy machine widens it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::process::Command;

use super::stream::median;

/// Confidence of the interval of a ratio, where the number of rounds allows it.
const CONFIDENCE: f64 = 0.95;

/// Parameters of the comparison.
#[derive(Debug, clap::Args)]
pub struct CompareArgs {
    /// The `flagstream-bench` of the earlier build
    #[arg(long, value_name = "PATH")]
    pub base: PathBuf,
    /// The `flagstream-bench` to examine [default: this program]
    #[arg(long, value_name = "PATH")]
    pub new: Option<PathBuf>,
    /// Number of counted rounds; with 6 or more, the interval has a confidence of 95 %
    #[arg(long, default_value_t = 6)]
    pub rounds: usize,
    /// Decrease that is a failure, in percent
    #[arg(long, default_value_t = 5.0)]
    pub tolerance: f64,
    /// The benchmark with its arguments, for example: `stream --requests 300000 --rounds 1`
    #[arg(last = true, required = true, value_name = "BENCHMARK")]
    pub benchmark: Vec<String>,
}

/// The comparison of each arm.
#[derive(Debug, serde::Serialize)]
pub struct CompareReport {
    pub benchmark: String,
    pub rounds: usize,
    pub tolerance_percent: f64,
    pub arms: Vec<Compared>,
}

#[derive(Debug, serde::Serialize)]
pub struct Compared {
    pub arm: String,
    pub base: Quartiles,
    pub new: Quartiles,
    /// Median of the ratios new / base, and its interval.
    pub ratio: f64,
    pub lowest: f64,
    pub highest: f64,
    /// Whether the whole interval is below the tolerated decrease.
    pub is_regression: bool,
}

/// Lower quartile, median and upper quartile of the rounds.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Quartiles {
    pub lower: f64,
    pub median: f64,
    pub upper: f64,
}

impl CompareReport {
    pub fn has_regressions(&self) -> bool {
        self.arms.iter().any(|arm| arm.is_regression)
    }
}

/// Runs both builds in turn. The first round is a warm-up and is discarded.
pub async fn run(args: &CompareArgs) -> anyhow::Result<CompareReport> {
    ensure!(args.rounds >= 1, "--rounds: expected at least 1");
    ensure!(args.tolerance > 0.0, "--tolerance: expected a positive percentage");
    let own = std::env::current_exe().context("the path of this program")?;
    let new = args.new.as_ref().unwrap_or(&own);
    let mut samples: BTreeMap<String, (Vec<f64>, Vec<f64>)> = BTreeMap::new();
    for round in 0..=args.rounds {
        let mut results = Vec::new();
        // The order alternates, because the second one of a round finds warmer caches.
        let is_swapped = round % 2 == 1;
        let order: [&Path; 2] = if is_swapped { [new, &args.base] } else { [&args.base, new] };
        for program in order {
            results.push(measure(program, &args.benchmark, &[]).await?);
        }
        if is_swapped {
            results.reverse();
        }
        let [base, new] = results.as_slice() else { continue };
        if round == 0 {
            continue;
        }
        for (arm, median) in base {
            let Some(other) = new.get(arm) else { continue };
            tracing::info!(round, arm, base = median, new = other, ratio = other / median, "measured");
            let (bases, news) = samples.entry(arm.clone()).or_default();
            bases.push(*median);
            news.push(*other);
        }
    }
    ensure!(!samples.is_empty(), "the two builds have no arm in common");
    let limit = 1.0 - args.tolerance / 100.0;
    let arms = samples.into_iter().map(|(arm, (base, new))| compared(arm, &base, &new, limit));
    Ok(CompareReport {
        benchmark: args.benchmark.join(" "),
        rounds: args.rounds,
        tolerance_percent: args.tolerance,
        arms: arms.collect(),
    })
}

/// The median of each arm in one run of a benchmark, with these environment variables.
pub(super) async fn measure(
    program: &Path,
    benchmark: &[String],
    variables: &[(&str, &str)],
) -> anyhow::Result<BTreeMap<String, f64>> {
    let mut command = Command::new(program);
    command.args(["--output", "json"]).args(benchmark).envs(variables.iter().copied());
    command.stdin(Stdio::null()).stderr(Stdio::inherit());
    let shown = program.display();
    let output = command.output().await.with_context(|| format!("{shown} cannot be started"))?;
    ensure!(output.status.success(), "{shown} failed: {}", output.status);
    let report: Value =
        serde_json::from_slice(&output.stdout).with_context(|| format!("{shown}: the report is not JSON"))?;
    let arms = medians(&report);
    ensure!(!arms.is_empty(), "{shown}: the report of this benchmark has no arms to compare");
    Ok(arms)
}

/// The medians in a report, by the names of the arms.
fn medians(report: &Value) -> BTreeMap<String, f64> {
    let arms = report.get("arms").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let median = |arm: &Value| {
        let value = arm.get("median")?.as_f64().filter(|value| value.is_finite() && *value > 0.0)?;
        Some((arm.get("arm")?.as_str()?.to_owned(), value))
    };
    arms.iter().filter_map(median).collect()
}

pub(super) fn compared(arm: String, base: &[f64], new: &[f64], limit: f64) -> Compared {
    let ratios: Vec<f64> = base.iter().zip(new).map(|(base, new)| new / base).collect();
    let (lowest, highest) = interval(&ratios);
    Compared {
        arm,
        base: quartiles(base),
        new: quartiles(new),
        ratio: median(&ratios),
        lowest,
        highest,
        is_regression: highest < limit,
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn quartiles(values: &[f64]) -> Quartiles {
    let sorted = sorted(values);
    let at = |part: f64| {
        let last = sorted.len().saturating_sub(1) as f64;
        sorted.get((last * part).round() as usize).copied().unwrap_or(f64::NAN)
    };
    Quartiles { lower: at(0.25), median: at(0.5), upper: at(0.75) }
}

/// Interval of the median: between the k-th smallest and the k-th largest value, with the largest k that keeps the
/// confidence. With fewer than 6 values it is the whole range.
fn interval(values: &[f64]) -> (f64, f64) {
    let sorted = sorted(values);
    let count = sorted.len();
    // Probability that at most `outside` of the values are on one given side of the true median.
    let mut outside = 0;
    let (mut term, mut sum) = (0.5_f64.powi(i32::try_from(count).unwrap_or(i32::MAX)), 0.0);
    for below in 0..count / 2 {
        sum += term;
        if 2.0 * sum > 1.0 - CONFIDENCE {
            break;
        }
        outside = below;
        term *= (count - below) as f64 / (below + 1) as f64;
    }
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    (at(outside), at(count.saturating_sub(1 + outside)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_a_median_has_the_ranks_of_the_sign_test() {
        let of = |count: u32| interval(&(1..=count).map(f64::from).collect::<Vec<_>>());
        // Ranks as in tables of the sign test at 95 %.
        assert_eq!(
            [of(3), of(6), of(9), of(12), of(20)],
            [(1.0, 3.0), (1.0, 6.0), (2.0, 8.0), (3.0, 10.0), (6.0, 15.0)]
        );
    }

    #[test]
    fn only_a_decrease_outside_the_noise_is_a_regression() {
        let base = [100.0; 6];
        let of = |new: [f64; 6]| compared("arm".to_owned(), &base, &new, 0.95).is_regression;
        assert!(of([90.0, 91.0, 89.0, 94.0, 90.0, 92.0]));
        assert!(!of([90.0, 91.0, 89.0, 99.0, 90.0, 92.0]), "one round shows none");
        assert!(!of([96.0; 6]), "within the tolerance");
        assert!(!of([120.0; 6]), "an improvement");
    }

    #[test]
    fn medians_are_read_from_any_report_with_arms() {
        let report = serde_json::json!({
            "arms": [{ "arm": "a", "median": 5.0 }, { "arm": "b", "median": null }, { "median": 1.0 }],
        });
        assert_eq!(medians(&report), BTreeMap::from([("a".to_owned(), 5.0)]));
        assert!(medians(&serde_json::json!({ "ratio": 1.0 })).is_empty());
    }
}
