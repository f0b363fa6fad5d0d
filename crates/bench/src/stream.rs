//! `bench stream`: throughput of a backlog, for the pipeline and the baseline loop.

use std::time::{Duration, Instant};

use anyhow::ensure;

use flagstream::config::{Config, DeliveryMode, InputFormat, OutputFormat, Secret};

use super::setup::{Arm, Bench, From, Loop};

/// Timeout of one arm.
const DEADLINE: Duration = Duration::from_secs(180);

/// The parameters of the benchmark.
#[derive(Debug, Clone, clap::Args)]
pub struct StreamArgs {
    /// Number of requests in the backlog
    #[arg(long, default_value_t = 1_000_000)]
    pub requests: u64,
    /// Number of different flags
    #[arg(long, default_value_t = 50)]
    pub flags: usize,
    #[arg(long, default_value_t = 4)]
    pub partitions: i32,
    /// Number of rounds of every arm, in turn; the report has the median
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// avro: compares requests and events in Avro with JSON, in at-least-once mode
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// Compare taps, which read the requests as records of another service, with the request pipeline
    #[arg(long, conflicts_with = "format")]
    pub taps: bool,
    /// Measure flagstream only
    #[arg(long, conflicts_with_all = ["format", "taps"])]
    pub without_baseline: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    #[default]
    Json,
    Avro,
}

/// An arm and the backlog that it runs with, in JSON or Avro.
type Run = (Format, Arm);

const JSON: [Run; 4] = [
    (Format::Json, Arm { what: Loop::Baseline, mode: DeliveryMode::Transactional }),
    (Format::Json, Arm { what: Loop::Full, mode: DeliveryMode::Transactional }),
    (Format::Json, Arm { what: Loop::Baseline, mode: DeliveryMode::AtLeastOnce }),
    (Format::Json, Arm { what: Loop::Full, mode: DeliveryMode::AtLeastOnce }),
];
const AVRO: [Run; 3] = [
    (Format::Json, Arm { what: Loop::Baseline, mode: DeliveryMode::AtLeastOnce }),
    (Format::Json, Arm { what: Loop::Full, mode: DeliveryMode::AtLeastOnce }),
    (Format::Avro, Arm { what: Loop::Full, mode: DeliveryMode::AtLeastOnce }),
];

const TAPS: [Run; 3] = [
    (Format::Json, Arm { what: Loop::Full, mode: DeliveryMode::Transactional }),
    (Format::Json, Arm { what: Loop::Tap(false), mode: DeliveryMode::Transactional }),
    (Format::Json, Arm { what: Loop::Tap(true), mode: DeliveryMode::Transactional }),
];

const PIPELINE: [Run; 1] = [(Format::Json, Arm { what: Loop::Full, mode: DeliveryMode::Transactional })];

/// Requests per second of each arm and round, and the ratios of their medians.
#[derive(Debug, serde::Serialize)]
pub struct StreamReport {
    pub requests: u64,
    pub flags: usize,
    pub partitions: i32,
    pub workers: usize,
    pub arms: Vec<ArmReport>,
    pub ratios: Vec<(String, f64)>,
}

#[derive(Debug, serde::Serialize)]
pub struct ArmReport {
    pub arm: String,
    pub requests_per_second: Vec<f64>,
    pub median: f64,
    /// CPU time of this process only: workers and their Kafka clients, not the broker.
    pub cpu_microseconds_per_request: f64,
    /// Share of the time of all processors that was not idle, with the broker; `None` where `/proc/stat` is not readable.
    pub busy: Option<f64>,
}

/// Runs the benchmark on the configured Kafka.
pub async fn run(args: &StreamArgs, config: Config) -> anyhow::Result<StreamReport> {
    ensure!(args.requests >= 1_000, "--requests: expected at least 1000");
    let workers = config.delivery.workers;
    let runs: &[Run] = match args.format {
        _ if args.taps => &TAPS,
        _ if args.without_baseline => &PIPELINE,
        Format::Avro => &AVRO,
        Format::Json => &JSON,
    };
    let mut backlogs = Vec::new();
    for format in [Format::Json, Format::Avro] {
        if runs.iter().any(|(of, _)| *of == format) {
            let config = if format == Format::Avro { in_avro(config.clone()) } else { config.clone() };
            let bench = Bench::prepare(config, args.flags, args.partitions).await?;
            tracing::info!(requests = args.requests, ?format, "producing the backlog");
            bench.produce(args.requests)?;
            backlogs.push((format, bench));
        }
    }
    let mut rates: Vec<Vec<Rate>> = vec![Vec::new(); runs.len()];
    // The first round is a warm-up, because a broker that has just started is slow.
    for round in 0..=args.rounds.max(1) {
        for ((format, arm), rates) in runs.iter().zip(&mut rates) {
            let Some((_, bench)) = backlogs.iter_mut().find(|(of, _)| of == format) else { continue };
            let rate = measure(bench, *arm, args.requests)?;
            if round == 0 {
                continue;
            }
            tracing::info!(
                round,
                ?format,
                arm = arm.name(),
                requests_per_second = rate.per_second.round(),
                "measured"
            );
            rates.push(rate);
        }
    }
    for (_, bench) in backlogs {
        bench.clean_up().await;
    }
    let arms: Vec<_> = runs.iter().zip(&rates).map(|(run, rates)| report(*run, rates)).collect();
    let ratios = if args.taps { ratios_of_taps(&arms) } else { ratios(&arms) };
    Ok(StreamReport {
        requests: args.requests,
        flags: args.flags,
        partitions: args.partitions,
        workers,
        arms,
        ratios,
    })
}

