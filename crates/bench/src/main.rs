//! `flagstream-bench`, the load tool of docs/benchmarks.md. It sends real requests through the real pipeline on a real
//! Kafka, and runs a baseline in the same run, so that the result is a ratio that does not depend on the machine.
//!
//! `flagstream bench …` runs this program.

#![warn(clippy::print_stdout, clippy::print_stderr)]

mod attributes;
mod baseline;
mod compare;
mod edge;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::string_slice, clippy::print_stdout)]
mod event_sizes;
mod experiment;
mod gate;
mod http;
mod latency;
mod listeners;
mod load;
mod outage;
mod redis_cache;
mod replay;
mod report;
mod setup;
mod sink;
mod stream;
mod tracing_cost;
mod unleash_api;

use std::process::ExitCode;

use clap::Parser;
use flagstream::cli::{self, Global, print};
use flagstream::metrics::Metrics;
use flagstream::{telemetry, traces};

/// The allocator of the service, so that its figures are measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures flagstream on real services, compared with baselines. docs/benchmarks.md describes the benchmarks.
#[derive(Debug, Parser)]
#[command(name = "flagstream-bench", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: report::Command,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            print::note(format_args!("flagstream-bench: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(run(cli));
    // A blocked thread (for example in a name lookup) must not keep the process alive after its work is done.
    runtime.shutdown_background();
    result.unwrap_or_else(|error| {
        print::note(format_args!("flagstream-bench: {}", cli::said_once(&error)));
        cli::exit_code(&error)
    })
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    telemetry::init_for_command(telemetry::Command::Lasting)?;
    let traces = traces::start("bench", &Metrics::new())?;
    let result = report::run(cli.command, &cli.global).await;
    if let Some(traces) = traces {
        traces.end().await;
    }
    result
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_parser_is_consistent() {
        Cli::command().debug_assert();
    }
}
