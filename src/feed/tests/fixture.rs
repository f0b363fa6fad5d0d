//! Test fixture: a feeder between a scripted Unleash and librdkafka's mock broker.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::config::*;
use crate::feed::{Feeder, HealthView, unleash_sources};
use crate::message::source_status::is_status;
use crate::metrics::{Metrics, OutcomeLabels};
use crate::shutdown::Shutdown;
use crate::store::Store;

/// Poll interval that is long enough for no regular poll to happen in a test.
const NEVER: Duration = Duration::from_secs(3600);
const TEST_TIMEOUT: Duration = Duration::from_secs(20);

pub struct Fixture {
    pub cluster: MockCluster<'static, DefaultProducerContext>,
    pub unleash: Unleash,
    pub refresh: Duration,
}

/// Response to the next requests, with request counters.
#[derive(Clone, Default)]
pub struct Script {
    pub status: u16,
    pub headers: Vec<(header::HeaderName, String)>,
    pub body: String,
    pub requests: usize,
    pub not_modified: usize,
}

#[derive(Clone)]
pub struct Unleash {
    pub address: SocketAddr,
    script: Arc<Mutex<Script>>,
}

/// Running feeder; [`Running::stop`] stops it.
pub struct Running {
    pub health: HealthView,
    metrics: Arc<Metrics>,
    shutdown: Shutdown,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Fixture {
    pub async fn new() -> Self {
        let cluster = MockCluster::new(1).unwrap();
        for topic in ["changes", "definitions", "events", "updates"] {
            cluster.create_topic(topic, 1, 1).unwrap();
        }
        Self { cluster, unleash: Unleash::start().await, refresh: NEVER }
    }

    pub fn config(&self, instance: &str) -> Config {
        let defaults = load_from(None, [], Profile::Service);
        let mut config = defaults.unwrap().config;
        config.set_instance(instance);
        config.kafka.bootstrap_servers = self.cluster.bootstrap_servers();
        config.topics = topics(config.topics);
        config.unleash = UnleashConfig {
            url: Some(format!("http://{}", self.unleash.address)),
            environments: vec![UnleashEnvironment { name: "dev".to_owned(), token: Secret::new("token") }],
            default_environment: "dev".to_owned(),
            instance_id: instance.to_owned(),
            refresh_interval: self.refresh,
            metrics_interval: None,
            ..config.unleash
        };
        config.delivery.session_timeout = Duration::from_secs(6);
        config
    }

    pub fn feed(&self, instance: &str) -> Running {
        self.feed_with(instance, Arc::default())
    }

    /// Starts a feeder with the given store.
    pub fn feed_with(&self, instance: &str, store: Arc<Store>) -> Running {
        let config = Arc::new(self.config(instance));
        let flag_sources = unleash_sources(&config).unwrap();
        let metrics = Metrics::new();
        let feeder = Feeder::new(config, Arc::default(), store, Arc::clone(&metrics), flag_sources);
        let (health, shutdown) = (feeder.health(), Shutdown::new());
        let task = tokio::spawn(feeder.run(shutdown.clone()));
        Running { health, metrics, shutdown, task }
    }

    /// Produces a record to the changes topic.
    pub async fn hint(&self, body: &str) {
        let mut config = rdkafka::ClientConfig::new();
        config.set("bootstrap.servers", self.cluster.bootstrap_servers());
        let producer: BaseProducer = config.create().unwrap();
        producer
            .send(BaseRecord::<[u8], str>::to("changes").payload(body))
            .map_err(|(error, _)| error)
            .unwrap();
        tokio::task::spawn_blocking(move || producer.flush(TEST_TIMEOUT)).await.unwrap().unwrap();
    }

    /// Keys and bodies of the first `count` flag records of a topic.
    pub async fn repository(&self, topic: &'static str, count: usize) -> Vec<(String, Option<Value>)> {
        self.read(topic, count, |key| !is_status(Some(key))).await
    }

    /// The first `count` statuses of sources.
    pub async fn statuses(&self, count: usize) -> Vec<Value> {
        let read = self.read("definitions", count, |key| is_status(Some(key))).await;
        read.into_iter().filter_map(|(_, body)| body).collect()
    }

    async fn read(
        &self,
        topic: &'static str,
        count: usize,
        is_wanted: impl Fn(&[u8]) -> bool + Send + 'static,
    ) -> Vec<(String, Option<Value>)> {
        let mut config = rdkafka::ClientConfig::new();
        config.set("bootstrap.servers", self.cluster.bootstrap_servers()).set("group.id", "test");
        let consumer: BaseConsumer = config.create().unwrap();
        let mut partitions = TopicPartitionList::new();
        partitions.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
        consumer.assign(&partitions).unwrap();
        let reading = move || {
            let (mut records, deadline) = (Vec::new(), Instant::now() + TEST_TIMEOUT);
            while records.len() < count {
                assert!(
                    Instant::now() < deadline,
                    "{} of {count} records in {topic}: {records:?}",
                    records.len()
                );
                let Some(Ok(message)) = consumer.poll(Duration::from_millis(50)) else {
                    continue;
                };
                if !is_wanted(message.key().unwrap()) {
                    continue;
                }
                let key = String::from_utf8(message.key().unwrap().to_vec()).unwrap();
                records.push((key, message.payload().map(|body| serde_json::from_slice(body).unwrap())));
            }
            records
        };
        tokio::task::spawn_blocking(reading).await.unwrap()
    }
}

fn topics(defaults: TopicsConfig) -> TopicsConfig {
    let [requests, events, changes, definitions, updates, dead_letters, conversions] =
        ["requests", "events", "changes", "definitions", "updates", "dead-letters", "conversions"]
            .map(str::to_owned);
    TopicsConfig {
        requests,
        events,
        changes,
        definitions,
        updates,
        dead_letters,
        conversions,
        partitions: 1,
        replication: None,
        ..defaults
    }
}

impl Unleash {
    async fn start() -> Self {
        let script = Arc::new(Mutex::new(Script::default()));
        let app =
            axum::Router::new().route("/api/client/features", get(features)).with_state(Arc::clone(&script));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        let unleash = Self { address, script };
        unleash.serve(&[]);
        unleash
    }

