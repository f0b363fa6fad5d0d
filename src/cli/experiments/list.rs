//! `experiments list`.

use std::process::ExitCode;

use anyhow::Context;
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;

use crate::cli::{Global, Output, print};
use crate::experiment::Role;
use crate::experiment::results::{Experiment, Status};

use super::PlaceArgs;
use super::table::{Align, table};

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Deserialize)]
struct Answer {
    experiments: Vec<Experiment>,
}

pub async fn list(args: ListArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    let path = args.place.path("", &config);
    let answered = args.place.service(&config)?.call(Method::GET, &path, None, None::<&Value>).await?;
    if global.output == Output::Json {
        let answer: Value = serde_json::from_str(&answered.body)?;
        for experiment in answer.get("experiments").and_then(Value::as_array).into_iter().flatten() {
            if !print::line(&experiment.to_string())? {
                break;
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let answer: Answer = serde_json::from_str(&answered.body)
        .context("the response is not a list of experiments from flagstream; check --url")?;
    for line in lines(&answer.experiments) {
        if !print::line(&line)? {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(experiments: &[Experiment]) -> Vec<String> {
    let head = ["name", "status", "started", "flag", "decided by"].map(str::to_owned).to_vec();
    let rows = experiments.iter().map(|of| {
        let primary = of.design.metrics.iter().filter(|metric| metric.role == Role::Primary);
        let primary: Vec<_> = primary.map(|metric| metric.name.as_str()).collect();
        let status = match (of.status, &of.winner) {
            (Status::Running, _) => "running".to_owned(),
            (Status::Stopped, None) => "stopped".to_owned(),
            (Status::Stopped, Some(winner)) => format!("stopped, {winner} won"),
        };
        let started = of.started_at.format("%F %H:%M").to_string();
        vec![of.design.name.clone(), status, started, of.design.flag_name.clone(), primary.join(", ")]
    });
    table(&[Align::Left; 5], std::iter::once(head).chain(rows).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flagstream_experiments::sample_data::experiment;

    #[test]
    fn an_experiment_is_a_line() {
        let mut stopped = experiment(None);
        stopped.status = Status::Stopped;
        stopped.winner = Some("new".to_owned());
        let lines = lines(&[experiment(None), stopped]);
        assert_eq!(lines[1], "checkout  running           2026-01-01 00:00  new-checkout  purchase");
        assert_eq!(lines[2], "checkout  stopped, new won  2026-01-01 00:00  new-checkout  purchase");
    }
}
