//! Forwards what SDKs have reported to Unleash, from Kafka. Runs in the instance whose feeder leads.
//!
//! Reports wait in Kafka while Unleash is unreachable, so an outage costs neither memory nor reports. Offsets are
//! committed after Unleash has accepted a call: a report is forwarded at least once, and again only if this process ends
//! between the two. A report that Unleash refuses becomes a dead letter.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::config::{Config, Secret};
use crate::feed::unleash::{Client, chain};
use crate::feed::{HealthView, Role};
use crate::health::Reporter;
use crate::kafka::backoff::Backoff;
use crate::kafka::client;
use crate::kafka::consumer::BatchConsumer;
use crate::kafka::sender::Sender;
use crate::log_limit::{LogLimit, limited};
use crate::message::dead_letter::DeadLetter;
use crate::metrics::{CodeLabels, Metrics, OutcomeLabels};
use crate::shutdown::{Shutdown, pause};

use super::client_metrics::{ClientMetricsRecord, FlagCounts};

/// Part of the consumer group's name.
pub const ROLE: &str = "client-metrics";
/// Maximum size of the reports of one call to Unleash, in bytes. Unleash accepts 100 kB.
pub const MAX_CALL_BYTES: usize = 85_000;
/// Maximum records of one fetch.
const FETCH_RECORDS: usize = 256;
/// How long a fetch waits for records.
const FETCH_TIMEOUT: Duration = Duration::from_millis(250);
/// Interval at which this instance checks whether it leads.
const LEADER_CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// Delay before the second attempt of a call; it doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(500);
/// Longest delay between attempts of a call.
const MAX_BACKOFF: Duration = Duration::from_secs(15);
/// Codes of dead letters.
const REFUSED: &str = "UPSTREAM_REFUSED";
const INVALID: &str = "INVALID_CLIENT_METRICS";

/// Dependencies of the forwarder.
#[derive(Debug)]
pub struct Forwarder {
    config: Arc<Config>,
    client: Arc<Client>,
    metrics: Arc<Metrics>,
    leads: HealthView,
    health: Reporter,
    dead_letters: Sender,
    shutdown: Shutdown,
}

/// One record of the topic.
#[derive(Debug)]
struct Report {
    partition: i32,
    offset: i64,
    key: Vec<u8>,
    body: Vec<u8>,
    /// The error says why the record cannot be read.
    record: Result<ClientMetricsRecord, String>,
}

/// Reason why a call has failed.
#[derive(Debug)]
enum CallError {
    /// Unleash refuses the call, however often it is made.
    Refused(String),
    Failed(String),
}

/// The forwarder is to stop: this instance no longer leads, or owns other partitions.
struct Interrupted;

impl Forwarder {
    /// Creates the forwarder; `None` without Unleash.
    pub fn new(
        config: Arc<Config>,
        metrics: Arc<Metrics>,
        leads: HealthView,
        health: Reporter,
        shutdown: Shutdown,
    ) -> anyhow::Result<Option<Self>> {
        let Some(client) = Client::new(&config.unleash).context("UNLEASH_URL")? else { return Ok(None) };
        let dead_letters = Sender::new(config.kafka.clone(), ROLE);
        Ok(Some(Self { config, client, metrics, leads, health, dead_letters, shutdown }))
    }

    /// Forwards reports whenever this instance leads, until shutdown. Blocks its thread.
    pub fn run(self, runtime: &Handle) {
        while !self.shutdown.is_cancelled() {
            if !self.may_forward() {
                self.health.up();
                pause(LEADER_CHECK_INTERVAL, &self.shutdown);
                continue;
            }
            if let Err(error) = self.lead(runtime) {
                limited!(
                    warn,
                    %error,
                    topic = self.config.topics.client_metrics,
                    "the consumer of SDK metrics failed; it restarts",
                );
                self.health.degraded(error);
                pause(MAX_BACKOFF / 10, &self.shutdown);
            }
        }
    }

    fn may_forward(&self) -> bool {
        self.leads.load().role == Role::Leader && !self.shutdown.is_cancelled()
    }

    fn lead(&self, runtime: &Handle) -> Result<(), KafkaError> {
        let name = format!("{}-{ROLE}-{}", self.config.kafka.group_id, self.config.instance);
        let settings = client::member(&self.config.kafka, self.config.membership(), ROLE, ROLE, &name);
        let topic = &self.config.topics.client_metrics;
        let mut consumer = BatchConsumer::subscribe(&settings, topic, FETCH_RECORDS)?;
        let mut waiting: Vec<Report> = Vec::new();
        let mut rebalances = consumer.rebalances();
        while self.may_forward() {
            consumer.serve()?;
            if consumer.rebalances() != rebalances {
                rebalances = consumer.rebalances();
                // What was read may belong to another instance now: it is read again from the committed offsets.
                if !waiting.is_empty() {
                    return Ok(());
                }
            }
            if waiting.is_empty() {
                let fetched = consumer.fetch(FETCH_TIMEOUT);
                waiting.extend(fetched.records().map(|record| Report {
                    partition: record.partition(),
                    offset: record.offset(),
                    key: record.key().unwrap_or_default().to_vec(),
                    body: record.payload().to_vec(),
                    record: serde_json::from_slice(record.payload()).map_err(|error| error.to_string()),
                }));
                self.health.up();
                continue;
            }
            let round = round(&mut waiting);
            let forwarded = self.forward(&consumer, rebalances, &round, runtime);
            if forwarded.is_err() {
                return Ok(());
            }
            consumer.inner().commit(&self.ends(&round), CommitMode::Sync)?;
        }
        Ok(())
    }