    pub fn serve(&self, features: &[Value]) {
        self.answer(200, &json!({"version": 2, "features": features}).to_string(), Vec::new());
    }

    pub fn answer(&self, status: u16, body: &str, headers: Vec<(header::HeaderName, String)>) {
        let mut script = self.script.lock().unwrap();
        *script = Script { status, headers, body: body.to_owned(), ..script.clone() };
    }

    pub fn script(&self) -> Script {
        self.script.lock().unwrap().clone()
    }
}

async fn features(State(script): State<Arc<Mutex<Script>>>, headers: HeaderMap) -> Response {
    let mut script = script.lock().unwrap();
    script.requests += 1;
    assert_eq!(headers.get(header::AUTHORIZATION).unwrap(), "token");
    let etag = format!("\"{:x}\"", crc(&script.body));
    if script.status == 200 && headers.get(header::IF_NONE_MATCH).is_some_and(|seen| *seen == *etag) {
        script.not_modified += 1;
        return StatusCode::NOT_MODIFIED.into_response();
    }
    let status = StatusCode::from_u16(script.status).unwrap();
    let mut response = (status, [(header::ETAG, etag)], script.body.clone()).into_response();
    for (name, value) in &script.headers {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}

fn crc(text: &str) -> u64 {
    text.bytes().fold(5381, |hash: u64, byte| hash.wrapping_mul(33) ^ u64::from(byte))
}

impl Running {
    pub fn terms_ended(&self, outcome: &'static str) -> u64 {
        self.metrics.feed.terms_ended.get_or_create(&OutcomeLabels { outcome }).get()
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// Waits for a condition and panics after the timeout.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + TEST_TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn flag(name: &str, enabled: bool) -> Value {
    json!({"name": name, "enabled": enabled, "type": "release", "strategies": [{"name": "default"}], "variants": []})
}
