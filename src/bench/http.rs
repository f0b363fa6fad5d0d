//! `bench http`: answers per CPU second of a server, beside the same server answering a fixed body.
//!
//! The server is a child process, so that its CPU time (with everything it does to publish) is its own; the load
//! comes from here, and how much of it there is does not matter as long as the server is busy.

mod client;
mod server;

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::config::Config;

use super::setup::Bench;
use super::stream::median;

pub use server::{ServerArgs, serve};

use client::{Load, Measured};

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct HttpArgs {
    /// Different flags; all of them are asked for in a call for many
    #[arg(long, default_value_t = 350)]
    pub flags: usize,
    /// Connections, each with one call at a time
    #[arg(long, default_value_t = 32)]
    pub connections: usize,
    /// How long each arm is loaded
    #[arg(long, default_value_t = 5)]
    pub seconds: u64,
    /// Every arm runs this often, in turn; the median counts
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
}

/// What is asked of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arm {
    FixedOne,
    One,
    FixedAll,
    All,
}

const ARMS: [Arm; 4] = [Arm::FixedOne, Arm::One, Arm::FixedAll, Arm::All];

#[derive(Debug, serde::Serialize)]
pub struct HttpReport {
    pub flags: usize,
    pub connections: usize,
    pub arms: Vec<ArmReport>,
    pub ratios: Vec<(String, f64)>,
    /// Milliseconds at half of the rate of `one flag`.
    pub half_load: LatencyReport,
    /// Events that Kafka has, of so many evaluations.
    pub published: (u64, u64),
}

#[derive(Debug, serde::Serialize)]
pub struct ArmReport {
    pub arm: &'static str,
    pub answer_bytes: usize,
    pub answers_per_cpu_second: Vec<f64>,
    pub median: f64,
    pub answers_per_second: f64,
}

#[derive(Debug, serde::Serialize)]
pub struct LatencyReport {
    pub rate: f64,
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
}

impl Arm {
    pub fn name(self) -> &'static str {
        match self {
            Self::FixedOne => "fixed body, one flag's size",
            Self::One => "one flag",
            Self::FixedAll => "fixed body, all flags' size",
            Self::All => "all flags",
        }
    }
}

/// Runs the benchmark on the configured Kafka.
pub async fn run(args: &HttpArgs, config: Config) -> anyhow::Result<HttpReport> {
    ensure!(args.connections > 0 && args.seconds > 0, "--connections, --seconds: expected at least 1");
    let bench = Bench::prepare(config, args.flags, 4).await?;
    let folder = std::env::temp_dir().join(format!("flagstream-bench-{}", std::process::id()));
    let report = measure(args, &bench, &folder).await;
    let removed = std::fs::remove_dir_all(&folder);
    bench.clean_up().await;
    let report = report?;
    removed?;
    Ok(report)
}

async fn measure(args: &HttpArgs, bench: &Bench, folder: &std::path::Path) -> anyhow::Result<HttpReport> {
    let mut server = Server::start(args, bench, folder).await?;
    let time = Duration::from_secs(args.seconds);
    let mut rounds: Vec<Vec<(f64, Measured)>> = ARMS.map(|_| Vec::new()).into();
    for round in 0..=args.rounds.max(1) {
        for (arm, rounds) in ARMS.iter().zip(&mut rounds) {
            let cpu = server.cpu_seconds()?;
            let measured = server.load(*arm, args, time, None).await?;
            // What was answered is published before it counts.
            server.wait_until_published().await?;
            let per_cpu_second = measured.answers as f64 / (server.cpu_seconds()? - cpu);
            tracing::info!(round, arm = arm.name(), per_cpu_second = per_cpu_second.round(), "measured");
            // The first round warms up.
            if round > 0 {
                rounds.push((per_cpu_second, measured));
            }
        }
    }
    let arms: Vec<_> = ARMS.iter().zip(&rounds).map(|(arm, rounds)| report(*arm, rounds)).collect();
    let half = arms.get(1).map_or(1.0, |one| one.answers_per_second / 2.0);
    let measured = server.load(Arm::One, args, time, Some(half)).await?;
    let at = |quantile| measured.latencies.value_at_quantile(quantile) as f64 / 1e3;
    let half_load = LatencyReport {
        rate: measured.answers as f64 / measured.seconds,
        p50: at(0.5),
        p99: at(0.99),
        p999: at(0.999),
    };
    let published = server.wait_until_published().await?;
    server.child.kill().await?;
    let ratios = ratios(&arms);
    Ok(HttpReport { flags: args.flags, connections: args.connections, arms, ratios, half_load, published })
}

fn report(arm: Arm, rounds: &[(f64, Measured)]) -> ArmReport {
    let answers_per_cpu_second: Vec<f64> = rounds.iter().map(|(rate, _)| rate.round()).collect();
    let rates: Vec<f64> =
        rounds.iter().map(|(_, measured)| measured.answers as f64 / measured.seconds).collect();
    ArmReport {
        arm: arm.name(),
        answer_bytes: rounds.first().map_or(0, |(_, measured)| measured.answer_bytes),
        median: median(&answers_per_cpu_second),
        answers_per_cpu_second,
        answers_per_second: median(&rates).round(),
    }
}

fn ratios(arms: &[ArmReport]) -> Vec<(String, f64)> {
    let [fixed_one, one, fixed_all, all] = arms else {
        return Vec::new();
    };
    vec![
        ("one flag / fixed body".to_owned(), one.median / fixed_one.median),
        ("all flags / fixed body".to_owned(), all.median / fixed_all.median),
    ]
}

/// The child process.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    async fn start(args: &HttpArgs, bench: &Bench, folder: &std::path::Path) -> anyhow::Result<Self> {
        let topics = &bench.config.topics;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["bench", "http-server", "--flags", &args.flags.to_string()])
            .env("FEATURE_FLAG_KAFKA_TOPIC", &topics.events)
            .env("FLAGSTREAM_TOPICS__DEAD_LETTERS", &topics.dead_letters)
            .env("FLAGSTREAM_STATE_DIR", folder)
            .env("FLAGSTREAM_HTTP__LISTEN", "127.0.0.1:0")
            .env("FLAGSTREAM_INSTANCE", "bench")
            .env("UNLEASH_ENVIRONMENT", super::load::ENVIRONMENT)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("the server does not start")?;
        let output = child.stdout.take().context("the server's output")?;
        let address = BufReader::new(output).lines().next_line().await?;
        Ok(Self { child, address: address.context("the server ended before it listened")? })
    }

    async fn load(
        &self,
        arm: Arm,
        args: &HttpArgs,
        time: Duration,
        rate: Option<f64>,
    ) -> anyhow::Result<Measured> {
        Load { address: &self.address, arm, flags: args.flags, connections: args.connections, time, rate }
            .run()
            .await
    }

    /// User and system time of the process so far.
    fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let pid = self.child.id().context("the server has ended")?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // After the name, which may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(')').context("/proc/…/stat")?.1.split(' ').collect();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok());
        // SAFETY: a question with a number as its answer.
        let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
        Ok((ticks(12).context("utime")? + ticks(13).context("stime")?) / per_second)
    }

    /// Waits until Kafka has an event for every evaluation; how many of how many.
    async fn wait_until_published(&self) -> anyhow::Result<(u64, u64)> {
        let deadline = Instant::now() + Duration::from_secs(60);
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
