//! `bench chain`: what the hash chain costs the audit sink. Sinks with and without the chain write the same events in turn.

use flagstream::audit::{Parts, Sink};
use flagstream::config::Config;

use crate::setup::Bench;
use crate::stream::{cpu_seconds, median};

use super::{ArmReport, Own, Rate, check_rows, produce, rate_of, report, start_with, with_own_database};

/// The parameters of the benchmark.
#[derive(Debug, Clone, clap::Args)]
pub struct ChainArgs {
    /// Number of evaluations that each arm writes
    #[arg(long, default_value_t = 500_000)]
    pub rows: u64,
    /// Number of different flags
    #[arg(long, default_value_t = 50)]
    pub flags: usize,
    #[arg(long, default_value_t = 4)]
    pub partitions: i32,
    /// Number of rounds of both arms, which begin in turn; the report has the medians
    #[arg(long, default_value_t = 7)]
    pub rounds: usize,
}

/// Rows per second of each arm and round.
#[derive(Debug, serde::Serialize)]
pub struct ChainReport {
    pub rows: u64,
    pub partitions: i32,
    pub arms: Vec<ArmReport>,
    /// Median rate with the chain divided by the median without.
    pub ratio: f64,
    /// Rate with the chain divided by the rate without, in each round.
    pub ratio_rounds: Vec<f64>,
    /// Median CPU time of this process, which contains the sink, with and without the chain.
    pub process_microseconds_per_row: [f64; 2],
}

/// Starts a sink.
type Start = fn(&Parts) -> std::io::Result<Sink>;

/// The arms; the first one is the sink as it runs in the service.
const ARMS: [(&str, Start); 2] =
    [("sink with hash chain", Sink::start), ("sink without hash chain", Sink::start_without_chain)];

/// Runs the benchmark on the configured Kafka and Postgres.
pub async fn run(args: &ChainArgs, config: Config) -> anyhow::Result<ChainReport> {
    check_rows(args.rows)?;
    with_own_database(config, async |config, own| measure(args, config, own).await).await
}

async fn measure(args: &ChainArgs, config: Config, own: &Own) -> anyhow::Result<ChainReport> {
    let bench = Bench::prepare(config, args.flags, args.partitions).await?;
    let ChainArgs { rows, flags, partitions, rounds } = *args;
    drop(produce(&bench, rows, flags, partitions)?);
    let mut rates: [Vec<Rate>; 2] = Default::default();
    let mut process: [Vec<f64>; 2] = Default::default();
    // The first round fills the caches of Kafka and Postgres and does not count.
    for round in 0..=rounds.max(1) {
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for arm in order {
            let Some((name, begin)) = ARMS.get(arm) else { continue };
            own.empty_with_chains().await?;
            let running = start_with(&bench, own, &format!("chain-{round}-{arm}"), *begin)?;
            let cpu = cpu_seconds();
            let rate = rate_of(running, own, rows).await?;
            let spent = (cpu_seconds() - cpu) * 1e6 / rows as f64;
            tracing::info!(round, arm = name, ?rate, spent, "measured");
            if round > 0
                && let (Some(rates), Some(process)) = (rates.get_mut(arm), process.get_mut(arm))
            {
                rates.push(rate);
                process.push(spent);
            }
        }
    }
    bench.clean_up().await;
    let arms: Vec<_> = ARMS.iter().zip(&rates).map(|((arm, _), rates)| report(arm, rates)).collect();
    let [with, without] = &rates;
    let ratio_rounds = with.iter().zip(without).map(|((with, _), (without, _))| with / without).collect();
    let ratio = match arms.as_slice() {
        [with, without] => with.median / without.median,
        _ => f64::NAN,
    };
    let process_microseconds_per_row = process.map(|spent| median(&spent));
    Ok(ChainReport { rows, partitions, arms, ratio, ratio_rounds, process_microseconds_per_row })
}
