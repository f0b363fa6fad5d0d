//! A cluster, and TLS.

use std::process::Command;

use serde_json::json;

use super::{EMPTY, key, request};
use crate::harness::{
    Flag, Flags, Group, RedisServer, SOON, Sender, Stack, block_on, get, temporary_folder, wait_until,
};

#[test]
fn a_cluster_is_written_swept_and_erased() {
    let (stack, _together) = Stack::together();
    if !RedisServer::is_installed() {
        return eprintln!("left out: no redis-server here");
    }
    let folder = temporary_folder();
    let nodes = RedisServer::cluster(folder.path());
    let url = format!("redis://127.0.0.1:{}", nodes[0].port);
    let group = Group::new(stack).set("REDIS_URL", &url);
    let mut flags = Flags::new(&group.topics);
    flags.set("production", Flag::on("f"));
    let _service = group.start("one");
    let sender = Sender::new(&group.topics.kafka);
    let users: Vec<_> = (0..30).map(|number| format!("u{number}")).collect();
    for user in &users {
        super::ask(&sender, &group.topics, &request("f", user, json!({})));
    }
    let enabled = |user: &str, on: &str| {
        let keys = [key("f", user, EMPTY), format!("ff_eval:production:f:{user}")];
        keys.iter().all(|key| nodes[0].cli(&["GET", key]).contains(&format!("\"enabled\":{on}")))
    };
    for user in &users {
        wait_until(user, SOON, || enabled(user, "true"));
    }
    flags.change("production", Flag::off("f"));
    for user in &users {
        wait_until(user, SOON, || enabled(user, "false"));
    }
    assert_eq!(block_on(flagstream::warm::erase(&url, "u7")).unwrap(), 2);
    assert_eq!(nodes[0].cli(&["GET", &key("f", "u7", EMPTY)]), "");
    assert!(enabled("u8", "false"));
}

#[test]
fn tls_is_spoken_and_certificates_are_checked() {
    let (stack, _together) = Stack::together();
    if !RedisServer::is_installed() {
        return eprintln!("left out: no redis-server here");
    }
    let folder = temporary_folder();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(&folder)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (cert, private) = (file("cert.pem"), file("key.pem"));
    let server = RedisServer::start(folder.path(), |port| {
        let port = port.to_string();
        let options = [
            "--port",
            "0",
            "--tls-port",
            &port,
            "--tls-cert-file",
            &cert,
            "--tls-key-file",
            &private,
            "--tls-auth-clients",
            "no",
        ];
        options.map(str::to_owned).to_vec()
    });
    let group = Group::new(stack).set("REDIS_URL", format!("rediss://localhost:{}", server.port));
    Flags::new(&group.topics).set("production", Flag::on("f"));
    let health = |url: &str| get(&format!("{url}/health")).unwrap().1;
    // Nobody trusts this certificate.
    let mut service = group.start("one");
    wait_until("the certificate is refused", SOON, || health(&service.url).contains("certificate"));
    assert!(service.stop().0.success());
    let service = group.set("SSL_CERT_FILE", &cert).start("one");
    wait_until("up", SOON, || {
        let overview: serde_json::Value = serde_json::from_str(&health(&service.url)).unwrap();
        overview["parts"]["warmer"]["state"] == "up"
    });
}
