//! `bench attributes`: a table of attributes that is read from a real Kafka: the time until it is complete, its memory, a
//! start from the stored state, and the cost of an evaluation with a join, compared with one without in the same run.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use rdkafka::producer::{DefaultProducerContext, Producer, ThreadedProducer};
use serde::Serialize;
use serde_json::json;

use flagstream::attributes::Attributes;
use flagstream::config::{AttributeTable, Config};
use flagstream::flag::value::{Lookup, answer};
use flagstream::flag::{EnvironmentFlags, Moment, Snapshot};
use flagstream::message::event::{EventFrame, EventSource, Timestamp, write_event};
use flagstream::message::request::Request;
use flagstream::metrics::Metrics;
use flagstream::schema_registry::Formats;
use flagstream::shutdown::{Shutdown, Threads};

use super::load;
use super::setup::Bench;
use super::stream::median;

/// Users of the evaluations that find their row in memory.
const CACHED_USERS: u64 = 10_000;
/// Rows between two flushes of the producer.
const FLUSHED_ROWS: u64 = 20_000;
/// Partitions of the topic.
const PARTITIONS: i32 = 12;
/// Longest time until a table is complete.
const LOAD_TIMEOUT: Duration = Duration::from_secs(1_800);

/// The parameters of the benchmark.
#[derive(Debug, Clone, clap::Args)]
pub struct AttributesArgs {
    /// Number of rows
    #[arg(long, default_value_t = 1_000_000)]
    pub rows: u64,
    /// Size of a row in bytes
    #[arg(long, default_value_t = 200)]
    pub row_bytes: usize,
    /// Number of evaluations of each arm and round
    #[arg(long, default_value_t = 200_000)]
    pub evaluations: u64,
    /// Number of rounds of all arms, in turn; the report has the median
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
}

#[derive(Debug, Serialize)]
pub struct AttributesReport {
    pub rows: u64,
    pub row_bytes: usize,
    /// Seconds from the start of the reader until the table has caught up.
    pub load_seconds: f64,
    /// Seconds until the table has caught up, for a process that has all rows on disk.
    pub restart_seconds: f64,
    /// Resident memory of this process before the tables were opened, and at its highest.
    pub memory_before_mib: f64,
    pub memory_peak_mib: f64,
    pub disk_mib: f64,
    /// Nanoseconds of a request, from decoding to the encoded event: the caller sends the attribute.
    pub without_ns: Vec<f64>,
    /// Nanoseconds of a request whose row is in memory.
    pub cached_ns: Vec<f64>,
    /// Nanoseconds of a request with any row.
    pub random_ns: Vec<f64>,
    pub cached_ratio: f64,
    pub random_ratio: f64,
    /// 99th percentile of a request with any row, in microseconds.
    pub random_p99_us: f64,
}

/// Runs the benchmark on the configured Kafka.
pub async fn run(args: &AttributesArgs, config: Config) -> anyhow::Result<AttributesReport> {
    ensure!(args.rows >= CACHED_USERS, "--rows: expected at least {CACHED_USERS}");
    let mut bench = Bench::prepare(config, 1, PARTITIONS).await?;
    let folder = std::env::temp_dir().join(bench.config.kafka.group_id.as_str());
    let measured = measure(args, &mut bench, &folder).await;
    bench.clean_up().await;
    // Nothing remains of the tables; an error leaves files in the temporary folder only.
    let _ = std::fs::remove_dir_all(&folder);
    measured
}

