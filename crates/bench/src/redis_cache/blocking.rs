//! Measures how long Redis blocks other clients.

use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use flagstream::config::Secret;
use flagstream::shutdown::Shutdown;

use super::{Bench, DEADLINE};

/// Threshold in microseconds above which commands are counted as slow.
const SLOW_MICROS: i64 = 1_000;
/// Maximum number of slow commands that Redis records.
const SLOW_COUNT_MAX: usize = 10_000;

/// Blocking as seen by another client and by Redis itself.
#[derive(Debug, serde::Serialize)]
pub struct Blocking {
    /// Number of values written during the measurement.
    pub values: usize,
    /// Latency of a PING sent every millisecond on a separate connection.
    pub ping_p99_ms: f64,
    pub longest_ping_ms: f64,
    /// Number of commands that took longer than a millisecond (`SLOWLOG`), and the duration of the longest.
    pub slow_commands: usize,
    pub longest_command_ms: f64,
    /// `LATENCY LATEST` with a threshold of 1 ms: event and longest milliseconds.
    pub latency_events: Vec<(String, i64)>,
}

/// A running measurement.
pub(super) struct Watch {
    connection: MultiplexedConnection,
    stop: Shutdown,
    pings: JoinHandle<anyhow::Result<hdrhistogram::Histogram<u64>>>,
}

impl Watch {
    pub(super) fn begin(bench: &Bench, handle: &Handle) -> anyhow::Result<Self> {
        let mut connection = bench.connection.clone();
        handle.block_on(async {
            thresholds(&mut connection, "1", &SLOW_MICROS.to_string()).await?;
            command(&["SLOWLOG", "RESET"]).query_async::<()>(&mut connection).await?;
            command(&["LATENCY", "RESET"]).query_async::<()>(&mut connection).await
        })?;
        let stop = Shutdown::new();
        let pings = handle.spawn(ping(bench.url.clone(), stop.clone()));
        Ok(Self { connection, stop, pings })
    }

    pub(super) fn end(mut self, handle: &Handle, values: usize) -> anyhow::Result<Blocking> {
        self.stop.cancel();
        let pings = handle.block_on(self.pings)??;
        let connection = &mut self.connection;
        let (slow, events) = handle.block_on(async {
            let count = SLOW_COUNT_MAX.to_string();
            let slow: Vec<(i64, i64, i64, redis::Value, String, String)> =
                command(&["SLOWLOG", "GET", &count]).query_async(connection).await?;
            let events: Vec<(String, i64, i64, i64)> =
                command(&["LATENCY", "LATEST"]).query_async(connection).await?;
            thresholds(connection, "0", "10000").await?;
            anyhow::Ok((slow, events))
        })?;
        let micros = slow.iter().map(|(_, _, micros, ..)| *micros);
        Ok(Blocking {
            values,
            ping_p99_ms: pings.value_at_quantile(0.99) as f64 / 1e3,
            longest_ping_ms: pings.max() as f64 / 1e3,
            slow_commands: slow.len(),
            longest_command_ms: micros.max().unwrap_or(0) as f64 / 1e3,
            latency_events: events.into_iter().map(|(event, _, _, longest)| (event, longest)).collect(),
        })
    }
}

async fn thresholds(
    connection: &mut MultiplexedConnection,
    latency: &str,
    slow: &str,
) -> redis::RedisResult<()> {
    command(&["CONFIG", "SET", "slowlog-max-len", &SLOW_COUNT_MAX.to_string()])
        .query_async::<()>(connection)
        .await?;
    command(&["CONFIG", "SET", "slowlog-log-slower-than", slow]).query_async::<()>(connection).await?;
    command(&["CONFIG", "SET", "latency-monitor-threshold", latency]).query_async(connection).await
}

fn command(words: &[&str]) -> Cmd {
    let mut command = Cmd::new();
    command.arg(words);
    command
}

/// Latencies in microseconds of a PING every millisecond on a separate connection.
async fn ping(url: Secret, stop: Shutdown) -> anyhow::Result<hdrhistogram::Histogram<u64>> {
    let client = redis::Client::open(url.expose())?;
    let patience = AsyncConnectionConfig::new().set_response_timeout(Some(DEADLINE));
    let mut connection = client.get_multiplexed_async_connection_with_config(&patience).await?;
    let mut pings = hdrhistogram::Histogram::new(3)?;
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    while !stop.is_cancelled() {
        ticks.tick().await;
        let begun = Instant::now();
        redis::cmd("PING").query_async::<()>(&mut connection).await?;
        pings.record(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX))?;
    }
    Ok(pings)
}
