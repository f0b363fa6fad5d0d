//! `bench listeners`: memory that idle change streams take in the server.
//!
//! The server is a child process without other work. The baseline is its memory before the first stream connects.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use flagstream::http::fd_limit;

/// Timeout for one stream to receive its first id.
const DEADLINE: Duration = Duration::from_secs(10);
/// Number of streams that connect concurrently.
const AT_ONCE: usize = 50;

/// The parameters of the benchmark.
#[derive(Debug, Clone, clap::Args)]
pub struct ListenersArgs {
    /// Number of open streams of `GET /api/v1/changes`
    #[arg(long, default_value_t = 5_000)]
    pub listeners: usize,
    /// Seconds until the memory is read again; beyond 15 s the streams receive heartbeats
    #[arg(long, default_value_t = 20)]
    pub seconds: u64,
}

#[derive(Debug, serde::Serialize)]
pub struct ListenersReport {
    pub listeners: usize,
    /// Resident memory of the server before the streams connect.
    pub before_bytes: u64,
    pub connected_bytes: u64,
    pub later_bytes: u64,
    pub bytes_per_listener: f64,
}

/// Runs the benchmark, which does not need Kafka.
pub async fn run(args: &ListenersArgs) -> anyhow::Result<ListenersReport> {
    ensure!(args.listeners > 0, "--listeners: expected at least 1");
    let _ = fd_limit::raise_for(args.listeners);
    let folder = std::env::temp_dir().join(format!("flagstream-bench-{}", std::process::id()));
    let (mut server, address) = start(&folder).await?;
    let pid = server.id().context("the server has ended")?;
    // Warms up the server, so that one-time allocations do not count.
    drop(connect_all(&address, AT_ONCE).await?);
    let before_bytes = resident_bytes(pid)?;
    let open = connect_all(&address, args.listeners).await?;
    let connected_bytes = resident_bytes(pid)?;
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    let later_bytes = resident_bytes(pid)?;
    drop(open);
    server.kill().await?;
    // The folder may not exist.
    let _ = std::fs::remove_dir_all(&folder);
    let bytes_per_listener = later_bytes.saturating_sub(before_bytes) as f64 / args.listeners as f64;
    Ok(ListenersReport {
        listeners: args.listeners,
        before_bytes,
        connected_bytes,
        later_bytes,
        bytes_per_listener,
    })
}

async fn start(folder: &std::path::Path) -> anyhow::Result<(Child, String)> {
    let mut server = Command::new(std::env::current_exe()?)
        .args(["bench", "http-server", "--flags", "350"])
        .env("FLAGSTREAM_STATE_DIR", folder)
        .env("FLAGSTREAM_HTTP__LISTEN", "127.0.0.1:0")
        .env("FLAGSTREAM_INSTANCE", "bench")
        .env("FLAGSTREAM_API__DURABILITY", "memory")
        .env("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate,read")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("the server does not start")?;
    let output = server.stdout.take().context("the server's output")?;
    let address = BufReader::new(output).lines().next_line().await?;
    Ok((server, address.context("the server ended before it listened")?))
}

async fn connect_all(address: &str, count: usize) -> anyhow::Result<Vec<TcpStream>> {
    let mut open = Vec::with_capacity(count);
    while open.len() < count {
        let some = AT_ONCE.min(count - open.len());
        let connecting: Vec<_> = (0..some)
            .map(|_| {
                let address = address.to_owned();
                tokio::spawn(async move { timeout(DEADLINE, connect(&address)).await })
            })
            .collect();
        for connected in connecting {
            open.push(connected.await?.context("a listener is not told where the stream stands")??);
        }
    }
    Ok(open)
}

/// Connects a stream, and waits for its first id.
async fn connect(address: &str) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /api/v1/changes HTTP/1.1\r\nhost: bench\r\n\r\n").await?;
    let (mut heard, mut buffer) = (Vec::new(), [0; 1_024]);
    while !heard.windows(4).any(|window| window == b"\nid:") {
        let read = stream.read(&mut buffer).await?;
        ensure!(read > 0, "the server closed a stream: {}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(buffer.get(..read).unwrap_or_default());
    }
    Ok(stream)
}

fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib << 10)
}
