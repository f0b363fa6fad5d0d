//! `flagstream dev`: everything embedded in one process.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use crate::config::{Config, Profile};
use crate::dev::{self, Broker, embed, sample, trickle};
use crate::evaluate::Parts;
use crate::kafka::follow::{Follower, Start};
use crate::shutdown::{Shutdown, StopSignals};

use super::decode::Decoder;
use super::{Global, Output, UsageError, print, render};

/// How late a stop may be noticed.
const STEP: Duration = Duration::from_millis(50);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file of flags in the format of Unleash's client API, reloaded when it changes (default: sample flags,
    /// written to the state folder)
    #[arg(long, value_name = "FILE")]
    pub flags: Option<PathBuf>,
    /// Sample requests per second; 0 for none
    #[arg(long, default_value_t = 2.0, value_name = "PER_SECOND")]
    pub rate: f64,
    /// Do not print evaluated events
    #[arg(long)]
    pub quiet: bool,
}

pub async fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    if !(0.0..=trickle::MAX_RATE).contains(&args.rate) {
        return Err(UsageError(format!("--rate {}: expected 0 to {}", args.rate, trickle::MAX_RATE)).into());
    }
    let signals = StopSignals::install()?;
    let mut config = global.load(Profile::Dev)?.config;
    let broker = Broker::start().context("the embedded broker does not start")?;
    embed(&mut config, broker.address());
    let config = Arc::new(config);
    let flags = flag_file(args.flags.clone(), &config.state_dir)?;
    broker.create_topics(&config)?;
    let app = dev::start(Arc::clone(&config), flags.clone()).await?;
    let parts = app.parts.clone();
    signals.started();
    app.run_until(serve(&args, global.output, &parts, &flags, &signals)).await?;
    Ok(ExitCode::SUCCESS)
}

/// From the first flag to Ctrl-C.
async fn serve(
    args: &Args,
    output: Output,
    parts: &Parts,
    flags: &Path,
    signals: &StopSignals,
) -> anyhow::Result<()> {
    let Parts { config, shutdown, .. } = parts;
    tokio::select! {
        ready = dev::ready(&parts.store) => ready?,
        () = signals.received() => return Ok(()),
    }
    for line in banner(config, flags) {
        print::line(&line)?;
    }
    if !args.quiet {
        let (config, shutdown) = (Arc::clone(config), shutdown.clone());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = print_events(&config, output, &shutdown) {
                tracing::warn!("events are not printed: {error:#}");
            }
        });
    }
    let samples = async {
        if args.rate > 0.0 {
            trickle::run(config, args.rate, shutdown.clone()).await?;
        }
        shutdown.cancelled().await;
        anyhow::Ok(())
    };
    tokio::select! {
        () = signals.received() => Ok(()),
        sampled = samples => sampled,
    }
}

fn flag_file(given: Option<PathBuf>, state_dir: &Path) -> anyhow::Result<PathBuf> {
    let Some(path) = given else {
        let written = sample::write(state_dir);
        return written.with_context(|| format!("sample flags cannot be written to {}", state_dir.display()));
    };
    // A file that changes later may be bad for a while; one that is bad from the start is a mistake.
    crate::flag_file::load(&path, "").map_err(|error| UsageError(format!("--flags {error}")))?;
    Ok(path)
}

fn banner(config: &Config, flags: &Path) -> Vec<String> {
    let kafka = &config.kafka.bootstrap_servers;
    let http = format!("http://{}", config.http.listen);
    let environment = &config.unleash.default_environment;
    let (database, variable, look) = database(config);
    vec![
        format!("http {http}"),
        format!("kafka {kafka}"),
        database,
        format!("flags {} (environment {environment}; edit it: changes are announced)", flags.display()),
        String::new(),
        "For development only: the broker keeps nothing after a stop and has no transaction isolation."
            .to_owned(),
        "Next, in another terminal:".to_owned(),
        format!("  curl -s {http}/api/v1/feature-flags/evaluate -H 'Content-Type: application/json' \\"),
        "    -d '{\"flag_name\": \"theme-variant\", \"user_id\": \"user-456\", \"default_value\": \"light\"}'".to_owned(),
        format!("  curl -sN {http}/api/v1/changes   # and every other call: {http}/docs"),
        format!("  export KAFKA_BOOTSTRAP_SERVERS={kafka} UNLEASH_ENVIRONMENT={environment}{variable}"),
        "  flagstream request theme-variant --user user-456 --default '\"light\"' --wait".to_owned(),
        "  flagstream tail --topic updates".to_owned(),
        "  flagstream evaluate premium-features --user user-7 --context '{\"subscription_tier\": \"gold\"}'".to_owned(),
        look,
        String::new(),
    ]
}

/// Where the audit trail is, the variable that tells other commands so, and how to look at it.
fn database(config: &Config) -> (String, String, String) {
    let url = config.database.url.as_ref().map_or("", |url| url.expose());
    let look = "select evaluated_at, flag_name, user_id, evaluation_reason from feature_flag_evaluations \
        order by id desc limit 5";
    match url.strip_prefix("sqlite:") {
        Some(file) if !file.contains(":memory:") => {
            let file = file.trim_start_matches("//");
            (
                format!("database {file} (every evaluation is a row)"),
                format!(" DATABASE_URL=sqlite:{file}"),
                format!("  sqlite3 {file} '{look}'"),
            )
        }
        _ => {
            let memory = "database in memory (every evaluation is a row, gone after a stop)";
            (memory.to_owned(), String::new(), String::new())
        }
    }
}

/// Prints what is evaluated and what changes, until `shutdown`. A closed stdout ends the printing alone.
fn print_events(config: &Config, output: Output, shutdown: &Shutdown) -> anyhow::Result<()> {
    let follower = Follower::open(config, "dev-events", &config.topics.events, Start::End)?;
    let mut decoder = Decoder::open(config)?;
    while !shutdown.is_cancelled() {
        let Some(record) = follower.next(STEP)? else {
            continue;
        };
        let record = decoder.decode(record.detach());
        let line = match output {
            Output::Text => {
                render::printable(&format!("{} {}", render::time(&record), render::content(&record)))
            }
            Output::Json => render::json_line(&record)?,
        };
        if !print::line(&line)? {
            break;
        }
    }
    Ok(())
}
