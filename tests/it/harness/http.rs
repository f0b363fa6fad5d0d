//! Asking over HTTP, and reading Prometheus's text.

use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;
use tokio::runtime::Runtime;

/// Runs a future to its end: tests are plain threads.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    runtime().block_on(future)
}

pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap())
}

pub fn client() -> &'static reqwest::Client {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    CLIENT.get_or_init(|| {
        reqwest::Client::builder().timeout(Duration::from_secs(10)).no_proxy().build().unwrap()
    })
}

/// The bootstrap token of services that are started without one: details of health are not for everybody.
pub const HEALTH_TOKEN: &str = "a-token-that-sees-health";

/// Status and body, or `None` if the address does not answer.
pub fn get(url: &str) -> Option<(u16, String)> {
    get_with_token(url, HEALTH_TOKEN)
}

/// Status and body of a call with this token, for paths that show more to callers with a scope.
pub fn get_with_token(url: &str, token: &str) -> Option<(u16, String)> {
    block_on(async {
        let call = client().get(url);
        let call = if url.ends_with("/health") { call.bearer_auth(token) } else { call };
        let response = call.send().await.ok()?;
        let status = response.status().as_u16();
        Some((status, response.text().await.ok()?))
    })
}

/// One reading of `/metrics`.
#[derive(Debug)]
pub struct Metrics(String);

impl Metrics {
    pub fn read(base: &str) -> Self {
        let (status, text) = get(&format!("{base}/metrics")).expect("nobody answers /metrics");
        assert_eq!(status, 200, "{text}");
        Self(text)
    }

    /// The sum over all series of this name that have all these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.0
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .filter(|(series, _)| series.split('{').next() == Some(name))
            .filter(|(series, _)| {
                labels.iter().all(|(label, value)| series.contains(&format!("{label}=\"{value}\"")))
            })
            .map(|(_, value)| value.parse::<f64>().unwrap())
            .sum()
    }
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// One call with any headers and any body.
pub fn call(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    block_on(async {
        let method = method.parse().unwrap();
        let request = client().request(method, url).body(body.to_vec());
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let response = request.send().await.unwrap();
        Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.text().await.unwrap(),
        }
    })
}

/// Posts JSON.
pub fn post(url: &str, body: &Value) -> Answer {
    call("POST", url, &[("content-type", "application/json")], body.to_string().as_bytes())
}