async fn measure(
    args: &AttributesArgs,
    bench: &mut Bench,
    folder: &PathBuf,
) -> anyhow::Result<AttributesReport> {
    // The topic of conversions, which this benchmark does not need, takes the rows.
    let topic = bench.config.topics.conversions.clone();
    produce(args, bench, &topic)?;
    let table = AttributeTable { name: "user".to_owned(), field: "userId".to_owned(), topic };
    let mut config = bench.config.clone();
    config.attributes.tables = vec![table.clone()];
    config.topics.attributes = vec![table];
    config.state_dir.clone_from(folder);
    let config = Arc::new(config);
    // Producing has used memory too; the kernel counts the peak from here on.
    std::fs::write("/proc/self/clear_refs", "5").context("the peak of the memory cannot be reset")?;
    let memory_before_mib = memory("VmRSS")?;
    let (attributes, load_seconds) = load_table(&config, |_| Ok(())).await?;
    drop(attributes);
    let disk_mib = size(folder)? as f64 / (1 << 20) as f64;
    let snapshot = load::snapshot_of(1, load::targeted)?;
    let mut arms = Arms::default();
    let (attributes, restart_seconds) = load_table(&config, |attributes| {
        for _ in 0..args.rounds.max(1) {
            arms.round(args, attributes, &snapshot)?;
        }
        Ok(())
    })
    .await?;
    drop(attributes);
    let of = |arm: &[f64]| median(arm) / median(&arms.without);
    Ok(AttributesReport {
        rows: args.rows,
        row_bytes: args.row_bytes,
        load_seconds,
        restart_seconds,
        memory_before_mib,
        memory_peak_mib: memory("VmHWM")?,
        disk_mib,
        cached_ratio: of(&arms.cached),
        random_ratio: of(&arms.random),
        random_p99_us: arms.latencies.value_at_quantile(0.99) as f64 / 1_000.0,
        without_ns: arms.without,
        cached_ns: arms.cached,
        random_ns: arms.random,
    })
}

fn user(number: u64) -> String {
    format!("user-{number:010}")
}

