//! The Kafka clients of a worker, and seeking its consumer back to committed offsets.

use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaResult;
use rdkafka::producer::Producer;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::config::DeliveryMode;
use crate::kafka::client;
use crate::kafka::partition_consumer::PartitionConsumer;
use crate::kafka::producer::{LINGER_MS, MAX_RECORD_BYTES, TrackedProducer};
use crate::kafka::statistics;
use crate::shutdown::Shutdown;

use super::Parts;
use super::error::{SessionError, is_timeout};
use super::pipeline::Pipeline;
use super::session::{Producers, STEP_TIMEOUT};

/// Timeout of one attempt to initialize transactions. The worker retries, because the broker may be unreachable.
const START: Duration = Duration::from_secs(5);
/// Length of a slice of a wait for a transactional call, and the shortest one of an initialization.
const SLICE: Duration = Duration::from_millis(500);
const MIN_SLICE: Duration = Duration::from_millis(100);
/// Longest time that the broker keeps a fetch waiting for records. A partition that was paused or full, and so is not part of
/// the fetch, waits as long.
const RECORDS_WAIT: Duration = Duration::from_millis(50);
/// A partition of which so many KiB wait is not fetched. A fetch adds up to 2 MiB (`fetch.message.max.bytes`).
const QUEUED_KIB: usize = 2_048;
/// A partition of which so many records wait is not fetched.
const QUEUED_RECORDS: usize = 16_384;

/// Creates the worker's producers. In transactional mode this aborts the transactions that previous producers of the same
/// names left open. `isolate_records` sends each record in a produce request of its own.
pub fn producers(
    parts: &Parts,
    pipeline: &Pipeline,
    index: usize,
    isolate_records: bool,
) -> Result<Producers, SessionError> {
    let role = format!("{}-{index}", pipeline.role());
    let mut config = results_config(parts, &role, isolate_records);
    if parts.config.delivery.mode == DeliveryMode::AtLeastOnce {
        // After a lost record the producer fails, so that no later result overtakes it.
        config.set("enable.gapless.guarantee", "true");
        let first = create_producer(&config, pipeline)?;
        return Ok(Producers { first, second: None });
    }
    let timeout_ms = parts.config.delivery.transaction_timeout.as_millis().to_string();
    // The coordinator may still be ending the last transaction when the offsets of a short batch are added to the next
    // one. It answers with a retriable error then, and the default delay is longer than most batches.
    config.set("retry.backoff.ms", "10").set("transaction.timeout.ms", timeout_ms);
    let [first, second] = pipeline.transactional_ids(index);
    let transactional = |id| {
        let mut config = config.clone();
        let producer = create_producer(config.set("transactional.id", id), pipeline)?;
        init_transactions(&producer, &parts.shutdown).map_err(SessionError::Producer)?;
        Ok::<_, SessionError>(producer)
    };
    Ok(Producers { first: transactional(first)?, second: Some(transactional(second)?) })
}

/// Aborts the transaction that a previous producer of the same name left open.
fn init_transactions(producer: &TrackedProducer, shutdown: &Shutdown) -> KafkaResult<()> {
    let deadline = Instant::now() + START;
    in_slices(
        |slice| producer.inner().init_transactions(slice.max(MIN_SLICE)),
        || match shutdown.is_cancelled() {
            true => Duration::ZERO,
            false => deadline.saturating_duration_since(Instant::now()),
        },
    )
}

/// Waits for a transactional call in slices, as long as there is time `left`, so that a shutdown is noticed. librdkafka
/// resumes a call that is repeated after a timeout.
pub fn in_slices(
    mut call: impl FnMut(Duration) -> KafkaResult<()>,
    mut left: impl FnMut() -> Duration,
) -> KafkaResult<()> {
    loop {
        let time = left();
        match call(time.min(SLICE)) {
            Err(error) if is_timeout(&error) && time > SLICE => {}
            ended => return ended,
        }
    }
}

/// The configuration of the producers of results in both modes.
fn results_config(parts: &Parts, role: &str, isolate_records: bool) -> ClientConfig {
    let mut config = client::base(&parts.config.kafka, role);
    statistics::enable(&mut config, role);
    client::compress(&mut config, &parts.config.kafka)
        .set("enable.idempotence", "true")
        .set("delivery.report.only.error", "true")
        // A produce request is sent when it is full, or at the end of a batch, which flushes.
        .set("linger.ms", LINGER_MS)
        .set("message.max.bytes", MAX_RECORD_BYTES.to_string())
        .set("queue.buffering.max.kbytes", "262144")
        .set("queue.buffering.max.messages", "500000");
    if isolate_records {
        config.set("batch.num.messages", "1");
    }
    config
}

fn create_producer(config: &ClientConfig, pipeline: &Pipeline) -> Result<TrackedProducer, SessionError> {
    TrackedProducer::create_for(config, pipeline.lanes()).map_err(SessionError::Producer)
}

/// Creates the worker's consumer, a static member of the pipeline's group.
pub fn consumer(parts: &Parts, pipeline: &Pipeline, index: usize) -> Result<PartitionConsumer, SessionError> {
    let role = pipeline.role();
    let client = format!("{role}-{index}");
    let mut config = client::member(
        &parts.config.kafka,
        parts.config.membership(),
        &role,
        &client,
        &pipeline.member_name(index),
    );
    client::wait_for_records(&mut config, &parts.config.kafka, RECORDS_WAIT)
        .set("queued.max.messages.kbytes", QUEUED_KIB.to_string())
        .set("queued.min.messages", QUEUED_RECORDS.to_string());
    PartitionConsumer::subscribe(&config, &pipeline.source).map_err(SessionError::Consumer)
}

/// Seeks every assigned partition back to its committed offset, or to its start if nothing is committed.
pub fn rewind(consumer: &mut PartitionConsumer, topic: &str) -> Result<(), SessionError> {
    consumer.serve().map_err(SessionError::Consumer)?;
    let assigned = consumer.inner().assignment().map_err(SessionError::Consumer)?;
    rewind_these(consumer, topic, assigned)
}

/// Seeks the given partitions back to their committed offsets, or to their start if nothing is committed.
pub fn rewind_these(
    consumer: &mut PartitionConsumer,
    topic: &str,
    assigned: TopicPartitionList,
) -> Result<(), SessionError> {
    let inner = consumer.inner();
    let committed = inner.committed_offsets(assigned, STEP_TIMEOUT).map_err(SessionError::Consumer)?;
    let mut targets = TopicPartitionList::new();
    for element in committed.elements_for_topic(topic) {
        // A failed lookup carries no offset either. It must not be mistaken for a partition without a committed offset.
        element.error().map_err(SessionError::Consumer)?;
        let offset = match element.offset() {
            Offset::Offset(offset) => Offset::Offset(offset),
            _ => Offset::Beginning,
        };
        targets.add_partition_offset(topic, element.partition(), offset).map_err(SessionError::Consumer)?;
    }
    seek(consumer, targets)
}

/// Seeks partitions to the given offsets, where the next fetch starts. Records that were taken already are discarded.
pub fn seek(consumer: &mut PartitionConsumer, targets: TopicPartitionList) -> Result<(), SessionError> {
    if targets.count() > 0 {
        let sought =
            consumer.inner().seek_partitions(targets, STEP_TIMEOUT).map_err(SessionError::Consumer)?;
        for element in sought.elements() {
            element.error().map_err(SessionError::Consumer)?;
            consumer.discard(element.partition());
            if let Offset::Offset(next) = element.offset() {
                consumer.reading().starts_at(element.partition(), next);
            }
        }
    }
    Ok(())
}