    /// Offsets behind these reports.
    fn ends(&self, round: &[Report]) -> TopicPartitionList {
        let mut ends: BTreeMap<i32, i64> = BTreeMap::new();
        for report in round {
            let end = ends.entry(report.partition).or_default();
            *end = (*end).max(report.offset + 1);
        }
        let mut offsets = TopicPartitionList::new();
        for (partition, end) in ends {
            // Fails only for negative offsets.
            let _ = offsets.add_partition_offset(
                &self.config.topics.client_metrics,
                partition,
                Offset::Offset(end),
            );
        }
        offsets
    }

    /// Forwards reports until Unleash has accepted or refused all of them.
    fn forward(
        &self,
        consumer: &BatchConsumer,
        rebalances: usize,
        round: &[Report],
        runtime: &Handle,
    ) -> Result<(), Interrupted> {
        let mut by_environment: BTreeMap<&str, Vec<&Report>> = BTreeMap::new();
        for report in round {
            match &report.record {
                Ok(record) => by_environment.entry(&record.environment).or_default().push(report),
                Err(error) => self.until_done(consumer, rebalances, || {
                    runtime.block_on(self.write_dead_letter(report, INVALID, error))
                })?,
            }
        }
        for (environment, reports) in by_environment {
            let refusal = self.until_answered(consumer, rebalances, environment, &reports, runtime)?;
            match refusal {
                None => {}
                Some(reason) if reports.len() == 1 => self.until_done(consumer, rebalances, || {
                    reports.iter().try_for_each(|report| {
                        runtime.block_on(self.write_dead_letter(report, REFUSED, &reason))
                    })
                })?,
                // One report may be the reason, so each is sent alone.
                Some(_) => {
                    for report in reports {
                        let alone = [report];
                        let refusal =
                            self.until_answered(consumer, rebalances, environment, &alone, runtime)?;
                        if let Some(reason) = refusal {
                            self.until_done(consumer, rebalances, || {
                                runtime.block_on(self.write_dead_letter(report, REFUSED, &reason))
                            })?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Calls Unleash until it answers. Returns the reason if it refuses the reports.
    fn until_answered(
        &self,
        consumer: &BatchConsumer,
        rebalances: usize,
        environment: &str,
        reports: &[&Report],
        runtime: &Handle,
    ) -> Result<Option<String>, Interrupted> {
        let mut refusal = None;
        self.until_done(consumer, rebalances, || match runtime.block_on(self.call(environment, reports)) {
            Ok(()) => {
                self.count("accepted");
                Ok(())
            }
            Err(CallError::Refused(reason)) => {
                self.count("refused");
                refusal = Some(reason);
                Ok(())
            }
            Err(CallError::Failed(error)) => {
                self.count("failed");
                Err(format!("SDK metrics wait in Kafka, because Unleash does not accept them: {error}"))
            }
        })?;
        Ok(refusal)
    }

    /// Repeats `attempt` until it succeeds. Serves the consumer meanwhile, so that it stays in its group.
    fn until_done(
        &self,
        consumer: &BatchConsumer,
        rebalances: usize,
        mut attempt: impl FnMut() -> Result<(), String>,
    ) -> Result<(), Interrupted> {
        static LIMIT: LogLimit = LogLimit::new();
        let mut backoff = Backoff::new(MIN_BACKOFF, MAX_BACKOFF);
        loop {
            let Err(error) = attempt() else { return Ok(()) };
            if let Some(suppressed) = LIMIT.admit() {
                tracing::warn!(error, suppressed, "SDK metrics are not forwarded; retrying");
            }
            self.health.degraded(error);
            let until = Instant::now() + backoff.delay();
            while Instant::now() < until {
                let is_served = consumer.serve().is_ok() && consumer.rebalances() == rebalances;
                if !is_served || !self.may_forward() {
                    return Err(Interrupted);
                }
                pause(LEADER_CHECK_INTERVAL, &self.shutdown);
            }
        }
    }

    async fn call(&self, environment: &str, reports: &[&Report]) -> Result<(), CallError> {
        let Some(token) = self.token(environment) else {
            return Err(CallError::Refused(format!(
                "no token for the environment {environment} is configured"
            )));
        };
        let body = bulk(reports.iter().filter_map(|report| report.record.as_ref().ok()));
        let request = self.client.request(Method::POST, "metrics/bulk", token).json(&body);
        let response = request.send().await.map_err(|error| CallError::Failed(chain(error)))?;
        let status = response.status();
        match status {
            _ if status.is_success() => Ok(()),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Err(CallError::Failed(format!("status {status}")))
            }
            _ if status.is_client_error() => {
                Err(CallError::Refused(format!("Unleash answered with status {status}")))
            }
            _ => Err(CallError::Failed(format!("status {status}"))),
        }
    }

    fn token(&self, environment: &str) -> Option<&Secret> {
        let known = self.config.unleash.environments.iter().find(|known| known.name == environment)?;
        Some(&known.token)
    }

    async fn write_dead_letter(
        &self,
        report: &Report,
        code: &'static str,
        message: &str,
    ) -> Result<(), String> {
        let letter = DeadLetter {
            code,
            message,
            topic: &self.config.topics.client_metrics,
            partition: report.partition,
            offset: report.offset,
            index: None,
            body_omitted: false,
        };
        let topic = &self.config.topics.dead_letters;
        let sent = self.dead_letters.send_with(topic, &report.key, &report.body, &letter.headers()).await;
        sent.map_err(|error| format!("a dead letter cannot be written: {error}"))?;
        self.metrics.dead_letters.get_or_create(&CodeLabels { code }).inc();
        Ok(())
    }

    fn count(&self, outcome: &'static str) {
        self.metrics.unleash_api.forwarded.get_or_create(&OutcomeLabels { outcome }).inc();
    }
}

/// Takes the first reports, as many as fit into one call.
fn round(waiting: &mut Vec<Report>) -> Vec<Report> {
    let mut bytes = 0;
    let fitting = waiting.iter().take_while(|report| {
        bytes += report.body.len();
        bytes <= MAX_CALL_BYTES
    });
    let count = fitting.count().max(1).min(waiting.len());
    waiting.drain(..count).collect()
}

/// Body of a call to Unleash. Counts of the same flag, application and hour are added up.
fn bulk<'r>(records: impl Iterator<Item = &'r ClientMetricsRecord>) -> Value {
    let (mut applications, mut impact) = (Vec::new(), Vec::new());
    let mut counts: BTreeMap<(&str, &str, i64), FlagCounts> = BTreeMap::new();
    for record in records {
        applications.extend(record.applications.iter());
        impact.extend(record.impact_metrics.iter());
        for more in &record.metrics {
            let hour = more.timestamp.timestamp().div_euclid(3_600);
            match counts.get_mut(&(more.app_name.as_str(), more.feature_name.as_str(), hour)) {
                Some(known) => add(known, more),
                None => drop(counts.insert((&more.app_name, &more.feature_name, hour), more.clone())),
            }
        }
    }
    let metrics: Vec<_> = counts.into_values().collect();
    let mut body = json!({"applications": applications, "metrics": metrics});
    if !impact.is_empty() {
        body["impactMetrics"] = json!(impact);
    }
    body
}

fn add(known: &mut FlagCounts, more: &FlagCounts) {
    known.yes = known.yes.saturating_add(more.yes);
    known.no = known.no.saturating_add(more.no);
    for (variant, count) in &more.variants {
        let known = known.variants.entry(variant.clone()).or_default();
        *known = known.saturating_add(*count);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use chrono::{DateTime, Utc};

    use crate::unleash_api::client_metrics;

    use super::*;

    fn record(app: &str, flag: &str, at: &str, yes: u64) -> ClientMetricsRecord {
        let body = json!({"appName": app, "bucket": {"start": at, "toggles": {flag: {"yes": yes, "no": 1,
            "variants": {"blue": yes}}}}});
        let now: DateTime<Utc> = "2026-01-15T12:00:00Z".parse().unwrap();
        client_metrics::metrics(body.to_string().as_bytes(), "e", now).unwrap().remove(0)
    }

    #[test]
    fn counts_of_one_hour_are_added_up_and_others_stay_apart() {
        let (ten, later, eleven) = ("2026-01-15T10:00:00Z", "2026-01-15T10:59:59Z", "2026-01-15T11:00:00Z");
        let records = [
            record("shop", "a", ten, 2),
            record("shop", "a", later, 3),
            record("shop", "a", eleven, 5),
            record("pay", "a", ten, 7),
        ];
        let body = bulk(records.iter());
        let counted: Vec<_> =
            body["metrics"].as_array().unwrap().iter().map(|it| it["yes"].as_u64().unwrap()).collect();
        assert_eq!(counted, [7, 5, 5]);
        assert_eq!(
            (&body["metrics"][1]["no"], &body["metrics"][1]["variants"]["blue"]),
            (&json!(2), &json!(5))
        );
        assert_eq!(body.get("impactMetrics"), None);
    }

    #[test]
    fn a_call_has_as_many_whole_reports_as_fit() {
        let report = |bytes: usize| Report {
            partition: 0,
            offset: 0,
            key: Vec::new(),
            body: vec![b'x'; bytes],
            record: Err(String::new()),
        };
        let mut waiting = vec![
            report(MAX_CALL_BYTES / 2),
            report(MAX_CALL_BYTES / 2),
            report(1),
            report(MAX_CALL_BYTES * 2),
        ];
        let sizes = |waiting: &mut Vec<Report>| round(waiting).len();
        assert_eq!((sizes(&mut waiting), sizes(&mut waiting), sizes(&mut waiting)), (2, 1, 1));
        assert!(waiting.is_empty());
    }
}
