//! Reports of SDKs about themselves and about the flags that they evaluated, as records of the topic
//! `feature-flag-client-metrics`.
//!
//! Counts are kept as Unleash's API for many applications has them, so that they are forwarded unchanged. The environment
//! is that of the token, whatever the SDK says.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Maximum size of one record, in bytes. A call to Unleash contains at least one record.
pub const MAX_RECORD_BYTES: usize = 64 << 10;
/// Maximum length of the name of an application, in bytes.
pub const MAX_APP_BYTES: usize = 255;
/// Maximum of one count. No SDK evaluates a flag so often between two reports, and sums of such counts fit into the
/// database's integers.
pub const MAX_COUNT: u64 = u32::MAX as u64;
/// Maximum flags that one report may name.
pub const MAX_REPORTED_FLAGS: usize = 20_000;

/// Facts about the SDK, which Unleash shows.
const METADATA: [&str; 7] = [
    "sdkVersion",
    "sdkType",
    "yggdrasilVersion",
    "platformName",
    "platformVersion",
    "sdkFlavor",
    "sdkFlavorVersion",
];

/// One record of the topic. Its key is `environment/app`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ClientMetricsRecord {
    pub environment: String,
    pub app_name: String,
    pub received_at: DateTime<Utc>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub applications: Vec<Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<FlagCounts>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub impact_metrics: Vec<Value>,
}

/// Counts of one flag in one application, in the form of Unleash's API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlagCounts {
    pub feature_name: String,
    pub app_name: String,
    pub environment: String,
    /// Start of the period.
    pub timestamp: DateTime<Utc>,
    #[serde(default)]
    pub yes: u64,
    #[serde(default)]
    pub no: u64,
    #[serde(default, deserialize_with = "or_default")]
    pub variants: BTreeMap<String, u64>,
    /// Facts about the SDK.
    #[serde(flatten)]
    pub metadata: Map<String, Value>,
}

/// Reason why a report is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    #[error("not JSON in the form of Unleash's API: {0}")]
    Form(String),
    #[error("appName: expected 1 to {MAX_APP_BYTES} bytes")]
    App,
    #[error("expected at most {MAX_REPORTED_FLAGS} flags, got {0}")]
    TooMany(usize),
    #[error("counts of {0}: expected at most {MAX_COUNT}")]
    Count(String),
    #[error("a single entry has more than {MAX_RECORD_BYTES} bytes")]
    TooLarge,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    app_name: String,
    bucket: Option<Bucket>,
    impact_metrics: Option<Vec<Value>>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct Bucket {
    #[serde(default)]
    start: Value,
    #[serde(default, deserialize_with = "or_default")]
    toggles: BTreeMap<String, Toggle>,
}

