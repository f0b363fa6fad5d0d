//! The binary as a command that ends by itself.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The binary, with nothing of our environment but what every program needs: an unknown setting is an error.
pub fn binary(folder: &Path) -> Command {
    binary_at(&program(), folder)
}

/// The program under test: the one that Cargo built with the tests, unless `FLAGSTREAM_TEST_PROGRAM` names another, such as
/// a release build.
pub fn program() -> PathBuf {
    std::env::var_os("FLAGSTREAM_TEST_PROGRAM")
        .map_or_else(|| env!("CARGO_BIN_EXE_flagstream").into(), PathBuf::from)
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
