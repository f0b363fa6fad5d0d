//! HTTP proxies for the calls to Unleash and to the schema registry.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::Stdio;

use crate::child::command;

/// Runs `flagstream doctor`, which calls both, and returns the request lines that a server at `listener` receives meanwhile.
/// The server answers nothing useful.
fn received(listener: &TcpListener, settings: &[(&str, String)]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut command = command(folder.path());
    command.arg("doctor").stderr(Stdio::null());
    command
        .env("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
        .env("UNLEASH_API_TOKEN", "default:development.secret");
    let mut child = command.envs(settings.iter().map(|(name, value)| (name, value))).spawn().unwrap();
    let mut lines = Vec::new();
    // Connections that arrived before the end are still accepted after it.
    while let (accepted, ended) = (listener.accept(), child.try_wait().unwrap())
        && (accepted.is_ok() || ended.is_none())
    {
        let Ok((mut connection, _)) = accepted else {
            std::thread::sleep(std::time::Duration::from_millis(5));
            continue;
        };
        connection.set_nonblocking(false).unwrap();
        let mut line = String::new();
        let _ = BufReader::new(connection.try_clone().unwrap()).read_line(&mut line);
        let _ = connection
            .write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        lines.push(line.trim().to_owned());
    }
    lines
}

#[test]
fn unleash_and_the_registry_are_called_through_the_proxy_unless_no_proxy_names_them() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let lines = received(
        &listener,
        &[
            ("HTTP_PROXY", format!("http://{address}")),
            ("UNLEASH_URL", "http://unleash.flagstream.test/".to_owned()),
            ("SCHEMA_REGISTRY_URL", "http://registry.flagstream.test".to_owned()),
        ],
    );
    for start in ["GET http://unleash.flagstream.test/api/", "GET http://registry.flagstream.test/"] {
        assert!(lines.iter().any(|line| line.starts_with(start)), "{start}: {lines:?}");
    }

    let lines = received(
        &listener,
        &[
            // Nothing listens here.
            ("HTTP_PROXY", "http://127.0.0.1:1".to_owned()),
            ("NO_PROXY", "127.0.0.1,.internal".to_owned()),
            ("UNLEASH_URL", format!("http://{address}")),
            ("SCHEMA_REGISTRY_URL", format!("http://{address}/registry")),
        ],
    );
    for start in ["GET /api/", "GET /registry/"] {
        assert!(lines.iter().any(|line| line.starts_with(start)), "{start}: {lines:?}");
    }
}
