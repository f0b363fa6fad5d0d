//! `flagstream tail`: prints the records of a topic as they arrive, decoded.

mod filter;

use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::config::{Config, TopicsConfig};
use crate::kafka::reach::{REACH_TIMEOUT, reach};
use crate::kafka::tail::{Follower, Start};
use crate::shutdown::Shutdown;

use self::filter::Filter;
use super::decode::Decoder;
use super::{Global, Output, moment, print, render, values};

/// Interval of the checks for Ctrl-C.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Topic to follow: events, requests, updates, changes, definitions, dead-letters, conversions, exposures, overrides,
    /// or any topic by its name
    #[arg(long, default_value = "events")]
    pub topic: String,
    /// Start with the oldest record instead of the next one
    #[arg(long)]
    pub from_beginning: bool,
    /// Start with the first record that is not older: 2026-01-15T10:30:00Z, 2026-01-15, or a relative time such as 5m
    /// (ago)
    #[arg(long, value_name = "TIME", value_parser = moment::parse, conflicts_with = "from_beginning")]
    pub since: Option<DateTime<Utc>>,
    #[command(flatten)]
    pub filter: Filter,
    /// Stop after N lines; an event with several evaluations has a line for each
    #[arg(short = 'n', long = "count", value_name = "N", value_parser = values::count)]
    pub count: Option<u64>,
}

pub async fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let (config, output) = (global.load_config()?, global.output);
    let stop = Shutdown::new();
    let stopped = stop.clone();
    let mut tail = tokio::task::spawn_blocking(move || follow(&args, &config, output, &stopped));
    tokio::select! {
        ended = &mut tail => ended??,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            stop.cancel();
            tail.await??;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn follow(args: &Args, config: &Config, output: Output, stop: &Shutdown) -> anyhow::Result<()> {
    let topic = by_role(&config.topics, &args.topic);
    let start = match args.since {
        Some(since) => Start::At(since.timestamp_millis()),
        None if args.from_beginning => Start::Beginning,
        None => Start::End,
    };
    reach(&config.kafka, &config.topics.events, REACH_TIMEOUT)?;
    let follower = Follower::open(&config.kafka, "tail", topic, start)?;
    args.filter.check(topic, follower.partitions())?;
    let mut decoder = Decoder::open(config)?;
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 && !stop.is_cancelled() {
        let Some(record) = follower.next(POLL_INTERVAL)? else {
            continue;
        };
        let records = decoder.evaluations(record.detach());
        for record in records.iter().filter(|record| args.filter.takes(*record)) {
            let text = match output {
                Output::Text => render::line(record),
                Output::Json => render::json_line(record)?,
            };
            if left == 0 || !print::line(&text)? {
                return Ok(());
            }
            left -= 1;
        }
    }
    Ok(())
}

/// The name of the topic with this role, or the name itself.
pub(super) fn by_role<'t>(topics: &'t TopicsConfig, role: &'t str) -> &'t str {
    match role {
        "events" => &topics.events,
        "requests" => &topics.requests,
        "updates" => &topics.updates,
        "changes" => &topics.changes,
        "definitions" => &topics.definitions,
        "dead-letters" => &topics.dead_letters,
        "conversions" => &topics.conversions,
        "exposures" => &topics.exposures,
        "overrides" => &topics.overrides,
        name => name,
    }
}
