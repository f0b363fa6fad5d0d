//! Another clock for one service: a library that is loaded into it shifts its time of day.

use std::process::Command;

use super::Group;

/// Sets the clock of the group's services that are started from now on by this many seconds. Timers keep their rate. The
/// library is compiled with the C compiler that builds the project.
pub fn with_clock(group: &Group, offset_seconds: i64) -> Group {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/harness/clock.c");
    let library = group.folder.path().join("clock.so");
    let mut compiler = Command::new("cc");
    let output = compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-o"]).arg(&library).arg(source).output();
    let output = output.expect("the tests need a C compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    group
        .clone()
        .set("LD_PRELOAD", library.to_str().unwrap())
        .set("CLOCK_OFFSET_SECONDS", offset_seconds.to_string())
}
