//! A server as a child process, so that its CPU time, including publishing, can be measured separately.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::load;
use crate::setup::Bench;

use super::HttpArgs;

/// A token in the format that Edge expects, for any project in the benchmark's environment.
pub(super) const EDGE_TOKEN: &str = "*:production.benchmark";
/// Timeout for a server to listen, and for all events to be published.
const DEADLINE: Duration = Duration::from_secs(60);

/// A running server.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) child: Child,
    pub(super) address: String,
}

impl Process {
    /// Starts the server of this benchmark, which writes its events to the run's topics.
    pub(super) async fn own(
        args: &HttpArgs,
        bench: &Bench,
        folder: &std::path::Path,
    ) -> anyhow::Result<Self> {
        let topics = &bench.config.topics;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["http-server", "--flags", &args.flags.to_string()])
            .env("FEATURE_FLAG_KAFKA_TOPIC", &topics.events)
            .env("FLAGSTREAM_TOPICS__DEAD_LETTERS", &topics.dead_letters)
            .env("FLAGSTREAM_STATE_DIR", folder)
            .env("FLAGSTREAM_HTTP__LISTEN", "127.0.0.1:0")
            .env("FLAGSTREAM_INSTANCE", "bench")
            .env("UNLEASH_ENVIRONMENT", load::ENVIRONMENT)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("the server does not start")?;
        let output = child.stdout.take().context("the server's output")?;
        let address = BufReader::new(output).lines().next_line().await?;
        Ok(Self { child, address: address.context("the server ended before it listened")? })
    }

    /// Starts Unleash Edge in offline mode with the same flags.
    pub(super) async fn edge(
        program: &std::path::Path,
        flags: usize,
        folder: &std::path::Path,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let file = folder.join("edge-bootstrap.json");
        let features: Vec<_> = (0..flags).map(load::targeted).collect();
        std::fs::write(&file, serde_json::json!({"version": 2, "features": features}).to_string())?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut child = Command::new(program)
            .args(["--port", &port.to_string(), "--interface", "127.0.0.1", "offline", "--bootstrap-file"])
            .arg(&file)
            .args(["--client-tokens", EDGE_TOKEN, "--frontend-tokens", EDGE_TOKEN])
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} does not start", program.display()))?;
        let (address, deadline) = (format!("127.0.0.1:{port}"), Instant::now() + DEADLINE);
        while TcpStream::connect(&address).await.is_err() {
            ensure!(child.try_wait()?.is_none() && Instant::now() < deadline, "Edge does not listen");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(Self { child, address })
    }

    /// User and system CPU time since the start.
    pub(super) fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let pid = self.child.id().context("the server has ended")?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The fields after the process name, which may contain any character.
        let fields: Vec<&str> = stat.rsplit_once(')').context("/proc/…/stat")?.1.split(' ').collect();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok());
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        Ok((ticks(12).context("utime")? + ticks(13).context("stime")?) / per_second)
    }

    /// Peak memory in bytes.
    pub(super) fn peak_memory_bytes(&self) -> anyhow::Result<u64> {
        let pid = self.child.id().context("the server has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        Ok(peak.and_then(|peak| peak.trim().parse::<u64>().ok()).context("VmHWM")? << 10)
    }

    /// Waits until every evaluation has an event in Kafka. Returns the numbers of events and of evaluations.
    pub(super) async fn wait_until_published(&self) -> anyhow::Result<(u64, u64)> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let text = reqwest::get(format!("http://{}/metrics", self.address)).await?.text().await?;
            let sum = |name: &str| -> u64 {
                let lines = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
                lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
            };
            let published = sum("flagstream_events_published_total");
            let evaluated = sum("flagstream_evaluations_total");
            if published == evaluated {
                return Ok((published, evaluated));
            }
            ensure!(Instant::now() < deadline, "{published} of {evaluated} events published");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