#[derive(Debug, Deserialize)]
struct Toggle {
    #[serde(default)]
    yes: u64,
    #[serde(default)]
    no: u64,
    #[serde(default, deserialize_with = "or_default")]
    variants: BTreeMap<String, u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BulkReport {
    #[serde(default, deserialize_with = "or_default")]
    applications: Vec<Value>,
    #[serde(default, deserialize_with = "or_default")]
    metrics: Vec<FlagCounts>,
    #[serde(default, deserialize_with = "or_default")]
    impact_metrics: Vec<Value>,
}

/// Reads `null` as the default.
fn or_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Reads the body of `register`.
pub fn application(
    body: &[u8],
    environment: &str,
    now: DateTime<Utc>,
) -> Result<Vec<ClientMetricsRecord>, ReportError> {
    let mut application: Map<String, Value> = read(body)?;
    let app_name = application.get("appName").and_then(Value::as_str).ok_or(ReportError::App)?.to_owned();
    application.insert("environment".to_owned(), environment.into());
    let all = ClientMetricsRecord {
        applications: vec![application.into()],
        ..record(environment, &app_name, now)?
    };
    split(all)
}

/// Reads the body of `metrics`.
pub fn metrics(
    body: &[u8],
    environment: &str,
    now: DateTime<Utc>,
) -> Result<Vec<ClientMetricsRecord>, ReportError> {
    let Report { app_name, bucket, impact_metrics, rest } = read(body)?;
    let mut all = record(environment, &app_name, now)?;
    let metadata: Map<String, Value> = rest
        .into_iter()
        .filter(|(name, value)| METADATA.contains(&name.as_str()) && !value.is_null())
        .collect();
    all.impact_metrics = impact_metrics.unwrap_or_default();
    if let Some(Bucket { start, toggles }) = bucket {
        check_count(toggles.len())?;
        let timestamp = start.as_str().and_then(|start| start.parse().ok()).unwrap_or(now);
        let counted = toggles.into_iter().map(|(feature_name, Toggle { yes, no, variants })| FlagCounts {
            feature_name,
            app_name: app_name.clone(),
            environment: environment.to_owned(),
            timestamp,
            yes,
            no,
            variants,
            metadata: metadata.clone(),
        });
        all.metrics = counted.collect();
    }
    split(all)
}

/// Reads the body of `metrics/bulk`, by which other proxies report many applications. Each gets records of its own.
pub fn bulk(
    body: &[u8],
    environment: &str,
    now: DateTime<Utc>,
) -> Result<Vec<ClientMetricsRecord>, ReportError> {
    let BulkReport { applications, metrics, impact_metrics } = read(body)?;
    check_count(metrics.len())?;
    let mut by_app: BTreeMap<String, ClientMetricsRecord> = BTreeMap::new();
    for mut application in applications {
        let app_name = application["appName"].as_str().ok_or(ReportError::App)?.to_owned();
        application["environment"] = environment.into();
        let new = record(environment, &app_name, now)?;
        by_app.entry(app_name).or_insert(new).applications.push(application);
    }
    for mut counts in metrics {
        environment.clone_into(&mut counts.environment);
        let new = record(environment, &counts.app_name, now)?;
        by_app.entry(counts.app_name.clone()).or_insert(new).metrics.push(counts);
    }
    if !impact_metrics.is_empty() {
        let new = record(environment, "bulk", now)?;
        by_app.entry("bulk".to_owned()).or_insert(new).impact_metrics = impact_metrics;
    }
    by_app.into_values().map(split).try_fold(Vec::new(), |mut all, records| {
        all.extend(records?);
        Ok(all)
    })
}

fn read<'b, T: Deserialize<'b>>(body: &'b [u8]) -> Result<T, ReportError> {
    serde_json::from_slice(body).map_err(|error| ReportError::Form(error.to_string()))
}

fn check_count(flags: usize) -> Result<(), ReportError> {
    if flags > MAX_REPORTED_FLAGS { Err(ReportError::TooMany(flags)) } else { Ok(()) }
}

fn record(environment: &str, app_name: &str, now: DateTime<Utc>) -> Result<ClientMetricsRecord, ReportError> {
    if app_name.is_empty() || app_name.len() > MAX_APP_BYTES {
        return Err(ReportError::App);
    }
    Ok(ClientMetricsRecord {
        environment: environment.to_owned(),
        app_name: app_name.to_owned(),
        received_at: now,
        ..ClientMetricsRecord::default()
    })
}

/// Splits a record into records of limited size; none if it is empty.
fn split(all: ClientMetricsRecord) -> Result<Vec<ClientMetricsRecord>, ReportError> {
    if let Some(counts) = all.metrics.iter().find(|counts| counts.highest() > MAX_COUNT) {
        return Err(ReportError::Count(counts.feature_name.clone()));
    }
    let ClientMetricsRecord { environment, app_name, received_at, applications, metrics, impact_metrics } =
        all;
    let empty = || ClientMetricsRecord {
        environment: environment.clone(),
        app_name: app_name.clone(),
        received_at,
        ..ClientMetricsRecord::default()
    };
    let (mut records, mut current, mut bytes) = (Vec::new(), empty(), 0);
    let mut make_room = |current: &mut ClientMetricsRecord, entry: usize| -> Result<(), ReportError> {
        if entry > MAX_RECORD_BYTES {
            return Err(ReportError::TooLarge);
        }
        if bytes + entry > MAX_RECORD_BYTES {
            records.push(std::mem::replace(current, empty()));
            bytes = 0;
        }
        bytes += entry;
        Ok(())
    };
    for application in applications {
        make_room(&mut current, size(&application))?;
        current.applications.push(application);
    }
    for counts in metrics {
        make_room(&mut current, size(&counts))?;
        current.metrics.push(counts);
    }
    for metric in impact_metrics {
        make_room(&mut current, size(&metric))?;
        current.impact_metrics.push(metric);
    }
    if bytes > 0 {
        records.push(current);
    }
    Ok(records)
}

/// Size of an entry as JSON, with its separator.
fn size(entry: &impl Serialize) -> usize {
    serde_json::to_vec(entry).map_or(usize::MAX, |bytes| bytes.len() + 1)
}

impl FlagCounts {
    fn highest(&self) -> u64 {
        self.variants.values().copied().fold(self.yes.max(self.no), u64::max)
    }
}

impl ClientMetricsRecord {
    pub fn key(&self) -> String {
        format!("{}/{}", self.environment, self.app_name)
    }

