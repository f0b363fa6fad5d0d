//! The Kafka clients of a worker, and how its consumer is set back.

use std::time::Duration;

use rdkafka::consumer::Consumer;
use rdkafka::producer::Producer;
use rdkafka::{Offset, TopicPartitionList};

use crate::config::DeliveryMode;
use crate::kafka::client;
use crate::kafka::consumer::BatchConsumer;
use crate::kafka::producer::{LINGER_MS, MAX_RECORD_BYTES, ReportingProducer};

use super::Parts;
use super::error::SessionError;
use super::session::{FETCH_RECORDS, STEP};

/// How long a start of transactions may take before it is tried anew: the broker may be away.
const START: Duration = Duration::from_secs(5);

/// A producer that has ended whatever its predecessor left open.
pub fn producer(parts: &Parts, index: usize, careful: bool) -> Result<ReportingProducer, SessionError> {
    let delivery = &parts.config.delivery;
    let name = member_name(parts, index);
    let mut config = client::base(&parts.config.kafka, &parts.config.instance, &format!("evaluator-{index}"));
    client::compress(&mut config, &parts.config.kafka)
        .set("enable.idempotence", "true")
        .set("delivery.report.only.error", "true")
        // Requests go out when they are full, or at the end of a batch, which flushes.
        .set("linger.ms", LINGER_MS)
        .set("message.max.bytes", MAX_RECORD_BYTES.to_string())
        .set("queue.buffering.max.kbytes", "262144")
        .set("queue.buffering.max.messages", "500000");
    if careful {
        config.set("batch.num.messages", "1");
    }
    match delivery.mode {
        DeliveryMode::Transactional => {
            config
                .set("transactional.id", name)
                .set("transaction.timeout.ms", delivery.transaction_timeout.as_millis().to_string());
        }
        DeliveryMode::AtLeastOnce => {
            // A gap ends the producer, so that no result overtakes one that failed.
            config.set("enable.gapless.guarantee", "true");
        }
    }
    let producer =
        ReportingProducer::create(&config, &parts.config.topics.events).map_err(SessionError::Producer)?;
    if delivery.mode == DeliveryMode::Transactional {
        producer.inner().init_transactions(START).map_err(SessionError::Producer)?;
    }
    Ok(producer)
}

/// A static member of the evaluators' group.
pub fn consumer(parts: &Parts, index: usize) -> Result<BatchConsumer, SessionError> {
    let client = format!("evaluator-{index}");
    let mut config = client::member(&parts.config, "evaluator", &client, &member_name(parts, index));
    config.set("fetch.wait.max.ms", "20").set("queued.max.messages.kbytes", "65536");
    BatchConsumer::subscribe(&config, &parts.config.topics.requests, FETCH_RECORDS)
        .map_err(SessionError::Consumer)
}

/// Sets every assigned partition back to its committed offset, or to its start.
pub fn rewind(consumer: &BatchConsumer, topic: &str) -> Result<(), SessionError> {
    consumer.serve().map_err(SessionError::Consumer)?;
    let assigned = consumer.inner().assignment().map_err(SessionError::Consumer)?;
    rewind_these(consumer, topic, assigned)
}

/// The same of some of them.
pub fn rewind_these(
    consumer: &BatchConsumer,
    topic: &str,
    assigned: TopicPartitionList,
) -> Result<(), SessionError> {
    let inner = consumer.inner();
    let committed = inner.committed_offsets(assigned, STEP).map_err(SessionError::Consumer)?;
    let mut targets = TopicPartitionList::new();
    for element in committed.elements_for_topic(topic) {
        // Without an answer there is no offset either, and that is not the start of the partition.
        element.error().map_err(SessionError::Consumer)?;
        let offset = match element.offset() {
            Offset::Offset(offset) => Offset::Offset(offset),
            _ => Offset::Beginning,
        };
        targets.add_partition_offset(topic, element.partition(), offset).map_err(SessionError::Consumer)?;
    }
    seek(consumer, targets)
}

/// Sets partitions to these offsets: the next fetch begins there.
pub fn seek(consumer: &BatchConsumer, targets: TopicPartitionList) -> Result<(), SessionError> {
    if targets.count() > 0 {
        let sought = consumer.inner().seek_partitions(targets, STEP).map_err(SessionError::Consumer)?;
        for element in sought.elements() {
            element.error().map_err(SessionError::Consumer)?;
            if let Offset::Offset(next) = element.offset() {
                consumer.reading().starts_at(element.partition(), next);
            }
        }
    }
    Ok(())
}

/// Stable over restarts and different for every worker of every instance: a new life fences the old one.
fn member_name(parts: &Parts, index: usize) -> String {
    format!("{}-evaluator-{}-{index}", parts.config.kafka.group_id, parts.config.instance)
}
