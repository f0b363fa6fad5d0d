//! `flagstream health`: checks the service on this machine, for the health checks of containers and supervisors.
//!
//! It reads the same configuration as `run`, and therefore finds the listener on any port or address, with TLS, or as a
//! separate admin listener.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use crate::config::HttpConfig;

use super::service::reachable;
use super::{Global, Output, print};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Check readiness for traffic, and not only liveness
    #[arg(long)]
    pub ready: bool,
    /// Timeout in seconds
    #[arg(long, default_value_t = 4.0, value_name = "SECONDS")]
    pub timeout: f64,
}

/// Runs the check. Exit code 1 if the status is not 2xx.
pub async fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let timeout = Duration::try_from_secs_f64(args.timeout)
        .map_err(|_| super::UsageError(format!("--timeout {}: expected seconds", args.timeout)))?;
    let url = url(&global.load_config()?.http, args.ready);
    let client = reqwest::Client::builder().timeout(timeout).no_proxy();
    #[cfg(feature = "tls")]
    // The certificate is issued for the callers' host name, and nothing secret is sent.
    let client = client.danger_accept_invalid_certs(true);
    let answer = client.build()?.get(&url).send().await;
    let answer = answer.with_context(|| format!("no answer from {url}"))?;
    let status = answer.status();
    let body: Value = answer.json().await.unwrap_or_default();
    match global.output {
        Output::Json => {
            print::line(&json!({"url": url, "status": status.as_u16(), "body": body}).to_string())?
        }
        Output::Text => print::line(&text(&url, status.as_u16(), &body))?,
    };
    Ok(if status.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The admin listener if there is one, because it has no TLS and callers cannot exhaust its connections.
fn url(http: &HttpConfig, ready: bool) -> String {
    let path = if ready { "/health/ready" } else { "/health/live" };
    let (scheme, address) = match (http.admin_listen, &http.tls) {
        (Some(address), _) => ("http", address),
        (None, Some(_)) => ("https", http.listen),
        (None, None) => ("http", http.listen),
    };
    format!("{scheme}://{}{path}", reachable(address))
}

fn text(url: &str, status: u16, body: &Value) -> String {
    let state = body.get("status").and_then(Value::as_str).unwrap_or("the response is not from flagstream");
    let mut line = format!("{url}: {status} {state}");
    for (name, part) in body.get("parts").and_then(Value::as_object).into_iter().flatten() {
        let text = |name: &str| part.get(name).and_then(Value::as_str).unwrap_or_default();
        // Callers without the `read` scope get no details.
        line.push_str(format!("; {name}: {} {}", text("state"), text("detail")).trim_end());
    }
    super::render::printable(&line)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::TlsConfig;

    #[test]
    fn it_finds_the_listener_wherever_it_is() {
        let tls = TlsConfig { certificate: "cert.pem".into(), key: "key.pem".into() };
        let http = |listen: &str, admin: Option<&str>, tls: Option<&TlsConfig>| HttpConfig {
            listen: listen.parse().unwrap(),
            admin_listen: admin.map(|address| address.parse().unwrap()),
            tls: tls.cloned(),
            connections_per_address: 1,
            listeners: 1,
            listeners_per_address: 1,
            allowed_hosts: None,
            drain_delay: Duration::ZERO,
        };
        for (http, expected) in [
            (http("0.0.0.0:8082", None, None), "http://127.0.0.1:8082/health/ready"),
            (http("[::]:81", None, Some(&tls)), "https://[::1]:81/health/ready"),
            (http("10.0.0.7:82", None, None), "http://10.0.0.7:82/health/ready"),
            (http("[::1]:83", None, None), "http://[::1]:83/health/ready"),
            (http("0.0.0.0:84", Some("127.0.0.1:9"), Some(&tls)), "http://127.0.0.1:9/health/ready"),
        ] {
            assert_eq!(url(&http, true), expected);
        }
    }

    #[test]
    fn parts_that_are_not_ready_are_named() {
        let body =
            json!({"status": "not ready", "parts": {"store": {"state": "starting", "detail": "reads"}}});
        let line = text("http://h/health/ready", 503, &body);
        assert_eq!(line, "http://h/health/ready: 503 not ready; store: starting reads");
        assert!(text("u", 200, &Value::Null).contains("the response is not from flagstream"));
    }
}
