//! Many open streams of definitions: memory, and the time of a change to the last byte of each stream.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use flagstream::http::fd_limit;

use crate::http::change;
use crate::http::process::CLIENT_TOKEN;
use crate::listeners::{AT_ONCE, connect_all};

use super::{UnleashApiArgs, own};

/// Timeout for all streams to receive a change.
const DEADLINE: Duration = Duration::from_secs(60);
/// Pause between two changes.
const PAUSE: Duration = Duration::from_millis(200);
/// Bytes that a stream reads at once.
const READ_BYTES: usize = 4 << 10;
/// Events of the stream: all definitions, and a change.
const CONNECTED: &[u8] = b"unleash-connected";
const UPDATED: &[u8] = b"unleash-updated";

#[derive(Debug, serde::Serialize)]
pub struct StreamsReport {
    pub streams: usize,
    pub connect_seconds: f64,
    /// Resident memory of the server before the streams connect.
    pub before_bytes: u64,
    pub connected_bytes: u64,
    /// Resident memory after the changes.
    pub later_bytes: u64,
    pub bytes_per_stream: f64,
    pub changes: usize,
    /// Time from a change to the last byte of its event, over all streams and changes.
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub longest_ms: f64,
    /// For each change, the time until the last stream has its last byte.
    pub last_stream_ms: Vec<f64>,
}

/// Runs the benchmark, which does not need Kafka.
pub(super) async fn run(
    args: &UnleashApiArgs,
    streams: usize,
    folder: &Path,
) -> anyhow::Result<StreamsReport> {
    ensure!(streams > 0 && args.changes > 0, "--streams, --changes: expected at least 1");
    let allowed = fd_limit::raise_for(streams);
    ensure!(allowed >= streams, "the limit of file descriptors (ulimit -n) allows {allowed} streams");
    let most = (streams + AT_ONCE).to_string();
    let mut server = own(args.flags, folder, &[("FLAGSTREAM_HTTP__LISTENERS", most.as_str())]).await?;
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    // Warms up the server, so that one-time allocations do not count.
    drop(connect_all(&server.address, AT_ONCE, connect).await?);
    let before_bytes = server.resident_bytes()?;
    let begun = Instant::now();
    let open = connect_all(&server.address, streams, connect).await?;
    let connect_seconds = begun.elapsed().as_secs_f64();
    let connected_bytes = server.resident_bytes()?;
    let listening: Vec<_> =
        open.into_iter().map(|stream| tokio::spawn(listen(stream, arrived.clone()))).collect();
    let client = reqwest::Client::builder().no_proxy().build()?;
    let mut times = Histogram::<u64>::new(3)?;
    let mut last_stream_ms = Vec::new();
    for number in 0..args.changes {
        tokio::time::sleep(PAUSE).await;
        let begun = Instant::now();
        let change = client.post(format!("http://{}{}", server.address, change::PATH)).send();
        let receiving = timeout(DEADLINE, receive(&mut arrivals, streams, begun));
        let (changed, received) = tokio::join!(change, receiving);
        changed?.error_for_status()?;
        let received = received.with_context(|| format!("change {number} did not reach all streams"))??;
        last_stream_ms.push(received.max() as f64 / 1e3);
        times.add(received)?;
    }
    let later_bytes = server.resident_bytes()?;
    listening.iter().for_each(tokio::task::JoinHandle::abort);
    server.child.kill().await?;
    let at = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
    Ok(StreamsReport {
        streams,
        connect_seconds,
        before_bytes,
        connected_bytes,
        later_bytes,
        bytes_per_stream: later_bytes.saturating_sub(before_bytes) as f64 / streams as f64,
        changes: args.changes,
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        longest_ms: times.max() as f64 / 1e3,
        last_stream_ms,
    })
}

/// Times of one change to all streams, in microseconds.
async fn receive(
    arrivals: &mut mpsc::UnboundedReceiver<Instant>,
    streams: usize,
    begun: Instant,
) -> anyhow::Result<Histogram<u64>> {
    let mut times = Histogram::new(3)?;
    for _ in 0..streams {
        let at = arrivals.recv().await.context("the streams have ended")?;
        let time = at.saturating_duration_since(begun);
        times.record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))?;
    }
    Ok(times)
}

/// Connects a stream, and waits for all definitions.
async fn connect(address: String) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    let call = format!(
        "GET /api/client/streaming HTTP/1.1\r\nhost: bench\r\nauthorization: {CLIENT_TOKEN}\r\naccept: text/event-stream\r\n\r\n"
    );
    stream.write_all(call.as_bytes()).await?;
    let (mut frames, mut buffer, mut status) = (Frames::of(CONNECTED), [0; READ_BYTES], Vec::new());
    loop {
        let read = stream.read(&mut buffer).await?;
        let received = buffer.get(..read).unwrap_or_default();
        if status.len() < 12 {
            status.extend_from_slice(received.get(..received.len().min(64)).unwrap_or_default());
            let is_refused = status.len() >= 12 && !status.starts_with(b"HTTP/1.1 200");
            ensure!(!is_refused, "{}", String::from_utf8_lossy(received));
        }
        ensure!(read > 0, "the server closed a stream");
        if frames.push(received) > 0 {
            return Ok(stream);
        }
    }
}

/// Reports when the last byte of each change arrives.
async fn listen(mut stream: TcpStream, arrived: mpsc::UnboundedSender<Instant>) -> anyhow::Result<()> {
    let (mut frames, mut buffer) = (Frames::of(UPDATED), vec![0; READ_BYTES]);
    loop {
        let read = stream.read(&mut buffer).await?;
        ensure!(read > 0, "the server closed a stream");
        for _ in 0..frames.push(buffer.get(..read).unwrap_or_default()) {
            arrived.send(Instant::now())?;
        }
    }
}

/// Finds the ends of the frames of one event in a stream, without keeping what it reads.
#[derive(Debug)]
struct Frames {
    event: &'static [u8],
    /// Whether the event was found, and the end of its frame is searched for.
    is_inside: bool,
    /// Bytes of what is searched for that match so far.
    matched: usize,
}

impl Frames {
    fn of(event: &'static [u8]) -> Self {
        Self { event, is_inside: false, matched: 0 }
    }

    /// Takes the next bytes, and returns how many frames end in them.
    fn push(&mut self, bytes: &[u8]) -> usize {
        let mut ended = 0;
        for byte in bytes {
            let wanted = if self.is_inside { b"\n\n" } else { self.event };
            if wanted.get(self.matched) == Some(byte) {
                self.matched += 1;
            } else {
                self.matched = usize::from(wanted.first() == Some(byte));
            }
            if self.matched == wanted.len() {
                ended += usize::from(self.is_inside);
                self.is_inside = !self.is_inside;
                self.matched = 0;
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_each_frame_is_found_however_the_bytes_arrive() {
        let stream = b"1f\r\nevent: unleash-connected\nid: 1\ndata: {}\n\n\r\n3\r\n:\n\n\r\n\
            2c\r\nevent: unleash-updated\nid: 2\ndata: {}\n\n\r\n:\n\nevent: unleash-updated\nid: 3\ndata: {}\n";
        for size in [1, 3, 1_000] {
            let count = |event| {
                let mut frames = Frames::of(event);
                stream.chunks(size).map(|part| frames.push(part)).sum::<usize>()
            };
            assert_eq!((count(CONNECTED), count(UPDATED)), (1, 1), "{size}");
        }
    }
}
