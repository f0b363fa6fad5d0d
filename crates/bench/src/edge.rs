//! `bench edge`: the edge API of a running service under many short requests, while flags change.
//!
//! Most calls check a flag, some read its details, a few list all flags. Every few seconds a flag is changed, or its
//! cached values are removed if flags are managed elsewhere. The benchmark passes if no call fails, no answer is stale,
//! and most answers are cache hits with low latency.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use reqwest::{Client, RequestBuilder, StatusCode};
use serde::Deserialize;

/// Minimum share of answers that are cache hits.
const HIT_RATE_MIN: f64 = 0.8;
const P95_MAX_MS: f64 = 200.0;
/// Interval between two changes.
const CHANGE_INTERVAL: Duration = Duration::from_secs(5);
/// Number of failures that are reported in full; further ones are only counted.
const FAILURES_TOLD_MAX: usize = 5;

/// The calls to make, and their duration.
#[derive(Debug, Clone, clap::Args)]
pub struct EdgeArgs {
    #[arg(long, default_value = "http://127.0.0.1:8082")]
    pub url: String,
    /// API token with the scopes evaluate, read and write, if anonymous callers lack them
    #[arg(long, env = "FLAGSTREAM_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Flags to request
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "new_checkout_flow,beta_features,dark_mode,experimental_api"
    )]
    pub flags: Vec<String>,
    /// Number of different users
    #[arg(long, default_value_t = 100)]
    pub users: u64,
    /// Number of concurrent calls
    #[arg(long, default_value_t = 20)]
    pub connections: u64,
    #[arg(long, default_value_t = 30)]
    pub seconds: u64,
}

#[derive(Debug, Default, serde::Serialize)]
pub struct EdgeReport {
    pub calls: u64,
    pub calls_per_second: f64,
    pub hits: u64,
    pub hit_rate: f64,
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    /// Number of flag changes. `removals` counts removals of a flag's cached values.
    pub updates: u64,
    pub removals: u64,
    pub failed: u64,
    /// Answers older than a change that was confirmed before their request.
    pub stale: u64,
    pub failures: Vec<String>,
    /// Whether the benchmark passed: enough hits, low latency, no failure and no stale answer.
    pub met: bool,
}

/// Results of one connection.
struct Seen {
    latencies: Histogram<u64>,
    hits: u64,
    stale: u64,
    failed: u64,
    failures: Vec<String>,
}

/// State shared by all connections.
#[derive(Debug)]
struct BenchSetup {
    args: EdgeArgs,
    client: Client,
    stop: AtomicBool,
    /// The last confirmed version of the changed flag.
    confirmed: AtomicU64,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "_cache")]
    cache: String,
    flag_name: Option<String>,
    flag_version: Option<u64>,
}

#[derive(Deserialize)]
struct Updated {
    flag_data: Option<FlagData>,
}

#[derive(Deserialize)]
struct FlagData {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    version: u64,
}

pub async fn run(args: &EdgeArgs) -> anyhow::Result<EdgeReport> {
    ensure!(!args.flags.is_empty(), "--flags: expected at least one");
    ensure!(args.users > 0 && args.connections > 0 && args.seconds > 0, "expected numbers from 1");
    let client = Client::builder().no_proxy().timeout(Duration::from_secs(10)).build()?;
    let (stop, confirmed) = (AtomicBool::new(false), AtomicU64::new(0));
    let setup = Arc::new(BenchSetup { args: args.clone(), client, stop, confirmed });
    let begun = Instant::now();
    let callers: Vec<_> =
        (0..args.connections).map(|connection| tokio::spawn(ask(Arc::clone(&setup), connection))).collect();
    let (updates, removals) = change(&setup, begun + Duration::from_secs(args.seconds)).await?;
    setup.stop.store(true, Ordering::Relaxed);
    let mut report = EdgeReport { updates, removals, ..EdgeReport::default() };
    let mut latencies = Histogram::<u64>::new(3)?;
    for caller in callers {
        let seen = caller.await??;
        latencies.add(seen.latencies)?;
        report.hits += seen.hits;
        report.stale += seen.stale;
        report.failed += seen.failed;
        report.failures.extend(seen.failures);
    }
    report.failures.truncate(FAILURES_TOLD_MAX);
    report.calls = latencies.len();
    report.calls_per_second = report.calls as f64 / begun.elapsed().as_secs_f64();
    report.hit_rate = report.hits as f64 / report.calls.max(1) as f64;
    let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
    (report.p50_ms, report.p95_ms, report.p99_ms) = (at(0.5), at(0.95), at(0.99));
    let well = report.failed == 0 && report.stale == 0 && report.calls > 0;
    report.met = well && report.hit_rate > HIT_RATE_MIN && report.p95_ms < P95_MAX_MS;
    Ok(report)
}

