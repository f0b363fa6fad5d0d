//! Programs and libraries of the machine that some tests need beside the services of the stack.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Names, separated by commas, of what this machine does without.
const WITHOUT: &str = "FLAGSTREAM_TEST_WITHOUT";

/// Whether tests that need this program are to run. `false` if the program is missing and its name is in
/// `FLAGSTREAM_TEST_WITHOUT`; a test that needs it fails otherwise.
pub fn is_wanted(program: &str) -> bool {
    let version = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok() || !is_missed(program)
}

/// The path of a library in one of the folders `/usr/lib/*`. `None` if it is missing and `name` is in
/// `FLAGSTREAM_TEST_WITHOUT`; a test that needs it fails otherwise.
pub fn library(name: &str, file: &str) -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().filter_map(Result::ok);
    let found = folders.map(|folder| folder.path().join(file)).find(|path| path.exists());
    if found.is_none() {
        is_missed(name);
    }
    found
}

/// The path of Chromium or Chrome. `None` if this machine has neither; tests in a browser are then skipped.
pub fn browser() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let mut candidates = std::env::split_paths(&path).flat_map(|folder| names.map(|name| folder.join(name)));
    candidates.find(|candidate| candidate.is_file())
}

fn is_missed(name: &str) -> bool {
    let without = std::env::var(WITHOUT).is_ok_and(|names| names.split(',').any(|known| known == name));
    assert!(without, "{name} is not installed, and this test needs it; {WITHOUT}={name} leaves the test out");
    eprintln!("left out: no {name} here");
    true
}
