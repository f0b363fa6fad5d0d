//! Asking over HTTP, and reading Prometheus's text.

use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

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

/// Status and body, or `None` if nobody answers.
pub fn get(url: &str) -> Option<(u16, String)> {
    block_on(async {
        let response = client().get(url).send().await.ok()?;
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
