//! A running service, asked over HTTP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use reqwest::{Client, Method, StatusCode};
use serde::Serialize;
use serde_json::Value;

use crate::config::Config;

/// For a service to answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(15);

/// Which service, and as whom.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// The service to ask (default: on this machine, at the port of FLAGSTREAM_HTTP__LISTEN)
    #[arg(long)]
    pub url: Option<String>,
    /// A token for the service
    #[arg(long, env = "FLAGSTREAM_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

#[derive(Debug)]
pub struct Service {
    client: Client,
    base: String,
    token: Option<String>,
}

/// An answer that is not an error.
#[derive(Debug)]
pub struct Answered {
    pub status: StatusCode,
    pub body: String,
}

impl Service {
    pub fn new(options: &Options, config: &Config) -> anyhow::Result<Self> {
        let base = match &options.url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("http://{}", reachable(config.http.listen)),
        };
        let client = Client::builder().timeout(ANSWER_PATIENCE);
        // A proxy knows another machine by this address.
        let client = if options.url.is_none() { client.no_proxy() } else { client };
        let client = client.build()?;
        Ok(Self { client, base, token: options.token.clone() })
    }

    /// One call. What the service refuses is an error with the service's own words.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        reason: Option<&str>,
        body: Option<&impl Serialize>,
    ) -> anyhow::Result<Answered> {
        let base = &self.base;
        let mut request = self.client.request(method, format!("{base}{path}"));
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(reason) = reason {
            request = request.header("x-change-reason", reason);
        }
        let response = request.send().await.with_context(|| format!("no answer from {base}"))?;
        let status = response.status();
        let body = response.text().await?;
        if !status.is_success() {
            let problem: Value = serde_json::from_str(&body).unwrap_or_default();
            let detail = problem.get("detail").and_then(Value::as_str).unwrap_or("not flagstream's answer");
            anyhow::bail!("{base}: {status}: {detail}");
        }
        Ok(Answered { status, body })
    }
}

/// Where a listener on all addresses is found on this machine.
pub(super) fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
