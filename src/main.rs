//! Arguments -> configuration -> telemetry -> app -> signal -> drain.

use std::process::ExitCode;

use clap::Parser;
use flagstream::cli::{self, Cli};

/// What one thread makes and another frees costs neither of them a lock.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("flagstream: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(cli::dispatch(cli));
    // A blocked thread (a name lookup, say) must not hold the process after its work is done.
    runtime.shutdown_background();
    result.unwrap_or_else(|error| {
        eprintln!("flagstream: {error:#}");
        cli::exit_code(&error)
    })
}
