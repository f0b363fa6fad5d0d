//! Registers this instance with Unleash and reports the usage of flags. Every instance does this, whether or
//! not it leads.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde_json::json;
use tracing::{debug, info};

use crate::config::{Config, UnleashEnvironment};
use crate::log_limit::limited;
use crate::metrics::{DropLabels, FeedLabels, Metrics};
use crate::shutdown::Shutdown;

use super::unleash::{self, Client, SDK};
use super::usage::{Bucket, Counts, Usage};

/// Maximum size of a report in bytes. Unleash accepts bodies of up to 100 kB.
const REPORT_BYTES_MAX: usize = 80_000;
/// Interval between attempts to register if no usage is reported.
const REGISTER_INTERVAL: Duration = Duration::from_secs(60);
/// Timeout of the last report at shutdown.
const LAST_REPORT_MAX: Duration = Duration::from_secs(1);

/// Strategies that evaluation supports.
const STRATEGIES: [&str; 10] = [
    "default",
    "flexibleRollout",
    "userWithId",
    "gradualRolloutUserId",
    "gradualRolloutSessionId",
    "gradualRolloutRandom",
    "remoteAddress",
    "applicationHostname",
    "gradualRollout",
    "customProperty",
];

/// Reporter of one environment.
struct Reporter {
    client: Arc<Client>,
    environment: UnleashEnvironment,
    usage: Arc<Usage>,
    metrics: Arc<Metrics>,
    started: DateTime<Utc>,
    registered: bool,
    /// The last failure that was logged; `None` after a successful request.
    failure: Option<String>,
}

