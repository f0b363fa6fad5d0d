//! Topics, requests and workers of a benchmark run.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, ensure};
use prometheus_client::metrics::counter::Counter;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::producer::DefaultProducerContext;
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use flagstream::config::{
    Config, DeliveryMode, InputFormat, OnMissingUser, Selector, TapAudit, TapConfig, TapWrite, TopicsConfig,
};
use flagstream::evaluate::Parts;
use flagstream::evaluate::answer::{Respond, Responder};
use flagstream::evaluate::pipeline::Pipeline;
use flagstream::evaluate::status::EvaluatorStatus;
use flagstream::evaluate::tap::TapResponder;
use flagstream::evaluate::worker::Worker;
use flagstream::feed::usage::Usage;
use flagstream::flag::Snapshot;
use flagstream::health::Reporter;
use flagstream::kafka::client;
use flagstream::message::avro::{Kind, header};
use flagstream::metrics::Metrics;
use flagstream::progress::Progress;
use flagstream::schema_registry::{Formats, UNREGISTERED_ID};
use flagstream::shutdown::Shutdown;
use flagstream::store::Store;

use super::baseline::Baseline;
use super::gate::{Gate, Gated};
use super::load;

/// Timeout of requests to Kafka, which may be busy after millions of records.
const DEADLINE: Duration = Duration::from_secs(30);

/// The loops that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loop {
    Baseline,
    Full,
    /// A tap that reads the requests as records of another service. `true`: each evaluation becomes an event.
    Tap(bool),
}

/// The position at which an arm starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// All requests; workers answer slowly until each has partitions.
    Backlog,
    /// The next request.
    End,
}

/// One arm of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arm {
    pub what: Loop,
    pub mode: DeliveryMode,
}

impl Arm {
    pub fn name(&self) -> String {
        let what = match self.what {
            Loop::Baseline => "bare loop",
            Loop::Full => "flagstream",
            Loop::Tap(false) => "tap",
            Loop::Tap(true) => "tap with audit",
        };
        let mode = match self.mode {
            DeliveryMode::Transactional => "transactional",
            DeliveryMode::AtLeastOnce => "at_least_once",
        };
        format!("{what}, {mode}")
    }
}

/// The running workers of one arm.
#[derive(Debug)]
pub struct Running {
    /// Counter of committed records.
    committed: Counter,
    pub gate: Gate,
    shutdown: Shutdown,
    workers: Vec<JoinHandle<()>>,
}

/// State shared by all arms.
#[derive(Debug)]
pub struct Bench {
    pub config: Config,
    pub flags: usize,
    pub snapshot: Snapshot,
    run: String,
    arms: usize,
}

impl Bench {
    /// Creates new topics for this run.
    pub async fn prepare(mut config: Config, flags: usize, partitions: i32) -> anyhow::Result<Self> {
        ensure!(flags > 0, "--flags: expected at least 1");
        let run = format!("flagstream-bench-{}", uuid::Uuid::now_v7().simple());
        config.set_instance("bench");
        config.kafka.group_id.clone_from(&run);
        config.topics.requests = format!("{run}-requests");
        config.topics.events = format!("{run}-events");
        config.topics.dead_letters = format!("{run}-dead-letters");
        config.topics.definitions = format!("{run}-definitions");
        config.topics.conversions = format!("{run}-conversions");
        config.topics.partitions = partitions;
        let bench = Self { snapshot: load::snapshot(flags)?, config, flags, run, arms: 0 };
        bench.create_topics().await?;
        Ok(bench)
    }

    async fn create_topics(&self) -> anyhow::Result<()> {
        let topics = &self.config.topics;
        let many = [&topics.requests, &topics.events, &topics.dead_letters, &topics.conversions];
        let tapped = self.tapped();
        let many = many.into_iter().chain([&tapped]).map(|name| (name, topics.partitions));
        let replication = || TopicReplication::Fixed(topics.replication.unwrap_or(1));
        let all = many.chain([(&topics.definitions, 1)]);
        let new: Vec<_> =
            all.map(|(name, partitions)| NewTopic::new(name, partitions, replication())).collect();
        let results = self.admin()?.create_topics(&new, &patient()).await?;
        for result in results {
            result.map_err(|(topic, code)| anyhow::anyhow!("topic {topic}: {code}"))?;
        }
        Ok(())
    }

