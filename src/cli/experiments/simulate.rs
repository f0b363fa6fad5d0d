//! `experiments simulate`: the source of the error rates in docs/experiments.md.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;

use crate::cli::{Global, Output, print};
use crate::experiment::results::explanations::{percent, signed_percent, thousands};
use crate::experiment::simulation::{
    Extent, Rates, SampleRatioRates, Scenario, all, all_traffic, large_effects, rates, sample_ratio_rates,
    traffic_rates,
};

use super::table::{Align, table};

/// Number of users in the simulated splits.
const SPLIT_USERS: u64 = 20_000;

/// Marks of the table in a document.
const BEGIN: &str = "<!-- simulated: begin -->";
const END: &str = "<!-- simulated: end -->";

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
    /// Replace the table in this document by the output
    #[arg(long, value_name = "FILE")]
    update: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Report {
    extent: Extent,
    scenarios: Vec<Rates>,
    /// Experiments that are counted row by row.
    traffic: Vec<Rates>,
    /// Large effects: for each metric and effect, one of ten, half and nine of ten users are treated.
    large_effects: Vec<Vec<Rates>>,
    sample_ratio: Vec<SampleRatioRates>,
}

/// Runs the simulation. Exit code 1 if the intervals contain the true difference less often than the confidence
/// promises.
pub fn simulate(args: &SimulateArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let extent = Extent { runs: args.runs, days: args.days, seed: args.seed };
    let of_splits = |splits: &[Scenario; 3]| splits.iter().map(|scenario| rates(scenario, &extent)).collect();
    let report = Report {
        extent,
        scenarios: all().iter().map(|scenario| rates(scenario, &extent)).collect(),
        traffic: all_traffic().iter().map(|scenario| traffic_rates(scenario, &extent)).collect(),
        large_effects: large_effects().iter().map(of_splits).collect(),
        sample_ratio: [0.5, 0.52].map(|share| sample_ratio_rates(share, SPLIT_USERS, &extent)).to_vec(),
    };
    if let Some(file) = &args.update {
        let document =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let updated = updated(&document, &text(&report))
            .with_context(|| format!("{}: expected the comments {BEGIN} and {END}", file.display()))?;
        std::fs::write(file, updated).with_context(|| format!("cannot write {}", file.display()))?;
    }
    print::line(&match global.output {
        Output::Json => serde_json::to_string(&report)?,
        Output::Text => text(&report),
    })?;
    let all = report.scenarios.iter().chain(&report.traffic).chain(report.large_effects.iter().flatten());
    let broken: Vec<&Rates> = all.filter(|rates| !rates.are_kept()).collect();
    for rates in &broken {
        print::note(format_args!("flagstream: {}: the error rates are not kept", rates.name));
    }
    Ok(if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Replaces the table between the marks.
fn updated(document: &str, table: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n```\n{table}\n```\n{END}{after}"))
}

fn text(report: &Report) -> String {
    let Extent { runs, days, seed } = report.extent;
    let mut lines = vec![
        format!("{} experiments each, {days} daily looks, seed {seed}", thousands(runs.into())),
        String::new(),
    ];
    lines.extend(scenarios("", &report.scenarios));
    lines.push(String::new());
    lines.extend(scenarios("counted row by row", &report.traffic));
    lines.push(String::new());
    lines.extend(large(&report.large_effects));
    lines.push(String::new());
    use Align::{Left, Right};
    let head = ["split", "users", "alarm", "single looks"].map(str::to_owned).to_vec();
    let rows = report.sample_ratio.iter().map(|of| {
        let split = format!("{:.0}:{:.0}", of.share * 100.0, (1.0 - of.share) * 100.0);
        vec![split, thousands(of.users), percent(of.alarms), percent(of.alarms_of_single_looks)]
    });
    lines.extend(table(&[Left, Right, Right, Right], std::iter::once(head).chain(rows).collect()));
    lines.join("\n")
}

fn scenarios(title: &str, rates: &[Rates]) -> Vec<String> {
    let head =
        [title, "users", "effect", "found", "median look", "single looks", "covered", "relative", "refused"];
    let rows = rates.iter().map(|of| {
        let look =
            of.median_day.filter(|_| of.effect != 0.0).map_or_else(|| "-".to_owned(), |day| day.to_string());
        let effect = if of.effect == 0.0 { "none".to_owned() } else { percent(of.effect) };
        let shares = [of.found_by_single_looks, of.covered, of.covered_relative, of.refused].map(percent);
        let mut row = vec![of.name.clone(), thousands(of.users), effect, percent(of.found), look];
        row.extend(shares);
        row
    });
    let rows = std::iter::once(head.map(str::to_owned).to_vec()).chain(rows).collect();
    use Align::{Left, Right};
    table(&[Left, Right, Right, Right, Right, Right, Right, Right, Right], rows)
}

/// Coverage of large effects, absolute / relative, by the share of treated users; `refused` where no interval is given.
fn large(effects: &[Vec<Rates>]) -> Vec<String> {
    let head = ["covered (absolute / relative)", "effect", "10% treated", "50% treated", "90% treated"];
    let cell = |of: &Rates| match of.refused {
        refused if refused > 0.5 => format!("refused in {}", percent(refused)),
        _ => format!("{} / {}", percent(of.covered), percent(of.covered_relative)),
    };
    let rows = effects.iter().filter_map(|splits| {
        let first = splits.first()?;
        let mut row = vec![first.name.clone(), signed_percent(first.effect)];
        row.extend(splits.iter().map(cell));
        Some(row)
    });
    use Align::{Left, Right};
    let rows = std::iter::once(head.map(str::to_owned).to_vec()).chain(rows).collect();
    table(&[Left, Right, Right, Right, Right], rows)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../../docs/experiments.md");

    #[test]
    fn the_documented_table_has_every_scenario() {
        let (_, table) = DOCUMENT.split_once(BEGIN).unwrap();
        let (table, _) = table.split_once(END).unwrap();
        let has = |name: &str, users: u64| {
            let mut lines = table.lines();
            assert!(
                lines.any(|line| line.starts_with(name) && line.contains(&thousands(users))),
                "{name} {users}"
            );
        };
        all().iter().for_each(|scenario| has(&scenario.name, scenario.users));
        all_traffic().iter().for_each(|scenario| has(scenario.name, scenario.users));
        for [scenario, ..] in large_effects() {
            let effect = signed_percent(scenario.effect);
            let mut lines = table.lines();
            assert!(lines.any(|line| line.starts_with(&scenario.name) && line.contains(&effect)), "{effect}");
        }
    }

    #[test]
    fn the_table_of_a_document_is_replaced() {
        let document = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let new = updated(&document, "new").unwrap();
        assert_eq!(new, format!("a\n{BEGIN}\n```\nnew\n```\n{END}\nb\n"));
        assert_eq!(updated(&new, "new").unwrap(), new);
        assert_eq!(updated("nothing", "new"), None);
    }
}
