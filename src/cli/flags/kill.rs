//! `flags kill` and `flags restore`.

use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use reqwest::{Method, StatusCode};
use serde_json::{Map, Value};

use crate::cli::service::{Options, Service};
use crate::cli::{Global, Output, UsageError, print, render};
use crate::config::lifetime;
use crate::http::segment;

const LASTING_MIN: Duration = Duration::from_secs(1);
const LASTING_MAX: Duration = Duration::from_secs(365 * 86_400);

#[derive(Debug, clap::Args)]
pub struct KillArgs {
    #[command(flatten)]
    turn: TurnArgs,
    /// Duration of the kill, such as 30m or 12h (default: until it is restored)
    #[arg(long = "for", value_name = "DURATION", conflicts_with = "until")]
    lasting: Option<String>,
    /// End of the kill, as an RFC 3339 time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    turn: TurnArgs,
}

#[derive(Debug, clap::Args)]
struct TurnArgs {
    /// Name of the flag
    flag: String,
    /// Reason, stored with the change
    #[arg(long)]
    reason: String,
    /// Environment (default: UNLEASH_ENVIRONMENT)
    #[arg(long)]
    environment: Option<String>,
    #[command(flatten)]
    service: Options,
}

pub async fn kill(args: KillArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let expires_at = match (&args.lasting, args.until) {
        (None, until) => until,
        (Some(text), _) => {
            let lasting = lifetime(text, LASTING_MIN..=LASTING_MAX).map_err(|_| {
                UsageError(format!("--for {text}: expected a duration such as 30m, 12h or 7d (1s to 365d)"))
            })?;
            let until = Utc::now().checked_add_signed(chrono::TimeDelta::from_std(lasting)?);
            let until = until.ok_or_else(|| UsageError("--for: too long".to_owned()))?;
            Some(until.to_rfc3339_opts(SecondsFormat::Millis, true))
        }
    };
    turn(&args.turn, "kill", expires_at, global).await
}

pub async fn restore(args: RestoreArgs, global: &Global) -> anyhow::Result<ExitCode> {
    turn(&args.turn, "restore", None, global).await
}

async fn turn(
    args: &TurnArgs,
    action: &str,
    expires_at: Option<String>,
    global: &Global,
) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    let environment = args.environment.as_deref().unwrap_or(&config.unleash.default_environment);
    let mut body = Map::new();
    body.insert("reason".to_owned(), Value::from(args.reason.as_str()));
    body.extend(expires_at.map(|at| ("expires_at".to_owned(), Value::from(at))));
    let (flag, in_environment) = (segment(&args.flag), segment(environment));
    let path = format!("/api/v1/feature-flags/{flag}/{action}?environment={in_environment}");
    let service = Service::new(&args.service, &config)?;
    let answered = service.call(Method::POST, &path, None, Some(&body)).await?;
    print::line(&match global.output {
        Output::Json => answered.body,
        Output::Text => render::printable(&text(&serde_json::from_str(&answered.body)?, answered.status)),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn text(turned: &Value, status: StatusCode) -> String {
    let member = |name: &str| turned.get(name).and_then(Value::as_str).unwrap_or_default();
    let switch = turned.get("kill_switch").filter(|switch| switch.is_object());
    let expires_at = switch.and_then(|switch| switch.get("expires_at")).and_then(Value::as_str);
    let expires_at = expires_at.and_then(|at| DateTime::parse_from_rfc3339(at).ok());
    let what = match (switch, expires_at) {
        (None, _) => "is restored".to_owned(),
        (Some(_), None) => "is killed until it is restored".to_owned(),
        (Some(_), Some(at)) => format!("is killed until {}", at.to_utc().format("%F %H:%M:%S UTC")),
    };
    let version = turned.get("version").map(Value::to_string).unwrap_or_default();
    let late = if status == StatusCode::ACCEPTED { ", not yet in force there" } else { "" };
    format!("{} in {} {what}, version {version}{late}", member("name"), member("environment"))
}
