//! The pipeline of a worker: topics, names and metrics of the request pipeline or of a tap.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use crate::config::{Config, TapConfig};
use crate::metrics::{
    BatchLabels, Metrics, PartitionGauges, PartitionLabels, Seconds, TapBatchLabels, TapLabels,
    TapOutputLabels, TapPartitionLabels, TapPassedLabels,
};

/// The topics and names of one pipeline.
#[derive(Debug)]
pub struct Pipeline {
    /// The tap; `None`: the request pipeline.
    pub tap: Option<Arc<TapConfig>>,
    /// Topic that is read.
    pub source: String,
    /// Topics with results in the partition of their source record, so each needs the source's partitions.
    pub outputs: Vec<String>,
    /// Topic of events. In the request pipeline it is the only one of `outputs`.
    pub events: String,
    pub dead_letters: String,
    pub metrics: PipelineMetrics,
    /// Number of partitions of the events topic, for a tap.
    events_partitions: AtomicI32,
    group_prefix: String,
    instance: String,
}

/// The metrics of one pipeline. Those of taps have the tap's name as a label.
#[derive(Debug)]
pub struct PipelineMetrics {
    /// Records processed.
    pub records: Counter,
    /// Number of times the source was found deleted and created again.
    pub recreated: Counter,
    pub batch: Seconds,
    pub commit: Seconds,
    /// Duration of processing one record, averaged over its batch.
    pub record: Seconds,
    pub latency: Seconds,
    /// Assigned partitions.
    pub partitions: Gauge,
    /// Paused partitions.
    pub waiting: Gauge,
    all: Arc<Metrics>,
    tap: Option<Arc<str>>,
}

impl Pipeline {
    /// The request pipeline.
    pub fn requests(config: &Config, metrics: &Arc<Metrics>) -> Self {
        let topics = &config.topics;
        let (source, outputs) = (topics.requests.clone(), vec![topics.events.clone()]);
        Self::new(config, None, source, outputs, PipelineMetrics::of_requests(metrics))
    }

    pub fn tap(config: &Config, tap: &TapConfig, metrics: &Arc<Metrics>) -> Self {
        let outputs = tap.outputs().into_iter().map(str::to_owned).collect();
        let metrics = PipelineMetrics::of_tap(metrics, tap.name.as_str().into());
        Self::new(config, Some(Arc::new(tap.clone())), tap.source.clone(), outputs, metrics)
    }

    fn new(
        config: &Config,
        tap: Option<Arc<TapConfig>>,
        source: String,
        outputs: Vec<String>,
        metrics: PipelineMetrics,
    ) -> Self {
        Self {
            tap,
            source,
            outputs,
            events: config.topics.events.clone(),
            dead_letters: config.topics.dead_letters.clone(),
            metrics,
            events_partitions: AtomicI32::new(config.topics.partitions),
            group_prefix: config.kafka.group_id.clone(),
            instance: config.instance.clone(),
        }
    }

    /// Part of the names of the consumer group and the clients.
    pub fn role(&self) -> String {
        match &self.tap {
            Some(tap) => format!("tap-{}", tap.name),
            None => "evaluator".to_owned(),
        }
    }

    /// Name of a worker's producer and consumer: stable over restarts and unique per pipeline, worker and instance, so
    /// that a restarted worker fences its predecessor.
    pub fn member_name(&self, index: usize) -> String {
        let (prefix, instance) = (&self.group_prefix, &self.instance);
        match &self.tap {
            // Names of taps have no dot, so the first dot ends the name whatever the instance is called.
            Some(tap) => format!("{prefix}-tap-{}.{instance}-{index}", tap.name),
            None => format!("{prefix}-evaluator-{instance}-{index}"),
        }
    }

    /// The transactional ids of a worker's two producers. No member name ends like the second one, so it is unique too.
    pub fn transactional_ids(&self, index: usize) -> [String; 2] {
        let name = self.member_name(index);
        let second = format!("{name}.second");
        [name, second]
    }

    /// Text that identifies the source in the ids of events. Two taps of one topic have different ids.
    pub fn identity(&self) -> String {
        match &self.tap {
            Some(tap) => format!("{}/{}", tap.name, self.source),
            None => self.source.clone(),
        }
    }

