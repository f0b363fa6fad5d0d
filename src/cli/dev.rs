//! `flagstream dev`: everything embedded in one process.

use std::future::Future;
use std::path::{Path, PathBuf, absolute};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinHandle;

use crate::app::Topics;
use crate::config::{Config, DevEnv, Profile, environment_name};
use crate::dev::persisted_topics::PersistedTopics;
use crate::dev::{self, Broker, embed, local, sample, sample_traffic};
use crate::evaluate::Parts;
use crate::kafka::tail::{Follower, Start};
use crate::kafka::topics;
use crate::shutdown::{Shutdown, StopSignals};

use super::decode::Decoder;
use super::{Global, Output, UsageError, print, render};

/// Interval of the checks for a shutdown.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file of flags in the format of Unleash's client API, reloaded when it changes (default: sample flags, written
    /// to the state folder)
    #[arg(long, value_name = "FILE")]
    pub flags: Option<PathBuf>,
    /// Use this Kafka instead of the embedded broker; missing topics are created
    #[arg(long, value_name = "HOST:PORT")]
    pub kafka: Option<String>,
    /// Environments to serve, all with the same flags (default: development, production and UNLEASH_ENVIRONMENT)
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub environments: Vec<String>,
    /// Sample requests per second; 0 for none
    #[arg(long, default_value_t = 2.0, value_name = "PER_SECOND")]
    pub rate: f64,
    /// Do not print evaluated events
    #[arg(long)]
    pub quiet: bool,
}

/// Information for the start banner.
#[derive(Debug)]
struct ServedSetup<'s> {
    flags: &'s Path,
    environments: &'s [String],
    env_file: PathBuf,
    is_embedded: bool,
}

pub async fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    if !(0.0..=sample_traffic::MAX_RATE).contains(&args.rate) {
        return Err(
            UsageError(format!("--rate {}: expected 0 to {}", args.rate, sample_traffic::MAX_RATE)).into()
        );
    }
    let signals = StopSignals::install()?;
    let mut config = global.load(Profile::Dev)?.config;
    let environments = environments(&args.environments, &config)?;
    let broker = match &args.kafka {
        Some(servers) => {
            config.kafka.bootstrap_servers.clone_from(servers);
            embed(&mut config, None)?;
            None
        }
        None => {
            let mut broker = Broker::start().context("the embedded broker cannot be started")?;
            broker.advertise().await?;
            embed(&mut config, Some(broker.address()))?;
            Some(broker)
        }
    };
    let config = Arc::new(config);
    // Before the state folder is changed, because another `dev` may still be running there.
    let mut env = DevEnv::claim(&config.state_dir)?;
    let flags = flag_file(args.flags.clone(), &config.state_dir)?;
    let keeping = prepare_broker(broker.as_ref(), &config).await?;
    let topics = if broker.is_some() { Topics::Made } else { Topics::LookedAfter };
    let app = dev::start(Arc::clone(&config), &flags, &environments, topics).await?;
    let (parts, repository) = (app.parts.clone(), app.repository.clone());
    let keeping = keeping.map(|kept| keep(kept, &parts));
    let setup = ServedSetup {
        flags: &flags,
        environments: &environments,
        env_file: absolute(env.path())?,
        is_embedded: broker.is_some(),
    };
    let samples = app.health.reporter("samples", true);
    let repository = repository.filter(|_| args.flags.is_none());
    let ready = async {
        dev::ready(&parts.store).await?;
        if let Some(repository) = repository {
            samples.starting("the sample flags are being created");
            local::create(&repository, &parts.store, &environments).await?;
        }
        samples.up();
        env.write(&variables(&config), setup.is_embedded)?;
        Ok(())
    };
    signals.started();
    let ran = app.run_until(serve(&args, global.output, &parts, &setup, ready, &signals)).await;
    if let Some(keeping) = keeping {
        keeping.await?;
    }
    ran.map(|()| ExitCode::SUCCESS)
}

/// The named or the usual environments, and always the default one.
fn environments(named: &[String], config: &Config) -> Result<Vec<String>, UsageError> {
    let usual = || dev::ENVIRONMENTS.map(str::to_owned).to_vec();
    let named = if named.is_empty() { usual() } else { named.to_vec() };
    let mut environments = vec![config.unleash.default_environment.clone()];
    for name in named {
        let name = environment_name(name.trim())
            .map_err(|error| UsageError(format!("--environments {name}: {error}")))?;
        if !environments.contains(&name) {
            environments.push(name);
        }
    }
    Ok(environments)
}

/// Creates the topics. With the embedded broker, the records of the last run are restored too.
async fn prepare_broker(
    broker: Option<&Broker>,
    config: &Arc<Config>,
) -> anyhow::Result<Option<PersistedTopics>> {
    let Some(broker) = broker else {
        let reports = topics::Topics::new(&config.kafka, &config.topics)?.apply().await?;
        for report in reports.iter().filter(|report| !report.left.is_empty()) {
            // Not limited: once at the start.
            tracing::warn!(topic = report.topic, differences = ?report.left, "the topic differs from the required \
                configuration");
        }
        return Ok(None);
    };
    broker.create_topics(config)?;
    let config = Arc::clone(config);
    let restored = tokio::task::spawn_blocking(move || {
        let kept = PersistedTopics::open(&config.state_dir);
        kept.restore(&config).map(|()| kept)
    });
    Ok(Some(restored.await??))
}

