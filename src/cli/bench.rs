//! `flagstream bench`: runs the load tool, which is a separate program.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use super::{Global, Output};

/// Name of the load tool.
const PROGRAM: &str = "flagstream-bench";

#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true, disable_version_flag = true)]
pub struct Args {
    /// Benchmark and its options, as for `flagstream-bench`; `--help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    pub arguments: Vec<OsString>,
}

/// The load tool cannot be started.
#[derive(Debug, thiserror::Error)]
enum BenchError {
    #[error(
        "the load tool {PROGRAM} is neither beside this program nor in PATH: build it with \
         `cargo build --release -p flagstream-bench`, or run `cargo run --release -p flagstream-bench -- …`"
    )]
    Missing,
    #[error("{program}: {error}")]
    Start { program: String, error: io::Error },
}

/// Replaces this process with the load tool.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let program = program();
    let mut command = Command::new(&program);
    if let Some(config) = &global.config {
        command.arg("--config").arg(config);
    }
    if global.output == Output::Json {
        command.args(["--output", "json"]);
    }
    command.args(args.arguments);
    let error = match start(&mut command) {
        Ok(code) => return Ok(code),
        Err(error) => error,
    };
    Err(match error.kind() {
        io::ErrorKind::NotFound => BenchError::Missing,
        _ => BenchError::Start { program: program.display().to_string(), error },
    }
    .into())
}

/// The load tool in the folder of this program, or else its name, which is searched in `PATH`.
fn program() -> PathBuf {
    let name = format!("{PROGRAM}{}", std::env::consts::EXE_SUFFIX);
    let beside = std::env::current_exe().ok().map(|path| path.with_file_name(&name));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| name.into())
}

#[cfg(unix)]
fn start(command: &mut Command) -> io::Result<ExitCode> {
    use std::os::unix::process::CommandExt;
    // Returns only on failure. Signals and the exit code are those of the load tool.
    Err(command.exec())
}

#[cfg(not(unix))]
fn start(command: &mut Command) -> io::Result<ExitCode> {
    let code = command.status()?.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