fn produce(args: &AttributesArgs, bench: &Bench, topic: &str) -> anyhow::Result<()> {
    let producer = bench.request_producer(20)?;
    for number in 0..args.rows {
        let tier = if number % 2 == 0 { "premium" } else { "free" };
        let row =
            json!({"subscription_tier": tier, "country": "NL", "number": number, "note": ""}).to_string();
        let note = "x".repeat(args.row_bytes.saturating_sub(row.len()));
        let row = row.replace(r#""note":"""#, &format!(r#""note":"{note}""#));
        let partition = i32::try_from(number % u64::from(PARTITIONS.unsigned_abs()))?;
        bench.send_to(&producer, topic, partition, &user(number), row.as_bytes())?;
        // Otherwise the producer's queue would need more memory than the table.
        if number % FLUSHED_ROWS == 0 {
            flush(&producer)?;
        }
    }
    flush(&producer)
}

fn flush(producer: &ThreadedProducer<DefaultProducerContext>) -> anyhow::Result<()> {
    producer.flush(Duration::from_secs(300)).context("rows not delivered")
}

/// Opens the tables, waits until they have caught up, and calls `then`. Returns the seconds until they had.
async fn load_table(
    config: &Arc<Config>,
    then: impl FnOnce(&Attributes) -> anyhow::Result<()>,
) -> anyhow::Result<(Arc<Attributes>, f64)> {
    let (metrics, shutdown) = (Metrics::new(), Shutdown::new());
    let started = Instant::now();
    let attributes = Attributes::open(config, &metrics)?.context("there is no table")?;
    let readers = attributes.start(config, &Arc::<Formats>::default(), &metrics, &shutdown)?;
    let ready = tokio::time::timeout(LOAD_TIMEOUT, attributes.wait_until_ready(&shutdown)).await;
    ready.context("the table is not complete")?;
    let seconds = started.elapsed().as_secs_f64();
    let result = then(&attributes);
    shutdown.cancel();
    ensure!(tokio::task::spawn_blocking(move || readers.join()).await?, "a reader has failed");
    result.map(|()| (attributes, seconds))
}

/// Times of all arms, in nanoseconds per request.
struct Arms {
    without: Vec<f64>,
    cached: Vec<f64>,
    random: Vec<f64>,
    latencies: Histogram<u64>,
}

impl Default for Arms {
    fn default() -> Self {
        // Up to a minute in nanoseconds, with three digits.
        let latencies = Histogram::new_with_max(60_000_000_000, 3);
        Self {
            without: Vec::new(),
            cached: Vec::new(),
            random: Vec::new(),
            latencies: latencies.unwrap_or_else(|_| unreachable!("the bounds are valid")),
        }
    }
}

impl Arms {
    fn round(
        &mut self,
        args: &AttributesArgs,
        attributes: &Attributes,
        snapshot: &Snapshot,
    ) -> anyhow::Result<()> {
        let flags = snapshot.environment(load::ENVIRONMENT).context("no flags")?;
        let sent = r#"{"region":"us-west","subscription_tier":"premium"}"#;
        let completed = r#"{"region":"us-west"}"#;
        // Rows of these users are in memory after the first round.
        let few = |number: u64| number % CACHED_USERS;
        // A step that is no divisor of the number of rows reaches all of them in an irregular order.
        let any = |number: u64| number.wrapping_mul(7_919_999_983) % args.rows;
        let mut none = Histogram::new_with_max(60_000_000_000, 3)?;
        self.without.push(time(args.evaluations, few, sent, attributes, flags, &mut none)?);
        self.cached.push(time(args.evaluations, few, completed, attributes, flags, &mut none)?);
        self.random.push(time(args.evaluations, any, completed, attributes, flags, &mut self.latencies)?);
        Ok(())
    }
}

/// Nanoseconds per request of one arm.
fn time(
    evaluations: u64,
    user_of: impl Fn(u64) -> u64,
    context: &str,
    attributes: &Attributes,
    flags: &EnvironmentFlags,
    latencies: &mut Histogram<u64>,
) -> anyhow::Result<f64> {
    let bodies: Vec<_> = (0..evaluations.min(100_000))
        .map(|number| {
            let user = user(user_of(number));
            format!(
                r#"{{"request_id":"r","flag_name":"{}","user_id":"{user}","context":{context},"default_value":false}}"#,
                load::flag_name(0)
            )
        })
        .collect();
    let mut out = Vec::with_capacity(1_024);
    let started = Instant::now();
    for body in bodies.iter().cycle().take(usize::try_from(evaluations)?) {
        let begun = Instant::now();
        request(body, attributes, flags, &mut out)?;
        latencies.saturating_record(u64::try_from(begun.elapsed().as_nanos())?);
    }
    Ok(started.elapsed().as_nanos() as f64 / evaluations as f64)
}

/// Decodes, completes, evaluates and encodes one request, as the request pipeline does.
fn request(
    body: &str,
    attributes: &Attributes,
    flags: &EnvironmentFlags,
    out: &mut Vec<u8>,
) -> anyhow::Result<()> {
    let request = Request::decode(body.as_bytes())?;
    let ask = request.asks.as_slice().first().context("no flag")?;
    let joiner = attributes.joiner(&request.context, &request.context_json);
    let joined = joiner.join(Some(flags), &ask.flag);
    let completed = joined.as_ref().map(|joined| joined.complete(&request.context, None));
    let context = completed.as_ref().map_or(&request.context, |completed| &completed.context);
    let moment = Moment { now: "2026-01-15T10:30:00Z", hostname: "bench", app_name: "bench" };
    let lookup = flags.evaluate(&ask.flag, context, &moment).map_or(Lookup::NotFound, Lookup::Found);
    let frame = EventFrame {
        event_id: "019bc0e7-8ab0-8000-8000-000000000000",
        request_id: request.request_id.as_deref(),
        user_id: request.context.user_id.as_deref(),
        session_id: None,
        environment: load::ENVIRONMENT,
        context: completed.as_ref().map_or(&request.context_json, |completed| &completed.written),
        attributes: completed.as_ref().and_then(|completed| completed.used),
        evaluated_at: Timestamp { text: "2026-01-15T10:30:00.012345Z", micros: 1_768_473_000_012_345 },
        flags_version: 1,
        value_type: Some(ask.value_type),
        evaluation_ns: None,
        source: EventSource::Kafka {
            topic: "requests",
            topic_id: None,
            partition: 0,
            offset: 1,
            index: 0,
            tap: None,
        },
    };
    out.clear();
    write_event(out, &frame, ask, &answer(&ask.flag, lookup, ask.value_type, ask.default.as_ref()));
    Ok(())
}

/// Memory of this process in MiB: `VmRSS`, or at its highest `VmHWM`.
fn memory(name: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib: f64 = line.context("no memory")?.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1_024.0)
}

/// Size of all files in a folder, in bytes.
fn size(folder: &PathBuf) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        bytes += if kind.is_dir() { size(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}
