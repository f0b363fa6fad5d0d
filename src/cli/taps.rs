//! `flagstream taps`: checks taps against Kafka and a sample of their records.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::config::{Config, TapConfig};
use crate::evaluate::tap::outputs::TopicLookup;
use crate::evaluate::tap::preview::{Basis, Outcome, Preview, Previewed};
use crate::flag::Snapshot;
use crate::kafka::reach::{REACH_TIMEOUT, reach};
use crate::kafka::tail::{Follower, Start};
use crate::message::avro::Subject;
use crate::schema_registry::{Lookups, Reader, SchemaRegistry};
use crate::shutdown::Shutdown;
use crate::store::{Reader as StoreReader, ReaderConfig, Store};

use super::{Global, Output, UsageError, print, render};

/// How long the flags are waited for.
const FLAGS_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the first record of the sample is waited for, and each further one.
const FIRST_RECORD_TIMEOUT: Duration = Duration::from_secs(3);
const NEXT_RECORD_TIMEOUT: Duration = Duration::from_millis(500);
/// Maximum number of records in a sample.
const MAX_SAMPLE_RECORDS: usize = 1_000;
/// Number of characters of a value that are printed as text.
const SHOWN_CHARS: usize = 300;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Check the topics of taps, and print what would be written for the latest records of their sources, without
    /// writing it. Exit code 1 if a tap cannot run
    Check(CheckArgs),
}

#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// Names of taps (default: all)
    #[arg(value_name = "TAP")]
    pub taps: Vec<String>,
    /// Number of records to read from each source
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub sample: usize,
}

/// The state of one tap.
#[derive(Debug, Serialize)]
struct Checked<'t> {
    tap: &'t str,
    source: &'t str,
    target: &'t str,
    /// Reasons why the tap cannot run.
    problems: Vec<String>,
    /// Settings that look like a mistake.
    notes: Vec<String>,
}

