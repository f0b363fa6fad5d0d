//! `experiments simulate`: the source of the error rates in docs/experiments.md.

use std::process::ExitCode;

use serde::Serialize;

use crate::cli::{Global, Output, print};
use crate::experiment::results::explanations::{percent, thousands};
use crate::experiment::simulation::{
    CONFIDENCE, Extent, Rates, SampleRatioRates, all, rates, sample_ratio_rates,
};

use super::table::{Align, table};

/// Number of users in the simulated splits.
const SPLIT_USERS: u64 = 20_000;

#[derive(Debug, clap::Args)]
pub struct SimulateArgs {
    /// Number of simulated experiments of each kind
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    runs: u32,
    /// Days per experiment; the results are examined after each day
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    days: u32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    extent: Extent,
    scenarios: Vec<Rates>,
    sample_ratio: Vec<SampleRatioRates>,
}

/// Runs the simulation. Exit code 1 if the intervals contain the true difference less often than the confidence
/// promises.
pub fn simulate(args: &SimulateArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let extent = Extent { runs: args.runs, days: args.days, seed: args.seed };
    let report = Report {
        extent,
        scenarios: all().iter().map(|scenario| rates(scenario, &extent)).collect(),
        sample_ratio: [0.5, 0.52].map(|share| sample_ratio_rates(share, SPLIT_USERS, &extent)).to_vec(),
    };
    print::line(&match global.output {
        Output::Json => serde_json::to_string(&report)?,
        Output::Text => text(&report),
    })?;
    let met = report.scenarios.iter().all(|rates| rates.covered >= CONFIDENCE);
    Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(report: &Report) -> String {
    let Extent { runs, days, seed } = report.extent;
    let mut lines = vec![
        format!("{} experiments each, {days} daily looks, seed {seed}", thousands(runs.into())),
        String::new(),
    ];
    let head = ["", "users", "effect", "found", "median day", "single looks", "covered", "relative"];
    let rows = report.scenarios.iter().map(|of| {
        let day =
            of.median_day.filter(|_| of.effect > 0.0).map_or_else(|| "-".to_owned(), |day| day.to_string());
        let effect = if of.effect > 0.0 { percent(of.effect) } else { "none".to_owned() };
        let shares = [of.found_by_single_looks, of.covered, of.covered_relative].map(percent);
        let mut row = vec![of.name.clone(), thousands(of.users), effect, percent(of.found), day];
        row.extend(shares);
        row
    });
    let rows = std::iter::once(head.map(str::to_owned).to_vec()).chain(rows).collect();
    use Align::{Left, Right};
    lines.extend(table(&[Left, Right, Right, Right, Right, Right, Right, Right], rows));
    lines.push(String::new());
    let head = ["split", "users", "alarm", "single looks"].map(str::to_owned).to_vec();
    let rows = report.sample_ratio.iter().map(|of| {
        let split = format!("{:.0}:{:.0}", of.share * 100.0, (1.0 - of.share) * 100.0);
        vec![split, thousands(of.users), percent(of.alarms), percent(of.alarms_of_single_looks)]
    });
    lines.extend(table(&[Left, Right, Right, Right], std::iter::once(head).chain(rows).collect()));
    lines.join("\n")
}
