//! HTTP client of a running service.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::anyhow;
use reqwest::{Client, Method, StatusCode};
use serde::Serialize;
use serde_json::Value;

use crate::config::Config;

use super::UsageError;

/// Timeout of a call.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// The service's address, and the token to use.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Base URL of the service (default: this machine, at the port of FLAGSTREAM_HTTP__LISTEN)
    #[arg(long)]
    pub url: Option<String>,
    /// API token for the service
    #[arg(long, env = "FLAGSTREAM_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

#[derive(Debug)]
pub struct Service {
    client: Client,
    base: String,
    token: Option<String>,
}

/// The service's response.
#[derive(Debug)]
pub struct Answered {
    pub status: StatusCode,
    pub body: String,
}

impl Service {
    pub fn new(options: &Options, config: &Config) -> anyhow::Result<Self> {
        let base = match &options.url {
            Some(url) if !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)) => {
                return Err(UsageError(format!("--url {url}: expected http://… or https://…")).into());
            }
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("http://{}", reachable(config.http.listen)),
        };
        let client = Client::builder().timeout(ANSWER_TIMEOUT);
        // For a proxy, the loopback address would mean its own machine.
        let client = if options.url.is_none() { client.no_proxy() } else { client };
        let client = client.build()?;
        Ok(Self { client, base, token: options.token.clone() })
    }

    /// Sends a request. A response without success status is an error with the service's own message.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        reason: Option<&str>,
        body: Option<&impl Serialize>,
    ) -> anyhow::Result<Answered> {
        let answered = self.send(method, path, reason, body).await?;
        if answered.status.is_success() { Ok(answered) } else { self.refused(&answered) }
    }

    /// The error for a response without success status.
    pub fn refused<T>(&self, answered: &Answered) -> anyhow::Result<T> {
        let problem: Value = serde_json::from_str(&answered.body).unwrap_or_default();
        let detail = problem.get("detail").or(problem.get("errorDetails")).and_then(Value::as_str);
        let detail = detail.unwrap_or("the response is not from flagstream; check --url");
        anyhow::bail!("{}: {}: {detail}", self.base, answered.status)
    }

    /// Sends a request and returns the response, whatever its status.
    pub async fn send(
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
        let response = request.send().await.map_err(|error| anyhow!(unreachable(base, &error)))?;
        let status = response.status();
        let body = response.text().await?;
        Ok(Answered { status, body })
    }
}

/// The reason why there is no response, reduced to the essential cause.
fn unreachable(base: &str, error: &reqwest::Error) -> String {
    let mut causes = vec![error.to_string()];
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        causes.push(cause.to_string());
        source = cause.source();
    }
    let says = |text: &str| causes.iter().any(|cause| cause.to_lowercase().contains(text));
    let how = "(--url, FLAGSTREAM_HTTP__LISTEN)";
    if says("connection refused") {
        format!("cannot reach {base}: connection refused. Is flagstream running there? {how}")
    } else if error.is_timeout() {
        format!("{base} does not answer within {} s {how}", ANSWER_TIMEOUT.as_secs())
    } else if base.starts_with("https://") && (says("wrong version number") || says("record header")) {
        let plain = base.replacen("https://", "http://", 1);
        format!("{base} does not speak TLS: did you mean {plain}?")
    } else {
        let last = causes.pop().unwrap_or_default();
        format!("cannot reach {base}: {last} {how}")
    }
}

/// The address at which a listener is reachable from this machine, even if it listens on all addresses.
pub(super) fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Profile, load_from};

    async fn error(url: &str) -> String {
        let config = load_from(None, [], Profile::Service).unwrap().config;
        let options = Options { url: Some(url.to_owned()), token: None };
        let calling = async {
            Service::new(&options, &config)?.call(Method::GET, "/health", None, None::<&Value>).await
        };
        format!("{:#}", calling.await.unwrap_err())
    }

    #[tokio::test]
    async fn an_error_says_what_to_do() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let refused = error(&format!("http://{free}")).await;
        assert!(
            refused.starts_with(&format!(
                "cannot reach http://{free}: connection refused. Is flagstream running"
            )),
            "{refused}"
        );
        assert_eq!(error("127.0.0.1:1").await, "--url 127.0.0.1:1: expected http://… or https://…");
    }
}