pub async fn run(command: Command, global: &Global) -> anyhow::Result<ExitCode> {
    let Command::Check(args) = command;
    let (config, output) = (global.load_config()?, global.output);
    let taps = chosen(&config, &args)?;
    let (store, stop) = (Arc::new(Store::default()), Shutdown::new());
    let mut reading = ReaderConfig { state_dir: None, ..ReaderConfig::from(&config) };
    reading.expected.start_without_source = true;
    let asked = config.clone();
    tokio::task::spawn_blocking(move || reach(&asked.kafka, &asked.topics.events, REACH_TIMEOUT)).await??;
    let metrics = Arc::clone(&crate::metrics::Metrics::new().store);
    let reader = StoreReader::start(reading, Arc::clone(&store), metrics, stop.clone())?;
    let is_ready = store.wait_until_ready(Instant::now() + FLAGS_TIMEOUT).await;
    let snapshot = Arc::clone(&store.load());
    let checked =
        tokio::task::spawn_blocking(move || check_all(&config, &taps, args.sample, snapshot, output)).await;
    stop.cancel();
    tokio::task::spawn_blocking(move || reader.join()).await?;
    let fits = checked??;
    if !is_ready {
        bail!("the flags could not be read from Kafka within {} s", FLAGS_TIMEOUT.as_secs());
    }
    Ok(if fits { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn chosen(config: &Config, args: &CheckArgs) -> anyhow::Result<Vec<Arc<TapConfig>>> {
    if args.sample > MAX_SAMPLE_RECORDS {
        return Err(UsageError(format!("--sample: expected at most {MAX_SAMPLE_RECORDS}")).into());
    }
    if config.taps.is_empty() {
        return Err(UsageError("no taps are configured: add `[[taps]]` to flagstream.toml".to_owned()).into());
    }
    let known = |name: &&String| !config.taps.iter().any(|tap| tap.name == **name);
    if let Some(unknown) = args.taps.iter().find(known) {
        let names: Vec<_> = config.taps.iter().map(|tap| tap.name.as_str()).collect();
        return Err(UsageError(format!("unknown tap {unknown}; configured are {}", names.join(", "))).into());
    }
    let is_chosen = |tap: &&TapConfig| args.taps.is_empty() || args.taps.contains(&tap.name);
    Ok(config.taps.iter().filter(is_chosen).cloned().map(Arc::new).collect())
}

/// Checks the taps one after another. `false` if one of them cannot run. Blocks.
fn check_all(
    config: &Config,
    taps: &[Arc<TapConfig>],
    sample: usize,
    snapshot: Arc<Snapshot>,
    output: Output,
) -> anyhow::Result<bool> {
    let lookup = TopicLookup::new(config)?;
    let registry =
        SchemaRegistry::open(&config.schema_registry, None, Lookups::default(), Handle::current())?;
    let basis = Basis {
        snapshot,
        default_environment: config.unleash.default_environment.clone(),
        app_name: config.unleash.app_name.clone(),
    };
    let mut all_fit = true;
    for tap in taps {
        let problems = lookup.problems(tap)?;
        let has_source = lookup.partitions(&tap.source)?.is_some();
        all_fit &= problems.is_empty();
        let notes = notes(tap, &basis);
        let checked = Checked { tap: &tap.name, source: &tap.source, target: &tap.target, problems, notes };
        print_checked(&checked, output)?;
        if !has_source || sample == 0 {
            continue;
        }
        let reader = Reader::new(registry.clone(), Subject::FOREIGN, tap.format).waiting();
        let mut preview = Preview::new(tap, basis.clone(), reader);
        let mut count = 0;
        for record in latest(config, &tap.source, sample)? {
            print_previewed(&preview.record(&record), output)?;
            count += 1;
        }
        if count == 0 && output == Output::Text {
            print::line("  the source has no records")?;
        }
    }
    Ok(all_fit)
}

/// The latest records of a topic, at most `count`, evenly from its partitions.
fn latest(config: &Config, topic: &str, count: usize) -> anyhow::Result<Vec<rdkafka::message::OwnedMessage>> {
    let back = i64::try_from(count).unwrap_or(i64::MAX);
    let follower = Follower::open(&config.kafka, "taps", topic, Start::Last(back))?;
    let mut records = Vec::new();
    let mut timeout = FIRST_RECORD_TIMEOUT;
    while records.len() < count.saturating_mul(follower.partitions().len()) {
        let Some(record) = follower.next(timeout)? else { break };
        records.push(record.detach());
        timeout = NEXT_RECORD_TIMEOUT;
    }
    let time = |record: &rdkafka::message::OwnedMessage| rdkafka::Message::timestamp(record).to_millis();
    records.sort_by_key(time);
    Ok(records.split_off(records.len().saturating_sub(count)))
}

/// Settings that look like a mistake: flags that the environment does not have, and routes of variants that a flag does not have.
fn notes(tap: &TapConfig, basis: &Basis) -> Vec<String> {
    let environment = tap.environment.as_deref().unwrap_or(&basis.default_environment);
    let Some(flags) = basis.snapshot.environment(environment) else {
        return vec![format!("environment {environment} has no flags")];
    };
    let mut notes = Vec::new();
    for flag in tap.flags.iter().filter(|flag| flags.get(flag).is_none()) {
        notes.push(format!("environment {environment} has no flag {flag}: false is written"));
    }
    for route in &tap.routes {
        let Some(flag) = flags.get(&route.flag) else { continue };
        let is_unknown = |result: &&String| {
            !matches!(result.as_str(), "on" | "off")
                && !flag.variants().iter().any(|variant| *variant.name == ***result)
        };
        for result in route.topics.keys().filter(is_unknown) {
            notes.push(format!("route.{}.{result}: the flag has no variant of this name", route.flag));
        }
    }
    notes
}

fn print_checked(checked: &Checked<'_>, output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        print::line(&serde_json::to_string(checked)?)?;
        return Ok(());
    }
    let Checked { tap, source, target, problems, notes } = checked;
    print::line(&format!("tap {tap}: {source} to {target}"))?;
    if problems.is_empty() {
        print::line("  its topics exist and have the same number of partitions")?;
    }
    for problem in problems {
        print::line(&format!("  cannot run: {problem}"))?;
    }
    for note in notes {
        print::line(&format!("  note: {note}"))?;
    }
    Ok(())
}

fn print_previewed(previewed: &Previewed, output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        print::line(&serde_json::to_string(previewed)?)?;
        return Ok(());
    }
    let Previewed { partition, offset, key, outcome, .. } = previewed;
    let key = key.as_deref().unwrap_or("none");
    let place = render::printable(&format!("  record {partition}/{offset}, key {key}"));
    let lines = match outcome {
        Outcome::Written { topic, user, context, headers, value, .. } => {
            let user = user.as_deref().unwrap_or("none");
            let context = context.as_ref().map_or("{}", |context| context.get());
            let mut lines = vec![format!("{place}: user {user}, context {context}")];
            lines.extend(headers.iter().map(|(name, value)| format!("    header {name}: {}", cut(value))));
            lines.extend(value.iter().map(|value| format!("    value {}", cut(value))));
            lines.push(format!("    to {topic}"));
            lines
        }
        Outcome::Passed { topics, reason } => {
            vec![format!("{place}: unchanged to {} ({reason})", topics.join(", "))]
        }
        Outcome::DeadLetter { code, message } => vec![format!("{place}: dead letter {code}: {message}")],
        Outcome::Waiting { reason } => vec![format!("{place}: waits: {reason}")],
    };
    for line in lines {
        print::line(&render::printable(&line))?;
    }
    Ok(())
}

/// The beginning of a value.
fn cut(value: &str) -> String {
    match value.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", value.get(..end).unwrap_or_default()),
        None => value.to_owned(),
    }
}
