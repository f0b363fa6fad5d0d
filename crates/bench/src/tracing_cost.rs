//! `bench tracing`: throughput of the pipeline with OpenTelemetry, compared with none.
//!
//! OpenTelemetry is configured once for a process, so each arm is a run of `stream` in a child process. A collector in
//! this process accepts what the arms send; its work counts against them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use tokio::net::TcpListener;

use super::compare::{Compared, compared, measure};

const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const RATIO: &str = "OTEL_TRACES_SAMPLER_ARG";

/// Name and variables of each arm. The first one is the base of the ratios.
const ARMS: [(&str, &[(&str, &str)]); 4] = [
    ("off", &[("OTEL_SDK_DISABLED", "true")]),
    ("nothing sampled", &[(SAMPLER, "parentbased_always_off")]),
    ("1 % sampled", &[(SAMPLER, "parentbased_traceidratio"), (RATIO, "0.01")]),
    ("all sampled", &[(SAMPLER, "parentbased_always_on")]),
];

/// Parameters of the benchmark.
#[derive(Debug, clap::Args)]
pub struct TracingArgs {
    /// Number of requests in the backlog of each run
    #[arg(long, default_value_t = 500_000)]
    pub requests: u64,
    /// Number of counted rounds; with 6 or more, the interval has a confidence of 95 %
    #[arg(long, default_value_t = 6)]
    pub rounds: usize,
}

/// The comparison of each sampler with no OpenTelemetry.
#[derive(Debug, serde::Serialize)]
pub struct TracingReport {
    pub requests: u64,
    pub rounds: usize,
    pub arms: Vec<Compared>,
    /// Bytes of spans and log events that the collector received from each arm.
    pub collected_bytes: Vec<(String, u64)>,
}

/// Runs the arms in turn. The first round is a warm-up and is discarded.
pub async fn run(args: &TracingArgs) -> anyhow::Result<TracingReport> {
    ensure!(args.rounds >= 1, "--rounds: expected at least 1");
    let program = std::env::current_exe().context("the path of this program")?;
    let (endpoint, received) = collect().await?;
    let requests = args.requests.to_string();
    let benchmark = ["stream", "--without-baseline", "--rounds", "1", "--requests", &requests];
    let benchmark = benchmark.map(str::to_owned);
    let mut samples = ARMS.map(|_| Vec::new());
    let mut collected = ARMS.map(|_| 0);
    for round in 0..=args.rounds {
        for turn in 0..ARMS.len() {
            // The order rotates, because a run finds what the one before it has left in the caches.
            let index = (turn + round) % ARMS.len();
            let (Some((arm, variables)), Some(samples), Some(collected)) =
                (ARMS.get(index), samples.get_mut(index), collected.get_mut(index))
            else {
                continue;
            };
            let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str());
            let variables = [&[endpoint][..], variables].concat();
            let before = received.load(Ordering::Relaxed);
            let medians = measure(&program, &benchmark, &variables).await?;
            let rate = *medians.get("flagstream, transactional").context("the report lacks the pipeline")?;
            if round > 0 {
                tracing::info!(round, arm, requests_per_second = rate, "measured");
                samples.push(rate);
                *collected += received.load(Ordering::Relaxed) - before;
            }
        }
    }
    let names = ARMS.map(|(name, _)| name.to_owned());
    let [off, others @ ..] = &samples;
    let arms = names.iter().skip(1).zip(others);
    Ok(TracingReport {
        requests: args.requests,
        rounds: args.rounds,
        // Every decrease is shown, none is a failure.
        arms: arms.map(|(name, samples)| compared(name.clone(), off, samples, 0.0)).collect(),
        collected_bytes: names.into_iter().zip(collected).collect(),
    })
}

/// Starts a collector. Returns its address, and the number of bytes that it has received.
async fn collect() -> anyhow::Result<(String, Arc<AtomicU64>)> {
    let received = Arc::new(AtomicU64::new(0));
    let take = async |State(received): State<Arc<AtomicU64>>, body: Bytes| {
        received.fetch_add(body.len() as u64, Ordering::Relaxed);
    };
    let router = Router::new()
        .route("/v1/traces", post(take))
        .route("/v1/logs", post(take))
        .with_state(Arc::clone(&received));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the collector ended");
        }
    });
    Ok((endpoint, received))
}