    /// Label of the evaluations.
    pub fn path(&self) -> &'static str {
        if self.tap.is_some() { "tap" } else { "stream" }
    }

    /// The topics that the producer has a handle for: the outputs and the events topic.
    pub fn lanes(&self) -> impl Iterator<Item = &str> {
        let events = self.tap.is_some().then_some(&self.events);
        self.outputs.iter().chain(events).map(String::as_str)
    }

    /// Index of the events topic in [`lanes`](Self::lanes).
    pub fn events_lane(&self) -> usize {
        if self.tap.is_some() { self.outputs.len() } else { 0 }
    }

    /// Sets the number of partitions of the events topic. Until then it is the configured one.
    pub fn set_events_partitions(&self, count: i32) {
        self.events_partitions.store(count, Ordering::Relaxed);
    }

    /// Partition of the events of a record. The source of a tap may have any number of partitions, so its partitions are
    /// distributed: all events of a source partition are in one partition, in the order of its records, as readers of
    /// events expect it.
    pub fn events_partition(&self, partition: i32) -> i32 {
        match self.tap {
            Some(_) => partition % self.events_partitions.load(Ordering::Relaxed).max(1),
            None => partition,
        }
    }

    /// Whether records can ask for a reply.
    pub fn has_replies(&self) -> bool {
        self.tap.is_none()
    }
}

impl PipelineMetrics {
    fn of_requests(metrics: &Arc<Metrics>) -> Self {
        let evaluate = &metrics.evaluate;
        Self {
            records: metrics.requests.clone(),
            recreated: metrics.requests_topic_recreated.clone(),
            batch: evaluate.batch.clone(),
            commit: evaluate.commit.clone(),
            record: evaluate.evaluation.clone(),
            latency: evaluate.latency.clone(),
            partitions: evaluate.partitions.clone(),
            waiting: evaluate.waiting.clone(),
            all: Arc::clone(metrics),
            tap: None,
        }
    }

    fn of_tap(metrics: &Arc<Metrics>, tap: Arc<str>) -> Self {
        let (taps, labels) = (&metrics.taps, TapLabels { tap: Arc::clone(&tap) });
        Self {
            records: taps.records.get_or_create(&labels).clone(),
            recreated: taps.recreated.get_or_create(&labels).clone(),
            batch: taps.batch.get_or_create(&labels).clone().into(),
            commit: taps.commit.get_or_create(&labels).clone().into(),
            record: taps.record.get_or_create(&labels).clone().into(),
            latency: taps.latency.get_or_create(&labels).clone().into(),
            partitions: taps.partitions.get_or_create(&labels).clone(),
            waiting: taps.waiting.get_or_create(&labels).clone(),
            all: Arc::clone(metrics),
            tap: Some(tap),
        }
    }

    /// The gauges of the source's partitions.
    pub fn partition_gauges(&self) -> PartitionGauges {
        match &self.tap {
            Some(tap) => self.all.taps.partition_gauges(tap),
            None => self.all.evaluate.partition_gauges(),
        }
    }

    /// Counts a batch that ended.
    pub fn batch_ended(&self, outcome: &'static str) {
        match &self.tap {
            Some(tap) => {
                let labels = TapBatchLabels { tap: Arc::clone(tap), outcome };
                self.all.taps.batches.get_or_create(&labels).inc();
            }
            None => {
                self.all.evaluate.batches.get_or_create(&BatchLabels { outcome }).inc();
            }
        }
    }

    /// Counts records that Kafka deleted before they were read.
    pub fn expired(&self, partition: i32, count: u64) {
        self.of_partition(&self.all.requests_expired, &self.all.taps.expired, partition, count);
    }

    /// Counts records that existed when a partition without a committed offset was first read.
    pub fn without_offset(&self, partition: i32, count: u64) {
        let (requests, taps) = (&self.all.requests_without_offset, &self.all.taps.without_offset);
        self.of_partition(requests, taps, partition, count);
    }

    /// Counts records that a tap wrote to `topic`.
    pub fn forwarded(&self, topic: &str, count: u64) {
        if let Some(tap) = self.tap.as_ref().filter(|_| count > 0) {
            let labels = TapOutputLabels { tap: Arc::clone(tap), topic: topic.into() };
            self.all.taps.forwarded.get_or_create(&labels).inc_by(count);
        }
    }

    /// Counts records that a tap forwarded without flags.
    pub fn passed(&self, reason: &'static str, count: u64) {
        if let Some(tap) = self.tap.as_ref().filter(|_| count > 0) {
            let labels = TapPassedLabels { tap: Arc::clone(tap), reason };
            self.all.taps.passed.get_or_create(&labels).inc_by(count);
        }
    }

    fn of_partition(
        &self,
        requests: &PartitionCounters,
        taps: &TapPartitionCounters,
        partition: i32,
        count: u64,
    ) {
        match &self.tap {
            Some(tap) => {
                let labels = TapPartitionLabels { tap: Arc::clone(tap), partition };
                taps.get_or_create(&labels).inc_by(count);
            }
            None => {
                requests.get_or_create(&PartitionLabels { partition }).inc_by(count);
            }
        }
    }
}

type PartitionCounters = prometheus_client::metrics::family::Family<PartitionLabels, Counter>;
type TapPartitionCounters = prometheus_client::metrics::family::Family<TapPartitionLabels, Counter>;
