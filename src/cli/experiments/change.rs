//! `experiments create` and `experiments stop`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::cli::service::Answered;
use crate::cli::{Global, Output, UsageError, print, render};
use crate::experiment::results::Experiment;
use crate::http::segment;

use super::PlaceArgs;

#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// The experiment in JSON, as described in docs/api.md
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Debug, clap::Args)]
pub struct StopArgs {
    /// Name of the experiment
    name: String,
    /// Reason, stored with the experiment
    #[arg(long)]
    reason: Option<String>,
    /// The chosen variant
    #[arg(long)]
    winner: Option<String>,
    #[command(flatten)]
    place: PlaceArgs,
}

pub async fn create(mut args: CreateArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    let file = args.file.display();
    let text = std::fs::read_to_string(&args.file).with_context(|| format!("cannot read {file}"))?;
    let mut body: Map<String, Value> =
        serde_json::from_str(&text).with_context(|| format!("{file}: expected an experiment in JSON"))?;
    args.place.environment = environment(&body, args.place.environment.take())?;
    body.insert("environment".to_owned(), args.place.environment(&config).into());
    let path = args.place.path("", &config);
    let answered = args.place.service(&config)?.call(Method::POST, &path, None, Some(&body)).await?;
    told(&answered, "runs", global)
}

pub async fn stop(args: StopArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    let path = args.place.path(&format!("/{}/stop", segment(&args.name)), &config);
    let body = json!({"reason": args.reason, "winner": args.winner});
    let answered = args.place.service(&config)?.call(Method::POST, &path, None, Some(&body)).await?;
    told(&answered, "is stopped", global)
}

/// The environment of the file or of the command line. If both are given they must be equal.
fn environment(body: &Map<String, Value>, asked: Option<String>) -> Result<Option<String>, UsageError> {
    let written = body.get("environment").and_then(Value::as_str);
    match (written, asked) {
        (Some(written), Some(asked)) if written != asked => {
            Err(UsageError(format!("--environment {asked}: the file has the environment {written}")))
        }
        (written, asked) => Ok(asked.or(written.map(str::to_owned))),
    }
}

fn told(answered: &Answered, what: &str, global: &Global) -> anyhow::Result<ExitCode> {
    print::line(&match global.output {
        Output::Json => answered.body.clone(),
        Output::Text => {
            let of: Experiment = serde_json::from_str(&answered.body)
                .context("the response is not an experiment from flagstream; check --url")?;
            let (name, environment) = (of.design.name, of.design.environment);
            render::printable(&format!(
                "{name} in {environment} {what}; flagstream experiments show {name} --environment {environment}"
            ))
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_and_the_command_line_agree_on_the_environment() {
        let of = |written: Value, asked: Option<&str>| {
            environment(written.as_object().unwrap(), asked.map(str::to_owned))
                .map_err(|error| error.to_string())
        };
        let written = json!({"environment": "production"});
        assert_eq!(of(written.clone(), None), Ok(Some("production".to_owned())));
        assert_eq!(of(json!({}), Some("development")), Ok(Some("development".to_owned())));
        let refused = of(written, Some("development"));
        assert_eq!(
            refused,
            Err("--environment development: the file has the environment production".to_owned())
        );
    }
}
