//! `bench http`: answers per CPU second of a server that publishes every evaluation, compared with the same server
//! returning a fixed body, and with Unleash Edge.
//!
//! The server is a child process, and this process generates the load. The amount of load does not matter as long as
//! the server is busy. With a database, the events are written to it during the load.

mod audit;
pub(crate) mod change;
pub(crate) mod client;
pub(crate) mod process;
mod server;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;

use flagstream::config::Config;

use super::setup::Bench;
use super::stream::median;

pub use server::{ServerArgs, serve};

use audit::Audit;
use client::{Load, Measured};
use process::Process;

/// The parameters of the benchmark.
#[derive(Debug, Clone, clap::Args)]
pub struct HttpArgs {
    /// Number of different flags, each with two constraints and a 50 % rollout; a bulk call requests all of them
    #[arg(long, default_value_t = 350)]
    pub flags: usize,
    /// Number of connections, each with one call at a time
    #[arg(long, default_value_t = 32)]
    pub connections: usize,
    /// Duration of each arm in seconds
    #[arg(long, default_value_t = 5)]
    pub seconds: u64,
    /// Number of rounds of every arm, in turn; the report has the median
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Path of the Unleash Edge program, measured in offline mode with the same flags
    #[arg(long, value_name = "FILE")]
    pub edge: Option<PathBuf>,
}

/// The server and the kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arm {
    /// A fixed body that passes only through the HTTP library.
    BareOne,
    /// A fixed body as a route of the service, with authentication, rate limits, timeout and size limit.
    FixedOne,
    One,
    BareAll,
    FixedAll,
    All,
    EdgeOne,
    EdgeAll,
}

const ARMS: [Arm; 8] = [
    Arm::BareOne,
    Arm::FixedOne,
    Arm::One,
    Arm::BareAll,
    Arm::FixedAll,
    Arm::All,
    Arm::EdgeOne,
    Arm::EdgeAll,
];

#[derive(Debug, serde::Serialize)]
pub struct HttpReport {
    pub flags: usize,
    pub connections: usize,
    pub arms: Vec<ArmReport>,
    pub ratios: Vec<(String, f64)>,
    /// Latencies in milliseconds at half of the rate of `one flag`.
    pub half_load: LatencyReport,
    /// Number of events in Kafka, and number of evaluations.
    pub published: (u64, u64),
    /// Number of rows; `None` without a database.
    pub audited: Option<u64>,
    /// Peak memory of the server.
    pub peak_memory_bytes: u64,
}

#[derive(Debug, serde::Serialize)]
pub struct ArmReport {
    pub arm: String,
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
            Self::BareOne => "bare fixed body, one flag's size",
            Self::BareAll => "bare fixed body, all flags' size",
            Self::FixedOne => "fixed body, one flag's size",
            Self::One => "one flag",
            Self::FixedAll => "fixed body, all flags' size",
            Self::All => "all flags",
            Self::EdgeOne => "Unleash Edge, one flag",
            Self::EdgeAll => "Unleash Edge, all flags",
        }
    }

    fn is_of_edge(self) -> bool {
        matches!(self, Self::EdgeOne | Self::EdgeAll)
    }
}

/// Runs the benchmark on the configured Kafka, and the configured Postgres if there is one.
pub async fn run(args: &HttpArgs, config: Config) -> anyhow::Result<HttpReport> {
    ensure!(args.connections > 0 && args.seconds > 0, "--connections, --seconds: expected at least 1");
    let database = config.database.url.clone();
    let bench = Bench::prepare(config, args.flags, 4).await?;
    let folder = std::env::temp_dir().join(format!("flagstream-bench-{}", std::process::id()));
    let audit = match &database {
        Some(database) => Some(Audit::start(&bench, database).await?),
        None => None,
    };
    let report = measure(args, &bench, audit.as_ref(), &folder).await;
    let removed = std::fs::remove_dir_all(&folder);
    if let Some(audit) = audit {
        audit.end().await?;
    }
    bench.clean_up().await;
    let report = report?;
    removed?;
    Ok(report)
}

/// The servers, and the audit sink.
struct BenchSetup<'s> {
    args: &'s HttpArgs,
    own: Process,
    edge: Option<Process>,
    audit: Option<&'s Audit>,
}

