//! Renewed certificates of Kafka: the process executes itself again, with the same id.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::child::{Flagstream, command};

/// The checks of the files, the random delay before the restart, and the stop and start on a busy machine.
const RESTART_TIMEOUT: Duration = Duration::from_secs(60);

/// Number of lines of the log that contain `text`.
fn count(log: &Path, text: &str) -> usize {
    fs::read_to_string(log).unwrap_or_default().lines().filter(|line| line.contains(text)).count()
}

fn wait_until(what: &str, log: &Path, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + RESTART_TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}:\n{}", fs::read_to_string(log).unwrap_or_default());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_renewed_certificate_authority_of_kafka_is_used_by_the_same_process() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, log) = (folder.path().join("ca.crt"), folder.path().join("log"));
    fs::write(&authority, "the first").unwrap();
    // The broker is not there, and the protocol is not TLS, so nothing reads the file but the check for changes.
    let mut service = Flagstream::start(
        command(folder.path())
            .args(["run", "--roles", "evaluator"])
            .env("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
            .env("FLAGSTREAM_KAFKA__CLIENT__SSL_CA_LOCATION", &authority)
            .stderr(File::create(&log).unwrap()),
    );
    service.wait_for("/health/live");
    assert_eq!(count(&log, "roles="), 1);

    fs::remove_file(&authority).unwrap();
    wait_until("the missing file is refused", &log, || count(&log, "cannot be used") == 1);
    fs::write(&authority, "the second").unwrap();
    wait_until("it starts again", &log, || count(&log, "roles=") >= 2);
    assert_eq!(count(&log, "restarting with it"), 1);
    // The child is still the same process, which answers and ends in order.
    service.wait_for("/health/live");
    service.stop();
}
