//! `flagstream bench` runs the load tool, a separate program.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder with the binary, and nothing beside it.
fn installed(folder: &Path) -> PathBuf {
    let binary = folder.join("flagstream");
    let built = env!("CARGO_BIN_EXE_flagstream");
    // A link is not possible to another file system.
    if fs::hard_link(built, &binary).is_err() {
        fs::copy(built, &binary).unwrap();
    }
    binary
}

fn run(binary: &Path, arguments: &[&str]) -> Output {
    Command::new(binary).args(arguments).env("PATH", "/nowhere").output().unwrap()
}

#[test]
fn the_load_tool_beside_the_program_gets_all_arguments() {
    let folder = tempfile::tempdir().unwrap();
    let binary = installed(folder.path());
    let tool = folder.path().join("flagstream-bench");
    fs::write(&tool, "#!/bin/sh\necho \"$@\"\nexit 7\n").unwrap();
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    for (arguments, received) in [
        (&["bench", "stream", "--rounds", "3"][..], "stream --rounds 3"),
        (&["bench", "stream", "--output", "json"], "stream --output json"),
        (&["--config", "a.toml", "--output", "json", "bench", "warm"], "--config a.toml --output json warm"),
        (&["bench", "--help"], "--help"),
        (&["bench", "http", "--help"], "http --help"),
        (&["bench"], ""),
    ] {
        let output = run(&binary, arguments);
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), received, "{arguments:?}");
        assert_eq!(output.status.code(), Some(7), "{arguments:?}");
    }
}

#[test]
fn without_the_load_tool_the_error_says_how_to_build_it() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(&installed(folder.path()), &["bench", "stream"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("cargo build --release -p flagstream-bench"), "{error}");
    assert_eq!(output.status.code(), Some(1));
}
