//! Tests with standard streams that cannot be written.

use std::fs::File;
use std::process::{Command, Stdio};

use crate::child::{Flagstream, command};

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// A pipe whose reader is closed.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// Starts `run` without any service, which logs many lines.
fn run(command: &mut Command) -> Flagstream {
    Flagstream::start(command.arg("run").env("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1"))
}

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let starts: [fn(&mut Command) -> Flagstream; 2] = [run, Flagstream::dev];
    for start in starts {
        for stderr in [full(), closed()] {
            let folder = tempfile::tempdir().unwrap();
            let mut command = command(folder.path());
            let mut service = start(command.env("FLAGSTREAM_LOG", "debug").stderr(stderr));
            service.wait_for("/health/live");
            // The log lines of the shutdown cannot be written either.
            service.stop();
        }
    }
}

#[test]
fn data_that_cannot_be_written_is_an_error_and_a_closed_pipe_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let show = |stdout| command(folder.path()).args(["config", "table"]).stdout(stdout).output().unwrap();
    let failed = show(full());
    let message = String::from_utf8(failed.stderr).unwrap();
    assert_eq!(failed.status.code(), Some(1));
    assert!(message.starts_with("flagstream: ") && message.contains("No space left"), "{message}");
    let ended = show(closed());
    assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn an_error_that_cannot_be_told_has_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    for stderr in [full(), closed()] {
        let mut command = command(folder.path());
        let status = command.args(["run", "--roles", "none"]).stderr(stderr).status().unwrap();
        assert_eq!(status.code(), Some(2));
    }
}