/// Makes one call after the other.
async fn ask(setup: Arc<BenchSetup>, connection: u64) -> anyhow::Result<Seen> {
    let latencies = Histogram::new(3)?;
    let mut seen = Seen { latencies, hits: 0, stale: 0, failed: 0, failures: Vec::new() };
    let changed = setup.args.flags.first().cloned().unwrap_or_default();
    for number in connection.. {
        if setup.stop.load(Ordering::Relaxed) {
            break;
        }
        let confirmed = setup.confirmed.load(Ordering::SeqCst);
        let begun = Instant::now();
        let answer = setup.answer(&setup.question(number, connection)).await;
        seen.latencies.record(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX))?;
        match answer {
            Ok(answer) => {
                seen.hits += u64::from(answer.cache == "hit");
                let is_old = answer.flag_version.is_some_and(|version| version < confirmed);
                seen.stale += u64::from(is_old && answer.flag_name.as_ref() == Some(&changed));
            }
            Err(failure) => {
                seen.failed += 1;
                if seen.failures.len() < FAILURES_TOLD_MAX {
                    seen.failures.push(format!("{failure:#}"));
                }
            }
        }
    }
    Ok(seen)
}

/// Changes the first flag periodically. Returns the number of changes and of removals of its cached values.
async fn change(setup: &BenchSetup, end: Instant) -> anyhow::Result<(u64, u64)> {
    let (mut updates, mut removals) = (0, 0);
    let flag = path_part(setup.args.flags.first().context("no flag")?);
    for number in 1_u64.. {
        let next = Instant::now() + CHANGE_INTERVAL;
        tokio::time::sleep_until(next.min(end).into()).await;
        if next >= end {
            break;
        }
        let percentage = number * 10 % 101;
        let update = format!("/flags/{flag}/update?enabled=true&rollout_percentage={percentage}");
        let answer = setup.with_token(setup.client.post(setup.url(&update))).send().await?;
        if answer.status().is_success() {
            let updated: Updated = answer.json().await?;
            let version = updated.flag_data.map_or(0, |data| data.metadata.version);
            setup.confirmed.fetch_max(version, Ordering::SeqCst);
            updates += 1;
            continue;
        }
        let status = answer.status();
        ensure!(status == StatusCode::CONFLICT, "{update}: {status} {}", answer.text().await?);
        let removed = setup.with_token(setup.client.delete(setup.url(&format!("/flags/{flag}/cache"))));
        let removed = removed.send().await?;
        let status = removed.status();
        ensure!(status.is_success(), "DELETE /flags/{flag}/cache: {status} {}", removed.text().await?);
        removals += 1;
    }
    Ok((updates, removals))
}

impl BenchSetup {
    /// The path of call `number`: of 100 calls, 3 list all flags and 15 read a flag's details.
    fn question(&self, number: u64, connection: u64) -> String {
        let mixed = (number ^ (connection << 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
        let flags = self.args.flags.len() as u64;
        let flag = usize::try_from(mixed % flags).ok().and_then(|index| self.args.flags.get(index));
        let flag = path_part(flag.map_or("", String::as_str));
        let user = (mixed >> 12) % self.args.users;
        match (mixed >> 4) % 100 {
            0..3 => "/flags".to_owned(),
            3..18 => format!("/flags/{flag}?user_id=user{user}"),
            _ => format!("/flags/{flag}/check?user_id=user{user}"),
        }
    }

    async fn answer(&self, path: &str) -> anyhow::Result<Answer> {
        let answer = self.with_token(self.client.get(self.url(path))).send().await?;
        let status = answer.status();
        ensure!(status == StatusCode::OK, "{path}: {status} {}", answer.text().await?);
        Ok(answer.json().await?)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.args.url.trim_end_matches('/'))
    }

    fn with_token(&self, call: RequestBuilder) -> RequestBuilder {
        match &self.args.token {
            Some(token) => call.bearer_auth(token),
            None => call,
        }
    }
}

fn path_part(flag: &str) -> String {
    form_urlencoded::byte_serialize(flag.as_bytes()).collect::<String>().replace('+', "%20")
}
