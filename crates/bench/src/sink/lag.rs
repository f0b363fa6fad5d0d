//! Measures the lag of rows at half of the maximum rate.

use std::time::{Duration, Instant};

use anyhow::Context;

use flagstream::config::DeliveryMode;

use super::super::load;
use super::super::setup::{Arm, Bench, From, Loop};
use super::postgres::Own;
use super::{Running, SinkArgs, event, start};

/// Duration of the load, in seconds.
const SECONDS: u64 = 10;
/// Sampling interval, which determines the precision of the lag.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// Timeout for the last row.
const DEADLINE: Duration = Duration::from_secs(30);

/// Time from an evaluation, or a request, to its committed row.
#[derive(Debug, serde::Serialize)]
pub struct Lag {
    pub rows_per_second: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// Results of the whole path from requests to rows.
#[derive(Debug, serde::Serialize)]
pub struct Pipeline {
    /// Throughput of a backlog.
    pub rows_per_second: f64,
    /// Lag at half of that rate.
    pub lag: Lag,
}

/// Measures the lag with events at a steady rate.
pub(super) fn of_events(bench: &Bench, own: &Own, args: &SinkArgs, rate: u64) -> anyhow::Result<Lag> {
    let running = start(bench, own, "lag")?;
    // Waits until the sink has written the events of the other arms.
    wait(&running, args.rows)?;
    let lag = at_rate(&running, rate, |began| produce(bench, args, rate, began));
    running.stop();
    lag
}

/// Measures requests: first a backlog, then half of the backlog's rate.
pub(super) fn of_requests(bench: &mut Bench, own: &Own, args: &SinkArgs) -> anyhow::Result<Pipeline> {
    let requests = args.rows / 2;
    let running = start(bench, own, "requests")?;
    bench.produce(requests)?;
    let arm = Arm { what: Loop::Full, mode: DeliveryMode::Transactional };
    let evaluators = bench.start(arm, From::Backlog)?;
    wait(&running, 1)?;
    let (begun, before) = (Instant::now(), running.written());
    wait(&running, requests)?;
    let rate = (requests - before) as f64 / begun.elapsed().as_secs_f64();
    let half = (rate / 2.0) as u64;
    let producer = bench.request_producer(5)?;
    let lag = at_rate(&running, half, |began| {
        paced(half, began, |number| bench.send(&producer, number, 0))?;
        rdkafka::producer::Producer::flush(&producer, DEADLINE).context("requests not delivered")
    });
    evaluators.stop();
    running.stop();
    Ok(Pipeline { rows_per_second: rate.round(), lag: lag? })
}

/// Runs `produce` at a steady rate and samples the number of rows. The lag is the time since the row that is next was
/// due.
fn at_rate(
    running: &Running,
    rate: u64,
    produce: impl FnOnce(Instant) -> anyhow::Result<()> + Send,
) -> anyhow::Result<Lag> {
    let (total, before) = (rate * SECONDS, running.written());
    let began = Instant::now();
    let mut millis = Vec::new();
    std::thread::scope(|scope| {
        let producing = scope.spawn(|| produce(began));
        loop {
            let done = running.written() - before;
            let due = began + Duration::from_secs_f64(done as f64 / rate as f64);
            if done >= total || began.elapsed() > DEADLINE + Duration::from_secs(SECONDS) {
                break;
            }
            millis.push(due.elapsed().as_secs_f64() * 1e3);
            std::thread::park_timeout(POLL_INTERVAL);
        }
        producing.join().map_err(|_| anyhow::anyhow!("the load failed"))?
    })?;
    millis.sort_by(f64::total_cmp);
    let at = |share: f64| millis.get((millis.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    Ok(Lag { rows_per_second: rate, p50_ms: at(0.5), p99_ms: at(0.99) })
}

fn wait(running: &Running, rows: u64) -> anyhow::Result<()> {
    let started = Instant::now();
    while running.written() < rows {
        anyhow::ensure!(started.elapsed() < super::DEADLINE, "sink: {} of {rows} rows", running.written());
        std::thread::park_timeout(POLL_INTERVAL);
    }
    Ok(())
}

fn produce(bench: &Bench, args: &SinkArgs, rate: u64, began: Instant) -> anyhow::Result<()> {
    let producer = bench.request_producer(5)?;
    let partitions = u64::from(args.partitions.unsigned_abs());
    let topics = &bench.config.topics;
    paced(rate, began, |number| {
        let place = (args.rows + number) / partitions;
        let partition = i32::try_from(number % partitions)?;
        let place = (partition, i64::try_from(place + 1)?);
        let (key, body) =
            event(&bench.snapshot, number, args.flags, &topics.requests, place, chrono::Utc::now())
                .context("no event")?;
        bench.send_to(&producer, &topics.events, partition, &key, &body)
    })?;
    rdkafka::producer::Producer::flush(&producer, DEADLINE).context("events not delivered")?;
    tracing::debug!(environment = load::ENVIRONMENT, rate, "produced");
    Ok(())
}

/// Calls `one` at a steady rate.
fn paced(rate: u64, began: Instant, mut one: impl FnMut(u64) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let (mut number, total) = (0, rate * SECONDS);
    while number < total {
        let due = (began.elapsed().as_secs_f64() * rate as f64) as u64;
        while number < due.min(total) {
            one(number)?;
            number += 1;
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    Ok(())
}
