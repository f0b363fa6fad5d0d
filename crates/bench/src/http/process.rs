//! A server as a child process, so that its CPU time, including publishing, can be measured separately.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::load;

/// Token of frontend SDKs, for all projects in the benchmark's environment.
pub(crate) const FRONTEND_TOKEN: &str = "*:production.frontend";
/// Token of server SDKs.
pub(crate) const CLIENT_TOKEN: &str = "*:production.client";
/// Timeout for a server to listen, and for all events to be published.
const DEADLINE: Duration = Duration::from_secs(60);

/// A running server.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) address: String,
}

impl Process {
    /// Starts the server of this benchmark with these settings beside its own.
    pub(crate) async fn own(
        flags: usize,
        folder: &std::path::Path,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["http-server", "--flags", &flags.to_string()])
            .env("FLAGSTREAM_STATE_DIR", folder)
            .env("FLAGSTREAM_HTTP__LISTEN", "127.0.0.1:0")
            .env("FLAGSTREAM_INSTANCE", "bench")
            .env("UNLEASH_ENVIRONMENT", load::ENVIRONMENT)
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("the server does not start")?;
        let output = child.stdout.take().context("the server's output")?;
        let address = BufReader::new(output).lines().next_line().await?;
        Ok(Self { child, address: address.context("the server ended before it listened")? })
    }

    /// Starts Unleash Edge in offline mode with the same flags.
    pub(crate) async fn edge(
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
            .args(["--client-tokens", CLIENT_TOKEN, "--frontend-tokens", FRONTEND_TOKEN])
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
    pub(crate) fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let pid = self.pid()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The fields after the process name, which may contain any character.
        let fields: Vec<&str> = stat.rsplit_once(')').context("/proc/…/stat")?.1.split(' ').collect();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok());
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        Ok((ticks(12).context("utime")? + ticks(13).context("stime")?) / per_second)
    }

    /// Peak memory in bytes.
    pub(crate) fn peak_memory_bytes(&self) -> anyhow::Result<u64> {
        memory_bytes(self.pid()?, "VmHWM:")
    }

    /// Memory in bytes.
    pub(crate) fn resident_bytes(&self) -> anyhow::Result<u64> {
        resident_bytes(self.pid()?)
    }

    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("the server has ended")
    }

    /// Waits until every evaluation has an event in Kafka. Returns the numbers of events and of evaluations.
    pub(crate) async fn wait_until_published(&self) -> anyhow::Result<(u64, u64)> {
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

/// Memory of a process in bytes.
pub(crate) fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    memory_bytes(pid, "VmRSS:")
}

/// A size from the status of a process, in bytes.
fn memory_bytes(pid: u32, name: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let size = status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
    Ok(size.and_then(|size| size.trim().parse::<u64>().ok()).context(name.to_owned())? << 10)
}
