//! Tests of signals at any time of the process's life.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;

use crate::child::{Flagstream, command, shell};

/// Starts a service that waits for a schema registry which accepts connections and never answers.
fn waiting_for_a_registry(folder: &std::path::Path) -> (Flagstream, TcpListener) {
    let registry = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", registry.local_addr().unwrap());
    let service = Flagstream::start(
        command(folder)
            .arg("run")
            .env("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
            .env("SCHEMA_REGISTRY_URL", url)
            .env("FLAGSTREAM_FORMAT__EVENTS", "avro"),
    );
    (service, registry)
}

/// Waits for the service's request. A connection that sends anything else belongs to another process, which had the port
/// before.
fn request_to(registry: &TcpListener) -> TcpStream {
    loop {
        let (mut connection, _) = registry.accept().unwrap();
        let mut start = [0; 14];
        if connection.read_exact(&mut start).is_ok() && start == *b"POST /subjects" {
            return connection;
        }
    }
}

#[test]
fn a_signal_during_the_start_ends_the_process_at_once() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        let folder = tempfile::tempdir().unwrap();
        let (mut service, registry) = waiting_for_a_registry(folder.path());
        // The connection stays open until the process ends, and its request is never answered.
        let _unanswered = request_to(&registry);
        service.signal(signal);
        let status = service.ended();
        assert_eq!((status.signal(), status.code()), (None, Some(0)), "signal {signal}");
    }
}

#[test]
fn every_signal_that_ends_a_service_lets_it_drain() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        let folder = tempfile::tempdir().unwrap();
        let mut service = Flagstream::dev(&mut command(folder.path()));
        service.wait_for("/health/ready");
        service.signal(signal);
        let status = service.ended();
        assert_eq!((status.signal(), status.code()), (None, Some(0)), "signal {signal}");
    }
}

#[test]
fn a_signal_that_is_sent_twice_at_once_is_one_request() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = Flagstream::dev(&mut command(folder.path()));
    service.wait_for("/health/ready");
    // Different signals, because a signal that is already pending is not delivered twice.
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        service.signal(signal);
    }
    assert_eq!(service.ended().code(), Some(0));
}

#[test]
fn a_process_under_nohup_outlives_its_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = Flagstream::dev(&mut shell(folder.path(), r#"trap "" HUP; exec "$@""#));
    service.wait_for("/health/ready");
    service.signal(libc::SIGHUP);
    service.wait_for("/health/ready");
    service.stop();
}
