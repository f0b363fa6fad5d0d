//! `bench listeners`: memory that idle change streams take in the server, and what happens when all of them lose their
//! connection and reconnect at once.
//!
//! The server is a child process without other work. The baselines are its memory before the first stream connects, and
//! the latency of evaluations while the streams are idle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use flagstream::http::fd_limit;

use super::http::Arm;
use super::http::client::{self, Load};
use super::http::process::{Process, resident_bytes};

/// Timeout for one stream to receive its first id.
const DEADLINE: Duration = Duration::from_secs(10);
/// Number of streams that connect concurrently.
pub(crate) const AT_ONCE: usize = 50;
/// Number of flags that the server evaluates.
const FLAGS: usize = 350;
/// Time within which every stream must have reconnected.
const RECONNECT_DEADLINE: Duration = Duration::from_secs(120);
/// Random delay of a client before it tries again, in milliseconds.
const RETRY_MS_MIN: u64 = 100;
const RETRY_MS_MAX: u64 = 1_000;
/// A prime that spreads the numbers of clients over the range of the delay.
const SPREAD_FACTOR: u64 = 7_919;
/// Evaluations per second beside the streams, over this many connections.
const EVALUATIONS_PER_SECOND: f64 = 200.0;
const EVALUATING_CONNECTIONS: usize = 4;
/// Duration of one measurement of evaluations.
const EVALUATION_TIME: Duration = Duration::from_secs(10);
/// Interval at which memory is read.
const MEMORY_INTERVAL: Duration = Duration::from_millis(50);

/// Settings of the server: every caller may follow changes, and events are not kept on disk.
const SETTINGS: [(&str, &str); 2] =
    [("FLAGSTREAM_API__DURABILITY", "memory"), ("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate,read")];

/// The parameters of the benchmark.
#[derive(Debug, Clone, clap::Args)]
pub struct ListenersArgs {
    /// Number of open streams of `GET /api/v1/changes`
    #[arg(long, default_value_t = 5_000)]
    pub listeners: usize,
    /// Seconds until the memory is read again; beyond 15 s the streams receive heartbeats
    #[arg(long, default_value_t = 20)]
    pub seconds: u64,
    /// How many times all streams close and reconnect at once, while flags are evaluated
    #[arg(long, default_value_t = 0)]
    pub reconnects: usize,
}

#[derive(Debug, serde::Serialize)]
pub struct ListenersReport {
    pub listeners: usize,
    /// Resident memory of the server before the streams connect.
    pub before_bytes: u64,
    pub connected_bytes: u64,
    pub later_bytes: u64,
    pub bytes_per_listener: f64,
    pub reconnects: Vec<Reconnect>,
}

/// One time that all streams reconnected at once.
#[derive(Debug, serde::Serialize)]
pub struct Reconnect {
    /// Time until every stream received its first id again.
    pub seconds: f64,
    /// Attempts that the server answered with 503, because closed streams still had their places.
    pub refused: u64,
    /// Largest memory of the server meanwhile.
    pub peak_bytes: u64,
    /// Evaluations while the streams were idle.
    pub before: Evaluations,
    /// Evaluations from the moment at which the streams closed, for as long as `before`.
    pub evaluations: Evaluations,
}

/// Latencies of evaluations at a steady rate, from the time at which each was due.
#[derive(Debug, serde::Serialize)]
pub struct Evaluations {
    pub answers: u64,
    pub failed: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub longest_ms: f64,
}

/// Runs the benchmark, which does not need Kafka.
pub async fn run(args: &ListenersArgs) -> anyhow::Result<ListenersReport> {
    ensure!(args.listeners > 0, "--listeners: expected at least 1");
    let _ = fd_limit::raise_for(args.listeners);
    let folder = std::env::temp_dir().join(format!("flagstream-bench-{}", std::process::id()));
    let most = (args.listeners + AT_ONCE).to_string();
    let settings = [&SETTINGS[..], &[("FLAGSTREAM_HTTP__LISTENERS", most.as_str())]].concat();
    let Process { mut child, address } = Process::own(FLAGS, &folder, &settings).await?;
    let pid = child.id().context("the server has ended")?;
    // Warms up the server, so that one-time allocations do not count.
    drop(connect_all(&address, AT_ONCE, connect).await?);
    let before_bytes = resident_bytes(pid)?;
    let open = connect_all(&address, args.listeners, connect).await?;
    let connected_bytes = resident_bytes(pid)?;
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    let later_bytes = resident_bytes(pid)?;
    let (mut open, mut reconnects) = (open, Vec::new());
    for _ in 0..args.reconnects {
        let before = evaluate(&address).await?;
        let (reconnect, opened) = reconnect(&address, pid, open, before).await?;
        reconnects.push(reconnect);
        open = opened;
    }
    drop(open);
    child.kill().await?;
    // The folder may not exist.
    let _ = std::fs::remove_dir_all(&folder);
    let bytes_per_listener = later_bytes.saturating_sub(before_bytes) as f64 / args.listeners as f64;
    Ok(ListenersReport {
        listeners: args.listeners,
        before_bytes,
        connected_bytes,
        later_bytes,
        bytes_per_listener,
        reconnects,
    })
}

