//! Tests of `flagstream health`, as a container's health check calls it.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::child::{DEADLINE, Flagstream, command, free_port};

/// Runs `flagstream health` with the settings of the service.
fn health(folder: &Path, settings: &[(&str, String)], arguments: &[&str]) -> Output {
    let mut command = command(folder);
    command.arg("health").args(arguments).stdout(std::process::Stdio::piped());
    command.envs(settings.iter().map(|(name, value)| (name, value))).output().unwrap()
}

/// Waits until the health check reports ready.
fn wait_until_ready(folder: &Path, settings: &[(&str, String)]) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let asked = health(folder, settings, &["--ready"]);
        if asked.status.code() == Some(0) {
            let text = String::from_utf8(asked.stdout).unwrap();
            assert!(text.contains("/health/ready: 200 ready"), "{text}");
            return;
        }
        assert!(Instant::now() < deadline, "{asked:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn dev(folder: &Path, settings: &[(&str, String)]) -> Flagstream {
    let mut command = command(folder);
    command.args(["dev", "--quiet", "--rate", "0"]).envs(settings.iter().map(|(name, value)| (name, value)));
    Flagstream::running(&mut command, 0)
}

#[test]
fn it_asks_where_the_configuration_says_that_the_service_listens() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=flags.example.com",
        ])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let (port, admin) = (free_port(), free_port());
    let listen = ("FLAGSTREAM_HTTP__LISTEN", format!("0.0.0.0:{port}"));
    let tls = [
        ("FLAGSTREAM_HTTP__TLS_CERTIFICATE", certificate.display().to_string()),
        ("FLAGSTREAM_HTTP__TLS_KEY", key.display().to_string()),
    ];
    let admin = ("FLAGSTREAM_HTTP__ADMIN_LISTEN", format!("127.0.0.1:{admin}"));
    let plain = vec![listen.clone()];
    let encrypted = [vec![listen.clone()], tls.to_vec()].concat();
    let with_admin = [vec![listen, admin], tls.to_vec()].concat();
    for settings in [plain, encrypted, with_admin] {
        let service = dev(folder.path(), &settings);
        wait_until_ready(folder.path(), &settings);
        assert_eq!(health(folder.path(), &settings, &[]).status.code(), Some(0));
        service.stop();
    }
}

#[test]
fn a_service_that_is_not_ready_or_not_there_is_exit_code_1() {
    let folder = tempfile::tempdir().unwrap();
    let settings = vec![
        ("FLAGSTREAM_HTTP__LISTEN", format!("127.0.0.1:{}", free_port())),
        ("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1".to_owned()),
    ];
    let absent = health(folder.path(), &settings, &["--ready"]);
    let message = String::from_utf8(absent.stderr).unwrap();
    assert_eq!(absent.status.code(), Some(1));
    assert!(message.contains("no answer from http://127.0.0.1:"), "{message}");

    let mut run = command(folder.path());
    run.arg("run").envs(settings.iter().map(|(name, value)| (name, value)));
    let _service = Flagstream::running(&mut run, 0);
    let deadline = Instant::now() + DEADLINE;
    while health(folder.path(), &settings, &[]).status.code() != Some(0) {
        assert!(Instant::now() < deadline, "it does not live");
    }
    // The process is alive, but not ready without flags and Kafka.
    let waiting = health(folder.path(), &settings, &["--ready"]);
    let text = String::from_utf8(waiting.stdout).unwrap();
    assert_eq!(waiting.status.code(), Some(1));
    assert!(text.contains("503 not ready") && text.contains("store"), "{text}");
}
