//! `flagstream replay`: evaluates recorded evaluations again and compares the results.

mod text;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, anyhow};
use chrono::{DateTime, Utc};
use clap::ValueEnum;
use serde::Serialize;

use crate::config::Config;
use crate::replay::{self, History, Progress, Proposal, Report, RowFilter, Session, With, proposal, topics};

use super::progress::watched;
use super::{Global, Output, UsageError, database, moment, print};

const BAR: &str = "{wide_bar} {percent:>3} %  {msg}  {elapsed_precise}";
const FILE_MAX_BYTES: u64 = 64 * 1024 * 1024;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only evaluations at this time or later: 2026-01-15T10:30:00Z, 2026-01-15, or a relative time such as 2h (ago)
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    from: DateTime<Utc>,
    /// Only evaluations before this time
    #[arg(long, value_name = "TIME", value_parser = moment::parse, default_value = "now")]
    to: DateTime<Utc>,
    /// Use the flag versions that were in force at this time (default: at the time of each evaluation)
    #[arg(long, value_name = "TIME", value_parser = moment::parse, conflicts_with = "with")]
    as_of: Option<DateTime<Utc>>,
    /// Use the flags of this file instead of the recorded versions: in the format of Unleash's client API, or local
    /// flags as for `flags apply`
    #[arg(long, value_name = "FILE")]
    with: Option<PathBuf>,
    /// Source of the evaluations. If a database is configured, flag versions are always read from it
    #[arg(long, value_enum, default_value_t = Source::Database)]
    source: Source,
    /// Only these flags; several separated by commas
    #[arg(long = "flag", value_name = "FLAG", value_delimiter = ',')]
    flags: Vec<String>,
    /// Only this environment; also the environment of a file in Unleash's format (default: UNLEASH_ENVIRONMENT)
    #[arg(long)]
    environment: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Source {
    Database,
    /// The events topic, within its retention
    Topics,
}

#[derive(Serialize)]
struct Document<'r> {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    seconds: f64,
    #[serde(flatten)]
    report: &'r Report,
}

/// Runs the replay. Exit code 1 if a result differs although it was evaluated with the recorded versions.
pub async fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    if args.from >= args.to {
        return Err(UsageError(format!("--from {} is not before --to {}", args.from, args.to)).into());
    }
    let proposals = proposals(&args, &config)?;
    let with = match (&args.as_of, &args.with) {
        (Some(moment), _) => With::AsOf(*moment),
        (None, Some(_)) => With::Proposed,
        (None, None) => With::Then,
    };
    let filter = RowFilter {
        from: args.from,
        to: args.to,
        environments: args.environment.iter().cloned().collect(),
        flags: args.flags.clone(),
        last: None,
    };
    let started = std::time::Instant::now();
    let progress = Arc::new(Progress::default());
    let replaying = replayed(&config, &args, with, &proposals, &filter, &progress);
    let session = watched(replaying, BAR, |bar| {
        let rows = progress.rows.load(Ordering::Relaxed);
        let per_second = rows as f64 / bar.elapsed().as_secs_f64().max(0.001);
        bar.set_length(1_000);
        bar.set_position(progress.done.load(Ordering::Relaxed).into());
        bar.set_message(format!("{rows} evaluations, {per_second:.0}/s"));
    })
    .await?;
    let seconds = started.elapsed().as_secs_f64();
    let report = &session.report;
    print::line(&match global.output {
        Output::Json => {
            serde_json::to_string(&Document { from: filter.from, to: filter.to, seconds, report })?
        }
        Output::Text => text::lines(report, with, seconds).join("\n"),
    })?;
    let is_proof = with == With::Then;
    Ok(if is_proof && report.different > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn replayed(
    config: &Config,
    args: &Args,
    with: With,
    proposals: &[Proposal],
    filter: &RowFilter,
    progress: &Arc<Progress>,
) -> anyhow::Result<Session> {
    let url = config.database.url.as_ref();
    let database = match url {
        Some(url) => Some(database::open(url, "flagstream-replay").await?),
        None => None,
    };
    let history = match &database {
        Some(database) => History::load(database).await.with_context(|| database.to_string())?,
        None if args.source == Source::Topics => {
            let config = config.clone();
            tokio::task::spawn_blocking(move || topics::history(&config)).await??
        }
        None => {
            let how = "replay: DATABASE_URL is not set; --source topics reads the topics";
            return Err(UsageError(how.to_owned()).into());
        }
    };
    let session = Session::new(config, history, with, proposals);
    if let (Source::Database, Some(database)) = (args.source, &database) {
        let replaying = replay::database(database, filter, session, progress);
        return replaying.await.with_context(|| database.to_string());
    }
    let (config, filter, progress) = (config.clone(), filter.clone(), Arc::clone(progress));
    let reading = move || topics::evaluations(&config, &filter, session, &progress);
    Ok(tokio::task::spawn_blocking(reading).await??)
}

fn proposals(args: &Args, config: &Config) -> anyhow::Result<Vec<Proposal>> {
    let Some(path) = &args.with else { return Ok(Vec::new()) };
    let place = || path.display().to_string();
    let bytes = std::fs::metadata(path).with_context(place)?.len();
    anyhow::ensure!(bytes <= FILE_MAX_BYTES, "{}: larger than {FILE_MAX_BYTES} bytes", path.display());
    let text = std::fs::read_to_string(path).with_context(place)?;
    let environment = args.environment.as_deref().unwrap_or(&config.unleash.default_environment);
    proposal::read(&text, environment, args.from).map_err(|error| anyhow!("{}: {error}", path.display()))
}
