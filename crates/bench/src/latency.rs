//! `bench latency`: latency from the producer's timestamp to a `read_committed` consumer at a steady rate, for the
//! pipeline and the baseline loop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, ensure};
use hdrhistogram::Histogram;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::Producer;
use rdkafka::{Offset, TopicPartitionList};

use flagstream::config::{Config, DeliveryMode};

use super::baseline::STAMP_LENGTH;
use super::gate::Gate;
use super::setup::{Arm, Bench, From, Loop};
use super::stream::median;

/// Results within this time after the gate opens are ignored, while connections open and batch times adapt.
const WARM_UP: Duration = Duration::from_secs(1);
/// Additional time of sending, because a group of several workers takes a while to form.
const FORMING: Duration = Duration::from_secs(4);
const STAMP: &[u8] = br#""request_id":""#;

/// The parameters of the benchmark.
#[derive(Debug, Clone, clap::Args)]
pub struct LatencyArgs {
    /// Requests per second; several rates separated by commas
    #[arg(long, value_delimiter = ',', default_values_t = [10_000])]
    pub rates: Vec<u64>,
    /// Duration per arm and rate, in seconds
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    #[arg(long, default_value_t = 50)]
    pub flags: usize,
    #[arg(long, default_value_t = 4)]
    pub partitions: i32,
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
}

#[derive(Debug, serde::Serialize)]
pub struct LatencyReport {
    pub rows: Vec<LatencyRow>,
    pub ratios: Vec<(String, f64)>,
}

/// Latencies in milliseconds, as medians over the rounds.
#[derive(Debug, serde::Serialize)]
pub struct LatencyRow {
    pub arm: String,
    pub rate: u64,
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub p99_rounds: Vec<f64>,
}

/// Runs the benchmark on the configured Kafka.
pub async fn run(args: &LatencyArgs, config: Config) -> anyhow::Result<LatencyReport> {
    let mut bench = Bench::prepare(config, args.flags, args.partitions).await?;
    let mut measured: BTreeMap<(u64, usize), Vec<Histogram<u64>>> = BTreeMap::new();
    let arms: Vec<Arm> = [DeliveryMode::Transactional, DeliveryMode::AtLeastOnce]
        .into_iter()
        .flat_map(|mode| [Loop::Baseline, Loop::Full].map(|what| Arm { what, mode }))
        .collect();
    for round in 0..args.rounds.max(1) {
        for rate in &args.rates {
            for (index, arm) in arms.iter().enumerate() {
                let histogram = measure(&mut bench, *arm, *rate, Duration::from_secs(args.seconds))?;
                let p99 = millis(&histogram, 0.99);
                tracing::info!(
                    round,
                    rate,
                    arm = arm.name(),
                    p99_ms = p99,
                    results = histogram.len(),
                    "measured"
                );
                measured.entry((*rate, index)).or_default().push(histogram);
            }
        }
    }
    bench.clean_up().await;
    let rows: Vec<_> = measured
        .iter()
        .filter_map(|((rate, index), histograms)| Some(row(arms.get(*index)?, *rate, histograms)))
        .collect();
    let ratios = rows.chunks(2).filter_map(|pair| match pair {
        [baseline, full] => Some((
            format!("p99 at {}/s, {} / {}", full.rate, full.arm, baseline.arm),
            full.p99 / baseline.p99,
        )),
        _ => None,
    });
    Ok(LatencyReport { ratios: ratios.collect(), rows })
}

fn row(arm: &Arm, rate: u64, histograms: &[Histogram<u64>]) -> LatencyRow {
    let over = |quantile| histograms.iter().map(|histogram| millis(histogram, quantile)).collect::<Vec<_>>();
    let p99_rounds = over(0.99);
    LatencyRow {
        arm: arm.name(),
        rate,
        p50: median(&over(0.5)),
        p99: median(&p99_rounds),
        p999: median(&over(0.999)),
        p99_rounds,
    }
}

fn millis(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1_000.0
}

/// Measures one arm at one rate. Returns latencies in microseconds.
fn measure(bench: &mut Bench, arm: Arm, rate: u64, duration: Duration) -> anyhow::Result<Histogram<u64>> {
    ensure!(rate > 0, "--rates: expected at least 1");
    let consumer = consumer_at_end(bench)?;
    let running = bench.start(arm, From::End)?;
    let done = Arc::new(AtomicBool::new(false));
    let reader = {
        let (done, gate) = (Arc::clone(&done), running.gate.clone());
        std::thread::Builder::new()
            .name("bench-reader".into())
            .spawn(move || read(&consumer, &gate, &done))?
    };
    let sent = send_at(bench, rate, duration + WARM_UP + FORMING);
    let deadline = Instant::now() + Duration::from_secs(10);
    let target = *sent.as_ref().unwrap_or(&0);
    while running.committed() < target && Instant::now() < deadline {
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let committed = running.committed();
    std::thread::park_timeout(Duration::from_millis(300));
    done.store(true, Ordering::Relaxed);
    let histogram = reader.join().map_err(|_| anyhow!("the reader panicked"))??;
    running.stop();
    let sent = sent?;
    ensure!(committed >= sent, "{}: {committed} of {sent} requests answered", arm.name());
    Ok(histogram)
}

/// Sends at a steady rate, in slots of a millisecond. Returns the number of requests.
fn send_at(bench: &Bench, rate: u64, duration: Duration) -> anyhow::Result<u64> {
    let producer = bench.request_producer(1)?;
    let started = Instant::now();
    let mut sent = 0;
    while started.elapsed() < duration {
        let due = (started.elapsed().as_secs_f64() * rate as f64) as u64;
        while sent < due {
            bench.send(&producer, sent, micros_now())?;
            sent += 1;
        }
        std::thread::park_timeout(Duration::from_micros(500));
    }
    producer.flush(Duration::from_secs(10)).context("requests not delivered")?;
    Ok(sent)
}

fn consumer_at_end(bench: &Bench) -> anyhow::Result<BaseConsumer> {
    let consumer: BaseConsumer = bench
        .client("reader")
        .set("group.id", "unused")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "20")
        .set("fetch.queue.backoff.ms", "1")
        .create()?;
    let mut partitions = TopicPartitionList::new();
    for partition in 0..bench.config.topics.partitions {
        partitions.add_partition_offset(&bench.config.topics.events, partition, Offset::End)?;
    }
    consumer.assign(&partitions)?;
    Ok(consumer)
}

fn read(consumer: &BaseConsumer, gate: &Gate, done: &AtomicBool) -> anyhow::Result<Histogram<u64>> {
    let mut histogram = Histogram::new_with_bounds(1, 60_000_000, 3)?;
    let mut first = None;
    while !done.load(Ordering::Relaxed) {
        let Some(record) = consumer.poll(Duration::from_millis(20)) else {
            continue;
        };
        let record = record?;
        let stamp = stamp(record.payload().unwrap_or_default()).context("an event without a stamp")?;
        let now = micros_now();
        if !gate.is_open() {
            continue;
        }
        let since = *first.get_or_insert(now);
        if now - since > WARM_UP.as_micros() as u64 {
            histogram.saturating_record(now.saturating_sub(stamp));
        }
    }
    Ok(histogram)
}

fn stamp(event: &[u8]) -> Option<u64> {
    let at = event.windows(STAMP.len()).position(|window| window == STAMP)? + STAMP.len();
    std::str::from_utf8(event.get(at..at + STAMP_LENGTH)?).ok()?.parse().ok()
}

fn micros_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}
