//! How far rows are behind their events at half of the sink's throughput.

use std::time::{Duration, Instant};

use anyhow::Context;

use super::super::load;
use super::super::setup::Bench;
use super::postgres::Own;
use super::{SinkArgs, event, start};

/// How long the load lasts.
const SECONDS: u64 = 10;
/// Between two looks; how exact the lag is.
const STEP: Duration = Duration::from_millis(5);
/// How long the last row may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// From an evaluation to its committed row.
#[derive(Debug, serde::Serialize)]
pub struct Lag {
    pub rows_per_second: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// Produces at a steady rate and looks how many rows there are: the row that is there now was due when its turn was.
pub(super) fn measure(bench: &Bench, own: &Own, args: &SinkArgs, rate: u64) -> anyhow::Result<Lag> {
    let running = start(bench, own, "lag")?;
    let total = rate * SECONDS;
    // It is at work before the clock starts: the events of the other arms are rows first.
    let before = args.rows;
    wait(&running, before)?;
    let began = Instant::now();
    let mut millis = Vec::new();
    std::thread::scope(|scope| {
        let producing = scope.spawn(|| produce(bench, args, rate, began));
        loop {
            let done = running.written() - before;
            let due = began + Duration::from_secs_f64(done as f64 / rate as f64);
            if done >= total || began.elapsed() > PATIENCE + Duration::from_secs(SECONDS) {
                break;
            }
            millis.push(due.elapsed().as_secs_f64() * 1e3);
            std::thread::park_timeout(STEP);
        }
        producing.join().map_err(|_| anyhow::anyhow!("the load failed"))?
    })?;
    running.stop();
    millis.sort_by(f64::total_cmp);
    let at = |share: f64| millis.get((millis.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    Ok(Lag { rows_per_second: rate, p50_ms: at(0.5), p99_ms: at(0.99) })
}

fn wait(running: &super::Running, rows: u64) -> anyhow::Result<()> {
    let started = Instant::now();
    while running.written() < rows {
        anyhow::ensure!(started.elapsed() < super::PATIENCE, "sink: {} of {rows} rows", running.written());
        std::thread::park_timeout(STEP);
    }
    Ok(())
}

fn produce(bench: &Bench, args: &SinkArgs, rate: u64, began: Instant) -> anyhow::Result<()> {
    let producer = bench.request_producer(5)?;
    let partitions = u64::from(args.partitions.unsigned_abs());
    let topics = &bench.config.topics;
    let mut number = 0;
    while number < rate * SECONDS {
        let due = (began.elapsed().as_secs_f64() * rate as f64) as u64;
        while number < due.min(rate * SECONDS) {
            let place = (args.rows + number) / partitions;
            let partition = i32::try_from(number % partitions)?;
            let place = (partition, i64::try_from(place + 1)?);
            let (key, body) =
                event(&bench.snapshot, number, args.flags, &topics.requests, place, chrono::Utc::now())
                    .context("no event")?;
            bench.send_to(&producer, &topics.events, partition, &key, &body)?;
            number += 1;
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    rdkafka::producer::Producer::flush(&producer, PATIENCE).context("events not delivered")?;
    tracing::debug!(environment = load::ENVIRONMENT, number, "produced");
    Ok(())
}