/// Runs until `shutdown`, then reports a last time.
pub async fn report_usage(
    config: Arc<Config>,
    usage: Arc<Usage>,
    metrics: Arc<Metrics>,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let Some(client) = Client::new(&config.unleash)? else {
        return Ok(());
    };
    let started = Utc::now();
    let mut tasks = tokio::task::JoinSet::new();
    for environment in config.unleash.environments.clone() {
        let reporter = Reporter {
            client: Arc::clone(&client),
            environment,
            usage: Arc::clone(&usage),
            metrics: Arc::clone(&metrics),
            started,
            registered: false,
            failure: None,
        };
        tasks.spawn(reporter.run(config.unleash.metrics_interval, shutdown.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    Ok(())
}

impl Usage {
    /// Usage counters for all environments whose usage is reported.
    pub fn for_config(config: &Config) -> Self {
        let reports = config.unleash.url.is_some() && config.unleash.metrics_interval.is_some();
        let environments = config.unleash.environments.iter().filter(|_| reports);
        Self::new(environments.map(|environment| environment.name.clone()))
    }
}

impl Reporter {
    async fn run(mut self, interval: Option<Duration>, shutdown: Shutdown) {
        loop {
            if !self.registered {
                self.register(interval).await;
            }
            let pause = interval
                .unwrap_or(REGISTER_INTERVAL)
                .mul_f64(rand::Rng::random_range(&mut rand::rng(), 0.9..1.1));
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
            if interval.is_some() {
                self.report().await;
            }
        }
        if interval.is_some() && tokio::time::timeout(LAST_REPORT_MAX, self.report()).await.is_err() {
            debug!(
                environment = self.environment.name,
                "shutdown: the last usage could not be reported to Unleash in time"
            );
        }
    }

    async fn register(&mut self, interval: Option<Duration>) {
        let body = json!({
            "appName": self.client.app_name,
            "instanceId": self.client.instance_id,
            "connectionId": self.client.connection_id,
            "environment": self.environment.name,
            "sdkVersion": SDK,
            "started": text(self.started),
            "interval": interval.unwrap_or_default().as_secs(),
            "strategies": STRATEGIES,
        });
        match self.post("register", &body).await {
            Ok(()) => self.registered = true,
            Err((_, error)) => self.note("register", error),
        }
    }

    /// Reports everything collected. What Unleash did not accept is kept for the next report, unless Unleash
    /// rejected it permanently.
    async fn report(&mut self) {
        let now = Utc::now();
        let environment = self.environment.name.clone();
        let bucket = self.usage.take(&environment);
        self.count_dropped(&bucket);
        let mut parts = parts(bucket).into_iter();
        while let Some(part) = parts.next() {
            match self.post("metrics", &self.body(&part, now)).await {
                Ok(()) => self.count("reported"),
                Err((Some(StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE), error)) => {
                    self.drop_count("rejected", part.evaluations());
                    self.count("rejected");
                    self.note("metrics", error);
                }
                Err((_, error)) => {
                    self.count("failed");
                    self.note("metrics", error);
                    for part in std::iter::once(part).chain(parts) {
                        self.usage.give_back(&environment, part, now);
                    }
                    return;
                }
            }
        }
    }

    fn body(&self, part: &Bucket, now: DateTime<Utc>) -> serde_json::Value {
        json!({
            "appName": self.client.app_name,
            "instanceId": self.client.instance_id,
            "connectionId": self.client.connection_id,
            "environment": self.environment.name,
            "sdkVersion": SDK,
            "bucket": {"start": text(part.since.unwrap_or(now)), "stop": text(now), "toggles": part.flags},
        })
    }

    async fn post(
        &mut self,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<(), (Option<StatusCode>, String)> {
        let request = self.client.request(Method::POST, path, &self.environment.token).json(body);
        let response = request.send().await.map_err(|error| (None, unleash::chain(error)))?;
        let status = response.status();
        if !status.is_success() {
            return Err((Some(status), format!("status {status}")));
        }
        if self.failure.take().is_some() {
            info!(environment = self.environment.name, "reports to Unleash succeed again");
        }
        Ok(())
    }

    /// Logs a failure, but a repeated one only once.
    fn note(&mut self, what: &'static str, error: String) {
        if self.failure.as_ref() != Some(&error) {
            let environment = &self.environment.name;
            limited!(
                warn,
                key = what,
                environment,
                what,
                error,
                "the report to Unleash failed; it is retried",
            );
            self.failure = Some(error);
        }
    }

    fn count(&self, outcome: &'static str) {
        let environment = Arc::from(self.environment.name.as_str());
        self.metrics.feed.usage_reports.get_or_create(&FeedLabels { environment, outcome }).inc();
    }

    fn count_dropped(&self, bucket: &Bucket) {
        self.drop_count("too_many_flags", bucket.dropped.too_many_flags);
        self.drop_count("too_many_variants", bucket.dropped.too_many_variants);
        self.drop_count("too_old", bucket.dropped.too_old);
    }

    fn drop_count(&self, reason: &'static str, evaluations: u64) {
        if evaluations > 0 {
            let labels = DropLabels { what: "usage", reason };
            self.metrics.dropped.get_or_create(&labels).inc_by(evaluations);
        }
    }
}

fn text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Splits a bucket into parts that Unleash accepts; empty if there is nothing to report.
fn parts(bucket: Bucket) -> Vec<Bucket> {
    let mut parts: Vec<Bucket> = Vec::new();
    let mut bytes = REPORT_BYTES_MAX;
    for (flag, counts) in bucket.flags {
        let size = size(&flag, &counts);
        bytes += size;
        match parts.last_mut() {
            Some(part) if bytes <= REPORT_BYTES_MAX => drop(part.flags.insert(flag, counts)),
            _ => {
                bytes = size;
                let flags = [(flag, counts)].into();
                parts.push(Bucket { since: bucket.since, flags, ..Bucket::default() });
            }
        }
    }
    parts
}

/// Size of a flag's counts in bytes. It is an upper bound for names without characters that JSON escapes, and
/// sufficiently accurate for others.
fn size(flag: &str, Counts { variants, .. }: &Counts) -> usize {
    const NUMBER: usize = 24;
    let variants: usize = variants.keys().map(|name| name.len() + NUMBER).sum();
    flag.len() + variants + 4 * NUMBER
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_stay_below_what_unleash_takes() {
        let usage = Usage::new(["dev".to_owned()]);
        for n in 0..5_000 {
            usage.merge(
                "dev",
                &format!("a-flag-of-usual-length-{n}"),
                u64::from(u32::MAX),
                1,
                [("blue", 1)].into_iter(),
            );
        }
        let bucket = usage.take("dev");
        let evaluations = bucket.evaluations();
        let parts = parts(bucket);
        assert!(parts.len() > 1);
        assert_eq!(parts.iter().map(Bucket::evaluations).sum::<u64>(), evaluations);
        for part in &parts {
            let bytes = serde_json::to_vec(&part.flags).unwrap().len();
            assert!(bytes <= REPORT_BYTES_MAX, "{bytes}");
        }
        assert!(super::parts(Bucket::default()).is_empty());
    }
}
