//! `bench stream`: throughput of a backlog, the pipeline against the bare loop.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::config::{Config, DeliveryMode};

use super::setup::{Arm, Bench, From, Loop};

/// Longest wait for one arm.
const PATIENCE: Duration = Duration::from_secs(180);

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct StreamArgs {
    /// Requests in the backlog
    #[arg(long, default_value_t = 1_000_000)]
    pub requests: u64,
    /// Different flags
    #[arg(long, default_value_t = 50)]
    pub flags: usize,
    #[arg(long, default_value_t = 4)]
    pub partitions: i32,
    /// Every arm runs this often, in turn; the median counts
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
}

const ARMS: [Arm; 4] = [
    Arm { what: Loop::Bare, mode: DeliveryMode::Transactional },
    Arm { what: Loop::Full, mode: DeliveryMode::Transactional },
    Arm { what: Loop::Bare, mode: DeliveryMode::AtLeastOnce },
    Arm { what: Loop::Full, mode: DeliveryMode::AtLeastOnce },
];

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
    /// Of this process alone: workers and their Kafka clients, not the broker.
    pub cpu_microseconds_per_request: f64,
}

/// Runs the benchmark on the configured Kafka.
pub async fn run(args: &StreamArgs, config: Config) -> anyhow::Result<StreamReport> {
    ensure!(args.requests >= 1_000, "--requests: expected at least 1000");
    let workers = config.delivery.workers;
    let mut bench = Bench::prepare(config, args.flags, args.partitions).await?;
    tracing::info!(requests = args.requests, "producing the backlog");
    bench.produce(args.requests)?;
    let mut rates: Vec<Vec<(f64, f64)>> = vec![Vec::new(); ARMS.len()];
    // A broker that has just started is slow: the first round of all is for warming up.
    for round in 0..=args.rounds.max(1) {
        for (arm, rates) in ARMS.iter().zip(&mut rates) {
            let rate = measure(&mut bench, *arm, args.requests)?;
            if round == 0 {
                continue;
            }
            tracing::info!(round, arm = arm.name(), requests_per_second = rate.0.round(), "measured");
            rates.push(rate);
        }
    }
    bench.clean_up().await;
    let arms: Vec<_> = ARMS.iter().zip(&rates).map(|(arm, rates)| report(*arm, rates)).collect();
    let ratios = ratios(&arms);
    Ok(StreamReport {
        requests: args.requests,
        flags: args.flags,
        partitions: args.partitions,
        workers,
        arms,
        ratios,
    })
}

/// Requests per second from the gate's opening to the last commit, and CPU time per request.
fn measure(bench: &mut Bench, arm: Arm, requests: u64) -> anyhow::Result<(f64, f64)> {
    let running = bench.start(arm, From::Backlog)?;
    let started = Instant::now();
    let mut from = None;
    let measured = loop {
        let committed = running.committed();
        if from.is_none() && running.gate.is_open() {
            from = Some((Instant::now(), committed, cpu_seconds()));
        }
        if let (Some((since, at, cpu)), true) = (from, committed >= requests) {
            let count = requests.saturating_sub(at).max(1) as f64;
            break (count / since.elapsed().as_secs_f64(), (cpu_seconds() - cpu) * 1e6 / count);
        }
        ensure!(started.elapsed() < PATIENCE, "{}: {committed} of {requests} after {PATIENCE:?}", arm.name());
        std::thread::park_timeout(Duration::from_millis(2));
    };
    running.stop();
    Ok(measured)
}

fn report(arm: Arm, rates: &[(f64, f64)]) -> ArmReport {
    let requests_per_second: Vec<f64> = rates.iter().map(|(rate, _)| rate.round()).collect();
    let cpu: Vec<f64> = rates.iter().map(|(_, cpu)| *cpu).collect();
    ArmReport {
        arm: arm.name(),
        median: median(&requests_per_second),
        requests_per_second,
        cpu_microseconds_per_request: median(&cpu),
    }
}

fn ratios(arms: &[ArmReport]) -> Vec<(String, f64)> {
    let [bare_transactional, transactional, bare_at_least_once, at_least_once] = arms else {
        return Vec::new();
    };
    vec![
        (
            "transactional: flagstream / bare loop".to_owned(),
            transactional.median / bare_transactional.median,
        ),
        (
            "at_least_once: flagstream / bare loop".to_owned(),
            at_least_once.median / bare_at_least_once.median,
        ),
        ("flagstream: transactional / at_least_once".to_owned(), transactional.median / at_least_once.median),
    ]
}

pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// User and system time of this process.
fn cpu_seconds() -> f64 {
    // A plain struct of integers, which the call fills.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}