    /// Deletes the run's topics.
    pub async fn clean_up(&self) {
        let TopicsConfig { requests, events, dead_letters, definitions, conversions, .. } =
            &self.config.topics;
        let tapped = self.tapped();
        let names = [requests, events, dead_letters, definitions, conversions, &tapped].map(String::as_str);
        let deleted = async { anyhow::Ok(self.admin()?.delete_topics(&names, &patient()).await?) };
        if let Err(error) = deleted.await {
            tracing::warn!(%error, ?names, "topics of this run not deleted");
        }
    }

    /// Produces `count` requests and waits for their acknowledgement.
    pub fn produce(&self, count: u64) -> anyhow::Result<()> {
        let producer = self.request_producer(5)?;
        for number in 0..count {
            self.send(&producer, number, 0)?;
        }
        producer.flush(Duration::from_secs(60)).context("requests not delivered")
    }

    pub fn request_producer(
        &self,
        linger_ms: u32,
    ) -> anyhow::Result<ThreadedProducer<DefaultProducerContext>> {
        let mut config = self.client("requests");
        config
            .set("linger.ms", linger_ms.to_string())
            .set("compression.type", "lz4")
            .set("delivery.report.only.error", "true")
            .set("queue.buffering.max.messages", "1000000");
        Ok(config.create()?)
    }

    /// Sends request `number` with `stamp` in it.
    pub fn send(
        &self,
        producer: &ThreadedProducer<DefaultProducerContext>,
        number: u64,
        stamp: u64,
    ) -> anyhow::Result<()> {
        let (key, text) = load::request(number, self.flags, stamp);
        let body = match self.config.formats.requests {
            InputFormat::Avro => {
                let mut body = header(UNREGISTERED_ID).to_vec();
                Kind::Request.plan().from_json(&text, &mut body)?;
                body
            }
            _ => text.into_bytes(),
        };
        let record = BaseRecord::to(&self.config.topics.requests).key(key.as_str()).payload(body.as_slice());
        self.produce_record(producer, record)
    }

    /// Sends a record to a partition of any topic.
    pub fn send_to(
        &self,
        producer: &ThreadedProducer<DefaultProducerContext>,
        topic: &str,
        partition: i32,
        key: &str,
        body: &[u8],
    ) -> anyhow::Result<()> {
        self.produce_record(producer, BaseRecord::to(topic).partition(partition).key(key).payload(body))
    }

    /// Sends a record; waits while the producer's queue is full.
    fn produce_record(
        &self,
        producer: &ThreadedProducer<DefaultProducerContext>,
        mut record: BaseRecord<'_, str, [u8]>,
    ) -> anyhow::Result<()> {
        while let Err((error, again)) = producer.send(record) {
            let full = rdkafka::types::RDKafkaErrorCode::QueueFull;
            ensure!(error.rdkafka_error_code() == Some(full), "request not sent: {error}");
            std::thread::park_timeout(Duration::from_millis(1));
            record = again;
        }
        Ok(())
    }

    /// Starts the workers of one arm in a separate consumer group.
    pub fn start(&mut self, arm: Arm, from: From) -> anyhow::Result<Running> {
        self.arms += 1;
        let mut config = self.config.clone();
        config.delivery.mode = arm.mode;
        config.kafka.group_id = format!("{}-{}", self.run, self.arms);
        if from == From::End {
            self.commit_end(&format!("{}-evaluator", config.kafka.group_id))?;
        }
        let store = Arc::new(Store::default());
        store.replace(self.snapshot.clone());
        let shutdown = Shutdown::new();
        let parts = Parts {
            formats: Formats::unregistered(&config)?,
            config: Arc::new(config),
            store,
            attributes: None,
            metrics: Metrics::new(),
            usage: Arc::new(Usage::default()),
            shutdown: shutdown.clone(),
            health: Reporter::detached(),
        };
        let pipeline = self.pipeline(&parts, arm.what);
        let gate = Gate::new(parts.config.delivery.workers, from == From::Backlog);
        let requests = &self.config.topics.requests;
        let workers = (0..parts.config.delivery.workers).map(|index| match arm.what {
            Loop::Full => {
                spawn(&parts, &pipeline, index, Gated::new(Responder::new(parts.clone()), gate.clone()))
            }
            Loop::Tap(_) => {
                let tap = pipeline.tap.clone().unwrap_or_else(|| Arc::new(self.tap(false)));
                let responder = TapResponder::new(parts.clone(), &pipeline, &tap);
                spawn(&parts, &pipeline, index, Gated::new(responder, gate.clone()))
            }
            Loop::Baseline => {
                let baseline = Baseline::new(&self.snapshot, self.flags, requests);
                spawn(&parts, &pipeline, index, Gated::new(baseline, gate.clone()))
            }
        });
        let workers = workers.collect::<std::io::Result<_>>()?;
        let committed = pipeline.metrics.records.clone();
        Ok(Running { committed, gate, shutdown, workers })
    }