async fn measure(
    args: &HttpArgs,
    bench: &Bench,
    audit: Option<&Audit>,
    folder: &std::path::Path,
) -> anyhow::Result<HttpReport> {
    let edge = match &args.edge {
        Some(program) => Some(Process::edge(program, args.flags, folder).await?),
        None => None,
    };
    let topics = &bench.config.topics;
    let settings = [
        ("FEATURE_FLAG_KAFKA_TOPIC", &*topics.events),
        ("FLAGSTREAM_TOPICS__DEAD_LETTERS", &*topics.dead_letters),
    ];
    let own = Process::own(args.flags, folder, &settings).await?;
    let mut setup = BenchSetup { args, own, edge, audit };
    let arms: Vec<Arm> = ARMS.into_iter().filter(|arm| !arm.is_of_edge() || setup.edge.is_some()).collect();
    let measure = async |arm: Arm| setup.measure(arm).await;
    let rounds = take_turns(&arms, args.rounds, |arm| arm.name().to_owned(), measure).await?;
    let arms: Vec<_> = rounds.into_iter().map(|(name, rounds)| report(name, &rounds)).collect();
    let half = arms.get(2).map_or(1.0, |one| one.answers_per_second / 2.0);
    let measured = setup.load(Arm::One, Some(half)).await?;
    let at = |quantile| measured.latencies.value_at_quantile(quantile) as f64 / 1e3;
    let half_load = LatencyReport {
        rate: measured.answers as f64 / measured.seconds,
        p50: at(0.5),
        p99: at(0.99),
        p999: at(0.999),
    };
    let (published, audited) = setup.settle().await?;
    let peak_memory_bytes = setup.own.peak_memory_bytes()?;
    setup.own.child.kill().await?;
    let (flags, connections, ratios) = (args.flags, args.connections, ratios(&arms));
    Ok(HttpReport { flags, connections, arms, ratios, half_load, published, audited, peak_memory_bytes })
}

impl BenchSetup<'_> {
    /// Answers per CPU second of one arm. All events are published and audited before the next measurement.
    async fn measure(&self, arm: Arm) -> anyhow::Result<Round> {
        let server = self.server(arm);
        let cpu = server.cpu_seconds()?;
        let measured = self.load(arm, None).await?;
        if !arm.is_of_edge() {
            self.own.wait_until_published().await?;
        }
        let per_cpu_second = measured.answers as f64 / (server.cpu_seconds()? - cpu);
        self.settle().await?;
        Ok((per_cpu_second, measured))
    }

    async fn load(&self, arm: Arm, rate: Option<f64>) -> anyhow::Result<Measured> {
        let address = &self.server(arm).address;
        let HttpArgs { flags, connections, seconds, .. } = *self.args;
        let time = Duration::from_secs(seconds);
        let call = |number| client::call(arm, number, flags);
        Load { address, call: &call, connections, time, rate }.run().await
    }

    fn server(&self, arm: Arm) -> &Process {
        self.edge.as_ref().filter(|_| arm.is_of_edge()).unwrap_or(&self.own)
    }

    /// Waits until every evaluation is published, and audited if there is a database.
    async fn settle(&self) -> anyhow::Result<((u64, u64), Option<u64>)> {
        let published = self.own.wait_until_published().await?;
        let audited = match self.audit {
            Some(audit) => Some(audit.wait_for(published.0).await?),
            None => None,
        };
        Ok((published, audited))
    }
}

/// Answers per CPU second of a server, and the load that it was measured with.
pub(crate) type Round = (f64, Measured);

/// Measures every arm once in each round, after a round as a warm-up. Returns the names and the rounds of the arms.
pub(crate) async fn take_turns<A: Copy>(
    arms: &[A],
    rounds: usize,
    name: impl Fn(A) -> String,
    measure: impl AsyncFn(A) -> anyhow::Result<Round>,
) -> anyhow::Result<Vec<(String, Vec<Round>)>> {
    let mut all: Vec<(String, Vec<Round>)> = arms.iter().map(|arm| (name(*arm), Vec::new())).collect();
    for round in 0..=rounds.max(1) {
        for (arm, (name, rounds)) in arms.iter().zip(&mut all) {
            let (per_cpu_second, measured) = measure(*arm).await?;
            tracing::info!(round, arm = name, per_cpu_second = per_cpu_second.round(), "measured");
            // The first round is a warm-up.
            if round > 0 {
                rounds.push((per_cpu_second, measured));
            }
        }
    }
    Ok(all)
}

pub(crate) fn report(arm: String, rounds: &[Round]) -> ArmReport {
    let answers_per_cpu_second: Vec<f64> = rounds.iter().map(|(rate, _)| rate.round()).collect();
    let rates: Vec<f64> =
        rounds.iter().map(|(_, measured)| measured.answers as f64 / measured.seconds).collect();
    ArmReport {
        arm,
        answer_bytes: rounds.first().map_or(0, |(_, measured)| measured.answer_bytes),
        median: median(&answers_per_cpu_second),
        answers_per_cpu_second,
        answers_per_second: median(&rates).round(),
    }
}

fn ratios(arms: &[ArmReport]) -> Vec<(String, f64)> {
    let [bare_one, fixed_one, one, bare_all, fixed_all, all, edge @ ..] = arms else {
        return Vec::new();
    };
    let mut pairs = vec![(one, fixed_one), (one, bare_one), (all, fixed_all), (all, bare_all)];
    if let [edge_one, edge_all] = edge {
        pairs.extend([(one, edge_one), (all, edge_all)]);
    }
    let ratio = |(own, other): (&ArmReport, &ArmReport)| {
        (format!("{} / {}", own.arm, other.arm), own.median / other.median)
    };
    pairs.into_iter().map(ratio).collect()
}