fn keep(kept: PersistedTopics, parts: &Parts) -> JoinHandle<()> {
    let (config, shutdown) = (Arc::clone(&parts.config), parts.shutdown.clone());
    tokio::task::spawn_blocking(move || {
        if let Err(error) = kept.follow(&config, &shutdown) {
            // Not limited: once at the end.
            tracing::warn!("kill switches and definitions are not saved for the next start: {error:#}");
        }
    })
}

/// Runs from the first loaded flag until a stop signal.
async fn serve(
    args: &Args,
    output: Output,
    parts: &Parts,
    setup: &ServedSetup<'_>,
    ready: impl Future<Output = anyhow::Result<()>>,
    signals: &StopSignals,
) -> anyhow::Result<()> {
    let Parts { config, shutdown, .. } = parts;
    tokio::select! {
        ready = ready => ready?,
        () = signals.received() => return Ok(()),
    }
    for line in banner(config, setup) {
        print::line(&line)?;
    }
    if !args.quiet {
        let (config, shutdown) = (Arc::clone(config), shutdown.clone());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = print_events(&config, output, &shutdown) {
                // Not limited: once in the life of the process.
                tracing::warn!("printing of events stopped: {error:#}");
            }
        });
    }
    let samples = async {
        if args.rate > 0.0 {
            sample_traffic::run(config, args.rate, shutdown.clone()).await?;
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
    // A file that becomes invalid later is retried, but one that is invalid at the start is an error.
    crate::flag_file::load(&path, "").map_err(|error| UsageError(format!("--flags {error}")))?;
    Ok(path)
}

/// The environment variables for other commands.
fn variables(config: &Config) -> Vec<(&'static str, String)> {
    let mut variables = vec![
        ("KAFKA_BOOTSTRAP_SERVERS", config.kafka.bootstrap_servers.clone()),
        ("UNLEASH_ENVIRONMENT", config.unleash.default_environment.clone()),
        ("FLAGSTREAM_HTTP__LISTEN", config.http.listen.to_string()),
    ];
    if let Some(url) = database_url(config) {
        variables.push(("DATABASE_URL", url.to_owned()));
    }
    variables
}

/// The URL of the database, unless it is in memory and cannot be opened by other processes.
fn database_url(config: &Config) -> Option<&str> {
    let url = config.database.url.as_ref().map(|url| url.expose());
    url.filter(|url| !url.contains(":memory:"))
}

fn banner(config: &Config, setup: &ServedSetup<'_>) -> Vec<String> {
    let kafka = &config.kafka.bootstrap_servers;
    let http = format!("http://{}", config.http.listen);
    let flags = absolute(setup.flags).unwrap_or_else(|_| setup.flags.to_owned());
    let database = match database_url(config).and_then(|url| url.strip_prefix("sqlite:")) {
        Some(file) => format!("database {file} (every evaluation is a row)"),
        None => "database in memory (every evaluation is a row, lost when it stops)".to_owned(),
    };
    let limits = if setup.is_embedded {
        "For development only: the embedded broker loses its records when it stops and has no transaction isolation."
    } else {
        "For development only: every client that can reach the HTTP port has all permissions."
    };
    let console = config.console.enabled.then(|| format!("console {http}/console/"));
    let lines = vec![
        format!("http {http}"),
        format!("kafka {kafka}"),
        database,
        format!("flags {} (edit the file: changes are announced)", flags.display()),
        format!("environments {}", setup.environments.join(", ")),
        String::new(),
        limits.to_owned(),
        "Next, in another terminal in this folder:".to_owned(),
        format!("  curl -s {http}/api/v1/feature-flags/evaluate -H 'Content-Type: application/json' \\"),
        "    -d '{\"flag_name\": \"theme-variant\", \"user_id\": \"user-456\", \"default_value\": \"light\"}'".to_owned(),
        format!("  curl -sN {http}/api/v1/changes   # and every other call: {http}/docs"),
        "  flagstream request theme-variant --user user-456 --default '\"light\"' --wait".to_owned(),
        "  flagstream tail --topic updates".to_owned(),
        "  flagstream evaluate premium-features --user user-7 --context '{\"subscription_tier\": \"gold\"}'".to_owned(),
        format!("In another folder first: set -a; . {}; set +a", setup.env_file.display()),
        String::new(),
    ];
    console.into_iter().chain(lines).collect()
}

/// Prints evaluations and flag changes until `shutdown`. If stdout is closed, only the printing ends.
fn print_events(config: &Config, output: Output, shutdown: &Shutdown) -> anyhow::Result<()> {
    let follower = Follower::open(&config.kafka, "dev-events", &config.topics.events, Start::End)?;
    let mut decoder = Decoder::open(config)?;
    while !shutdown.is_cancelled() {
        let Some(record) = follower.next(POLL_INTERVAL)? else {
            continue;
        };
        for record in decoder.evaluations(record.detach()) {
            let line = match output {
                Output::Text => {
                    render::printable(&format!("{} {}", render::time(&record), render::content(&record)))
                }
                Output::Json => render::json_line(&record)?,
            };
            if !print::line(&line)? {
                return Ok(());
            }
        }
    }
    Ok(())
}