    /// The pipeline of an arm.
    fn pipeline(&self, parts: &Parts, what: Loop) -> Arc<Pipeline> {
        let (config, metrics) = (&parts.config, &parts.metrics);
        Arc::new(match what {
            Loop::Baseline | Loop::Full => Pipeline::requests(config, metrics),
            Loop::Tap(is_audited) => Pipeline::tap(config, &self.tap(is_audited), metrics),
        })
    }

    /// A tap that reads the same texts from its records as requests have, evaluates one flag, and writes a header.
    fn tap(&self, is_audited: bool) -> TapConfig {
        let at = |path: &[&str]| Selector::Value(path.iter().map(|part| (*part).to_owned()).collect());
        let attributes = ["region", "subscription_tier", "app_version"];
        TapConfig {
            name: "bench".to_owned(),
            source: self.config.topics.requests.clone(),
            target: self.tapped(),
            flags: vec![load::flag_name(0)],
            environment: Some(load::ENVIRONMENT.to_owned()),
            format: InputFormat::Json,
            user: Some(at(&["user_id"])),
            session: Some(at(&["session_id"])),
            context: attributes.map(|name| (name.to_owned(), at(&["context", name]))).into(),
            write: TapWrite::Headers,
            audit: if is_audited { TapAudit::All } else { TapAudit::None },
            on_missing_user: OnMissingUser::Evaluate,
            routes: Vec::new(),
        }
    }

    /// Topic that taps write to.
    fn tapped(&self) -> String {
        format!("{}-tapped", self.run)
    }

    /// Commits the end offsets for a group, so that it skips all existing requests.
    fn commit_end(&self, group: &str) -> anyhow::Result<()> {
        let consumer: BaseConsumer = self.client("offsets").set("group.id", group).create()?;
        let topic = &self.config.topics.requests;
        let mut ends = TopicPartitionList::new();
        for partition in 0..self.config.topics.partitions {
            let (_, end) = consumer.fetch_watermarks(topic, partition, DEADLINE)?;
            ends.add_partition_offset(topic, partition, Offset::Offset(end))?;
        }
        Ok(consumer.commit(&ends, CommitMode::Sync)?)
    }

    pub fn client(&self, role: &str) -> ClientConfig {
        client::base(&self.config.kafka, role)
    }

    fn admin(&self) -> anyhow::Result<AdminClient<DefaultClientContext>> {
        Ok(self.client("admin").create()?)
    }
}

impl Running {
    /// Number of requests committed so far.
    pub fn committed(&self) -> u64 {
        self.committed.get()
    }

    pub fn stop(self) {
        self.shutdown.cancel();
        for worker in self.workers {
            let _ = worker.join();
        }
    }
}

fn patient() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(DEADLINE)).operation_timeout(Some(DEADLINE))
}

fn spawn(
    parts: &Parts,
    pipeline: &Arc<Pipeline>,
    index: usize,
    responder: impl Respond + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let progress = Progress::new(&pipeline.source, &parts.config.health, pipeline.metrics.partition_gauges());
    let status = EvaluatorStatus::of(parts, Arc::clone(pipeline), progress);
    let worker = Worker::sharing(parts.clone(), index, &status);
    std::thread::Builder::new().name(format!("bench-{index}")).spawn(move || worker.run_with(responder))
}