    /// Number of evaluations that the record reports.
    pub fn evaluations(&self) -> u64 {
        self.metrics.iter().map(|counts| counts.yes.saturating_add(counts.no)).fold(0, u64::saturating_add)
    }
}

/// Time in the form of Unleash's API.
pub fn time_text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-01-15T10:30:00Z".parse().unwrap()
    }

    type Read = fn(&[u8], &str, DateTime<Utc>) -> Result<Vec<ClientMetricsRecord>, ReportError>;

    fn of(read: Read, body: Value) -> Vec<ClientMetricsRecord> {
        read(body.to_string().as_bytes(), "e", now()).unwrap()
    }

    #[test]
    fn a_report_becomes_counts_of_the_tokens_environment() {
        let body = json!({"appName": "shop", "instanceId": "i", "environment": "other", "sdkVersion": "node:6",
            "platformName": null, "bucket": {"start": "2026-01-15T10:00:00.000Z", "stop": "2026-01-15T10:01:00Z",
                "toggles": {"a": {"yes": 2, "no": 1, "variants": {"blue": 2}}, "b": {"yes": 0, "no": 3}}}});
        let [record] = of(metrics, body).try_into().unwrap();
        assert_eq!((record.key().as_str(), record.evaluations()), ("e/shop", 6));
        let first = serde_json::to_value(&record.metrics[0]).unwrap();
        let expected = json!({"featureName": "a", "appName": "shop", "environment": "e", "yes": 2, "no": 1,
            "timestamp": "2026-01-15T10:00:00Z", "variants": {"blue": 2}, "sdkVersion": "node:6"});
        assert_eq!(first, expected);
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<ClientMetricsRecord>(&text).unwrap(), record);
    }

    #[test]
    fn a_bucket_may_be_absent_and_a_time_odd() {
        let only_impact = json!({"appName": "shop", "bucket": null, "impactMetrics": [{"name": "m"}]});
        assert_eq!(of(metrics, only_impact)[0].impact_metrics, [json!({"name": "m"})]);
        assert!(of(metrics, json!({"appName": "shop"})).is_empty());
        let odd = json!({"appName": "shop", "bucket": {"start": 5, "toggles": {"a": {"yes": 1}}}});
        assert_eq!(of(metrics, odd)[0].metrics[0].timestamp, now());
        for wrong in
            [json!([]), json!({"appName": ""}), json!({"bucket": {}}), json!({"appName": "a", "bucket": 5})]
        {
            assert!(metrics(wrong.to_string().as_bytes(), "e", now()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn counts_that_no_sdk_reaches_are_refused() {
        let refused = |toggle: Value| {
            metrics(
                json!({"appName": "shop", "bucket": {"toggles": {"a": toggle}}}).to_string().as_bytes(),
                "e",
                now(),
            )
        };
        let over = MAX_COUNT + 1;
        for toggle in [json!({"yes": over}), json!({"no": u64::MAX}), json!({"variants": {"blue": over}})] {
            assert_eq!(refused(toggle), Err(ReportError::Count("a".to_owned())));
        }
        assert!(refused(json!({"yes": MAX_COUNT, "no": MAX_COUNT})).is_ok());
        assert!(refused(json!({"yes": -1})).is_err());
    }

    #[test]
    fn other_proxies_report_many_applications() {
        let counts = |app: &str| {
            json!({"featureName": "a", "appName": app, "environment": "x",
            "timestamp": "2026-01-15T10:00:00Z", "yes": 1, "no": 0, "variants": {}})
        };
        let body = json!({"applications": [{"appName": "one", "strategies": []}], "metrics": [counts("one"), counts("two")]});
        let records = of(bulk, body);
        let keys: Vec<_> = records.iter().map(ClientMetricsRecord::key).collect();
        assert_eq!(keys, ["e/one", "e/two"]);
        assert_eq!(records[0].applications[0]["environment"], "e");
        assert_eq!(records[1].metrics[0].environment, "e");
    }

    #[test]
    fn a_large_report_is_split_and_loses_nothing() {
        let toggles: Map<String, Value> =
            (0..5_000).map(|number| (format!("flag-{number}"), json!({"yes": 1, "no": 0}))).collect();
        let records = of(metrics, json!({"appName": "shop", "bucket": {"toggles": toggles}}));
        assert!(records.len() > 5);
        for record in &records {
            assert!(serde_json::to_vec(record).unwrap().len() < MAX_RECORD_BYTES + 512);
        }
        assert_eq!(records.iter().map(ClientMetricsRecord::evaluations).sum::<u64>(), 5_000);
        let long = json!({"appName": "shop", "impactMetrics": [{"help": "x".repeat(MAX_RECORD_BYTES)}]});
        let refused = metrics(long.to_string().as_bytes(), "e", now());
        assert_eq!(refused, Err(ReportError::TooLarge));
    }
}
