//! The entry point of the binary: parses arguments, runs the command, and converts errors to exit codes.

#![warn(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use clap::Parser;
use flagstream::cli::{self, Cli, print};

/// mimalloc, because memory that one thread allocates and another frees needs no lock.
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
    // A blocked thread (for example in a name lookup) must not keep the process alive after its work is done.
    runtime.shutdown_background();
    result.unwrap_or_else(|error| {
        print::note(format_args!("flagstream: {}", cli::said_once(&error)));
        cli::exit_code(&error)
    })
}
