//! `flags stale` and `flags cleanup`: list flags that need a review, and remove archived ones.

use std::process::ExitCode;

use reqwest::Method;
use serde_json::{Value, json};

use crate::cli::service::{Options, Service};
use crate::cli::{Global, Output, print, render};
use crate::http::segment;

/// Number of flags per request.
const PAGE: usize = 100;

#[derive(Debug, clap::Args)]
pub struct StaleArgs {
    /// Environment (default: all environments of the token)
    #[arg(long)]
    environment: Option<String>,
    /// Number of days a flag must have been on to count as always on
    #[arg(long, default_value_t = 30)]
    days: u32,
    /// Minimum number of days since the last evaluation of an unused flag
    #[arg(long, default_value_t = 90)]
    unused_days: u32,
    /// Leave out flags that are younger than this many days
    #[arg(long, default_value_t = 0)]
    min_age_days: u32,
    /// Archive the unused local flags (this disables them; `flags cleanup` removes them later)
    #[arg(long)]
    archive_unused: bool,
    /// Reason for archiving, stored with each change
    #[arg(long, requires = "archive_unused")]
    reason: Option<String>,
    #[command(flatten)]
    service: Options,
}

#[derive(Debug, clap::Args)]
pub struct CleanupArgs {
    /// Environment (default: all environments of the token)
    #[arg(long)]
    environment: Option<String>,
    /// Select flags that were archived more than this many days ago
    #[arg(long, default_value_t = 90)]
    older_than_days: u32,
    /// Remove the flags; without this option they are only listed
    #[arg(long)]
    apply: bool,
    /// Reason, stored with each removal
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    service: Options,
}

pub async fn stale(args: StaleArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let service = Service::new(&args.service, &global.load_config()?)?;
    let environment = in_environment(args.environment.as_deref());
    let mut unused = Vec::new();
    for page in 0.. {
        let (days, age, offset) = (args.days, args.min_age_days, page * PAGE);
        let unused_days = args.unused_days;
        let path = format!(
            "/api/v1/feature-flags/stale?days={days}&unused_days={unused_days}&min_age_days={age}&limit={PAGE}\
             &offset={offset}{environment}"
        );
        let answered = service.call(Method::GET, &path, None, None::<&Value>).await?;
        let answer: Value = serde_json::from_str(&answered.body)?;
        let flags = list(&answer, "items");
        for flag in flags {
            if list(flag, "reasons").iter().any(|reason| reason == "unused") {
                unused.push(flag.clone());
            }
            let line = match global.output {
                Output::Json => flag.to_string(),
                Output::Text => render::printable(&stale_line(flag, days)),
            };
            if !print::line(&line)? {
                return Ok(ExitCode::SUCCESS);
            }
        }
        if flags.len() < PAGE {
            break;
        }
    }
    match args.archive_unused {
        true => archive(&service, &unused, args.reason.as_deref()).await,
        false => Ok(ExitCode::SUCCESS),
    }
}

/// Archives unused local flags, and reports the outcome of each on stderr.
async fn archive(service: &Service, unused: &[Value], reason: Option<&str>) -> anyhow::Result<ExitCode> {
    let mut failed = false;
    for flag in unused {
        let text = |name: &str| flag.get(name).and_then(Value::as_str).unwrap_or_default();
        let (name, environment) = (text("name"), text("environment"));
        let shown = render::printable(&format!("{name} in {environment}"));
        if text("source") != "local" {
            print::note(format_args!(
                "flagstream: {shown}: archive it where it is managed, in {}",
                text("source")
            ));
            continue;
        }
        let path = format!("/api/v1/feature-flags/{}?environment={}", segment(name), segment(environment));
        let reason = reason.unwrap_or("unused");
        match service.call(Method::PUT, &path, Some(reason), Some(&json!({"status": "archived"}))).await {
            Ok(_) => print::note(format_args!("flagstream: {shown}: archived")),
            Err(error) => {
                failed = true;
                print::note(format_args!("flagstream: {shown}: not archived: {error:#}"));
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

pub async fn cleanup(args: CleanupArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let service = Service::new(&args.service, &global.load_config()?)?;
    let environment = in_environment(args.environment.as_deref()).replacen('&', "?", 1);
    let path = format!("/api/v1/feature-flags/cleanup{environment}");
    let body = json!({"older_than_days": args.older_than_days, "dry_run": !args.apply});
    let answered = service.call(Method::POST, &path, args.reason.as_deref(), Some(&body)).await?;
    let answer: Value = serde_json::from_str(&answered.body)?;
    let mut failed = false;
    for flag in list(&answer, "flags") {
        let text = |name: &str| flag.get(name).and_then(Value::as_str);
        failed |= text("error").is_some();
        let what = match (text("error"), args.apply) {
            (Some(error), _) => format!("not removed: {error}"),
            (None, true) => "removed".to_owned(),
            (None, false) => "would be removed".to_owned(),
        };
        let [name, environment, at] =
            ["name", "environment", "archived_at"].map(|name| text(name).unwrap_or_default());
        let line = match global.output {
            Output::Json => flag.to_string(),
            Output::Text => render::printable(&format!("{name} in {environment}, archived {at}: {what}")),
        };
        if !print::line(&line)? {
            break;
        }
    }
    if answer.get("more") == Some(&Value::Bool(true)) {
        print::note("flagstream: there are more flags; run the command again");
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn in_environment(environment: Option<&str>) -> String {
    environment.map_or_else(String::new, |name| format!("&environment={}", segment(name)))
}

fn list<'v>(answer: &'v Value, name: &str) -> &'v [Value] {
    answer.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn stale_line(flag: &Value, days: u32) -> String {
    let text = |name: &str| flag.get(name).and_then(Value::as_str);
    let number = |name: &str| flag.get(name).map(Value::to_string).unwrap_or_default();
    let reasons: Vec<_> = list(flag, "reasons").iter().filter_map(Value::as_str).collect();
    let last = text("last_evaluated_at").map_or_else(String::new, |at| format!(", the last one {at}"));
    format!(
        "{} in {} ({}): {}; {} evaluations{last}; in {days} days {}, on in {}",
        text("name").unwrap_or_default(),
        text("environment").unwrap_or_default(),
        text("source").unwrap_or_default(),
        reasons.join(", "),
        number("evaluation_count"),
        number("evaluations"),
        number("enabled"),
    )
}
