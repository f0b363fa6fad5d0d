//! Arguments -> configuration -> telemetry -> app -> signal -> drain.

#![warn(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use clap::Parser;
use flagstream::cli::{self, Cli, print};

/// What one thread makes and another frees costs neither of them a lock.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            print::note(format_args!("flagstream: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(cli::dispatch(cli));
    // A blocked thread (a name lookup, say) must not hold the process after its work is done.
    runtime.shutdown_background();
    result.unwrap_or_else(|error| {
        print::note(format_args!("flagstream: {}", cli::said_once(&error)));
        cli::exit_code(&error)
    })
}