/// Closes all streams and connects as many at once, each attempt as soon as the server allows.
async fn reconnect(
    address: &str,
    pid: u32,
    open: Vec<TcpStream>,
    before: Evaluations,
) -> anyhow::Result<(Reconnect, Vec<TcpStream>)> {
    let count = open.len();
    drop(open);
    let (started, refused) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let evaluating = {
        let address = address.to_owned();
        tokio::spawn(async move { evaluate(&address).await })
    };
    let connecting: Vec<_> = (0..count)
        .map(|number| {
            let (address, refused) = (address.to_owned(), Arc::clone(&refused));
            let connecting = async move { connect_again(number as u64, &address, &refused).await };
            tokio::spawn(timeout(RECONNECT_DEADLINE, connecting))
        })
        .collect();
    let is_over = Arc::new(AtomicBool::new(false));
    let watching = tokio::spawn(peak_bytes(pid, Arc::clone(&is_over)));
    let mut open = Vec::with_capacity(count);
    for connected in connecting {
        open.push(connected.await?.context("a listener could not reconnect")??);
    }
    let seconds = started.elapsed().as_secs_f64();
    let evaluations = evaluating.await??;
    is_over.store(true, Ordering::Relaxed);
    let peak_bytes = watching.await??;
    Ok((
        Reconnect { seconds, refused: refused.load(Ordering::Relaxed), peak_bytes, before, evaluations },
        open,
    ))
}

/// Connects until the server accepts the stream.
async fn connect_again(number: u64, address: &str, refused: &AtomicU64) -> anyhow::Result<TcpStream> {
    loop {
        match connect(address.to_owned()).await {
            Ok(stream) => return Ok(stream),
            Err(_) => refused.fetch_add(1, Ordering::Relaxed),
        };
        // The clients differ by their numbers, which spreads them over the time as a random delay would.
        let spread = RETRY_MS_MAX - RETRY_MS_MIN;
        let pause = RETRY_MS_MIN + number.wrapping_mul(SPREAD_FACTOR) % spread;
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

/// Evaluates single flags at a steady rate for a while.
async fn evaluate(address: &str) -> anyhow::Result<Evaluations> {
    let load = Load {
        address,
        call: &|number| client::call(Arm::One, number, FLAGS),
        connections: EVALUATING_CONNECTIONS,
        time: EVALUATION_TIME,
        rate: Some(EVALUATIONS_PER_SECOND),
    };
    let measured = load.run().await?;
    let at = |quantile| measured.latencies.value_at_quantile(quantile) as f64 / 1e3;
    let due = EVALUATIONS_PER_SECOND * EVALUATION_TIME.as_secs_f64();
    Ok(Evaluations {
        answers: measured.answers,
        failed: (due as usize).saturating_sub(measured.answers as usize + EVALUATING_CONNECTIONS),
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        longest_ms: measured.latencies.max() as f64 / 1e3,
    })
}

/// The largest memory of a process until `is_over`.
async fn peak_bytes(pid: u32, is_over: Arc<AtomicBool>) -> anyhow::Result<u64> {
    let mut peak = resident_bytes(pid)?;
    while !is_over.load(Ordering::Relaxed) {
        tokio::time::sleep(MEMORY_INTERVAL).await;
        peak = peak.max(resident_bytes(pid)?);
    }
    Ok(peak)
}

/// Opens streams with `connect`, [`AT_ONCE`] at a time.
pub(crate) async fn connect_all<F>(
    address: &str,
    count: usize,
    connect: fn(String) -> F,
) -> anyhow::Result<Vec<TcpStream>>
where
    F: Future<Output = anyhow::Result<TcpStream>> + Send + 'static,
{
    let mut open = Vec::with_capacity(count);
    while open.len() < count {
        let some = AT_ONCE.min(count - open.len());
        let connecting: Vec<_> =
            (0..some).map(|_| tokio::spawn(timeout(DEADLINE, connect(address.to_owned())))).collect();
        for connected in connecting {
            open.push(connected.await?.context("a stream does not begin in time")??);
        }
    }
    Ok(open)
}

/// Connects a stream, and waits for its first id.
async fn connect(address: String) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /api/v1/changes HTTP/1.1\r\nhost: bench\r\n\r\n").await?;
    let (mut heard, mut buffer) = (Vec::new(), [0; 1_024]);
    while !heard.windows(4).any(|window| window == b"\nid:") {
        let read = stream.read(&mut buffer).await?;
        ensure!(read > 0, "the server closed a stream: {}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(buffer.get(..read).unwrap_or_default());
        ensure!(!heard.starts_with(b"HTTP/1.1 503"), "{}", String::from_utf8_lossy(&heard));
    }
    Ok(stream)
}