/// The result of one arm in one round.
#[derive(Debug, Clone, Copy)]
struct Rate {
    per_second: f64,
    cpu_microseconds: f64,
    busy: Option<f64>,
}

/// Measures from the gate's opening to the last commit.
fn measure(bench: &mut Bench, arm: Arm, requests: u64) -> anyhow::Result<Rate> {
    let running = bench.start(arm, From::Backlog)?;
    let started = Instant::now();
    let mut from = None;
    let measured = loop {
        let committed = running.committed();
        if from.is_none() && running.gate.is_open() {
            from = Some((Instant::now(), committed, cpu_seconds(), processor_times()));
        }
        if let (Some((since, at, cpu, processors)), true) = (from, committed >= requests) {
            let count = requests.saturating_sub(at).max(1) as f64;
            break Rate {
                per_second: count / since.elapsed().as_secs_f64(),
                cpu_microseconds: (cpu_seconds() - cpu) * 1e6 / count,
                busy: processors.zip(processor_times()).map(|(before, after)| busy_share(before, after)),
            };
        }
        ensure!(started.elapsed() < DEADLINE, "{}: {committed} of {requests} after {DEADLINE:?}", arm.name());
        std::thread::park_timeout(Duration::from_millis(2));
    };
    running.stop();
    Ok(measured)
}

/// Busy and total time of all processors since the start of the machine, in ticks.
fn processor_times() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let fields = text.lines().next()?.split_whitespace().skip(1);
    let ticks: Vec<u64> = fields.map_while(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; the rest is part of user and nice.
    let total: u64 = ticks.iter().take(8).sum();
    let idle: u64 = ticks.get(3..5)?.iter().sum();
    Some((total - idle, total))
}

fn busy_share(before: (u64, u64), after: (u64, u64)) -> f64 {
    (after.0 - before.0) as f64 / (after.1 - before.1).max(1) as f64
}

/// The configuration with requests and events in Avro.
fn in_avro(mut config: Config) -> Config {
    config.formats.requests = InputFormat::Avro;
    config.formats.events = OutputFormat::Avro;
    // The registry is never contacted.
    config.schema_registry.urls = vec![Secret::new("http://127.0.0.1:9".to_owned())];
    config
}

fn report((format, arm): Run, rates: &[Rate]) -> ArmReport {
    let requests_per_second: Vec<f64> = rates.iter().map(|rate| rate.per_second.round()).collect();
    let cpu: Vec<f64> = rates.iter().map(|rate| rate.cpu_microseconds).collect();
    let busy: Option<Vec<f64>> = rates.iter().map(|rate| rate.busy).collect();
    ArmReport {
        arm: if format == Format::Avro { format!("{}, avro", arm.name()) } else { arm.name() },
        median: median(&requests_per_second),
        requests_per_second,
        cpu_microseconds_per_request: median(&cpu),
        busy: busy.map(|busy| median(&busy)),
    }
}

fn ratios_of_taps(arms: &[ArmReport]) -> Vec<(String, f64)> {
    let [pipeline, taps @ ..] = arms else { return Vec::new() };
    let ratio = |tap: &ArmReport| (format!("{} / request pipeline", tap.arm), tap.median / pipeline.median);
    taps.iter().map(ratio).collect()
}

fn ratios(arms: &[ArmReport]) -> Vec<(String, f64)> {
    let ratio = |name: &str, arm: &ArmReport, by: &ArmReport| (name.to_owned(), arm.median / by.median);
    if let [baseline, json, avro] = arms {
        return vec![
            ratio("json: flagstream / bare loop", json, baseline),
            ratio("avro: flagstream / bare loop", avro, baseline),
            ratio("flagstream: avro / json", avro, json),
        ];
    }
    let [bare_transactional, transactional, bare_at_least_once, at_least_once] = arms else {
        return Vec::new();
    };
    vec![
        ratio("transactional: flagstream / bare loop", transactional, bare_transactional),
        ratio("at_least_once: flagstream / bare loop", at_least_once, bare_at_least_once),
        ratio("flagstream: transactional / at_least_once", transactional, at_least_once),
    ]
}

pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// User and system CPU time of this process.
pub(crate) fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
