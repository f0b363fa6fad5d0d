//! The binary as a command that ends by itself.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};

/// The binary, with nothing of our environment but what every program needs: an unknown setting is an error.
pub fn binary(folder: &Path) -> Command {
    binary_at(Path::new(env!("CARGO_BIN_EXE_flagstream")), folder)
}

/// A binary of another version, likewise.
pub fn binary_at(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().current_dir(folder);
    for name in ["PATH", "HOME", "TMPDIR", "LLVM_PROFILE_FILE"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.env("RUST_BACKTRACE", "1");
    command
}

/// Runs `flagstream` to its end.
pub fn flagstream<V: AsRef<OsStr>>(
    folder: &Path,
    arguments: &[&str],
    settings: impl IntoIterator<Item = (String, V)>,
) -> Output {
    binary(folder).args(arguments).envs(settings).output().unwrap()
}
