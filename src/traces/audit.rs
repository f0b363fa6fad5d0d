//! The spans of the sink: the writing of a batch's records, in the traces that the records belong to.

use std::collections::HashSet;
use std::time::SystemTime;

use opentelemetry::KeyValue;
use opentelemetry::trace::{Link, Span as _, SpanContext, SpanKind, Tracer as _};

use super::subjects::{WrittenBatch, WrittenRecord};
use super::{ACTIVE, beneath, remote};
use crate::message::trace::Traceparent;

/// Spans of one batch. Further traces of the batch get none, so that a batch does not fill the queue of spans.
const MAX_SPANS: usize = 128;

/// Adds a span to each sampled trace among the records. The iterator is not advanced while nothing is collected.
pub fn written<'a>(batch: &WrittenBatch<'_>, records: impl Iterator<Item = WrittenRecord<'a>>) {
    let Some(active) = ACTIVE.get() else { return };
    let ended = SystemTime::now();
    let begun = ended.checked_sub(batch.took).unwrap_or(ended);
    let name = format!("store {}", batch.topic);
    for (record, parent) in first_of_each(records) {
        let span = active.tracer.span_builder(name.clone()).with_kind(SpanKind::Consumer);
        let span = span.with_start_time(begun).with_links(vec![Link::with_context(parent.clone())]);
        let span = span.with_attributes([
            KeyValue::new("messaging.system", "kafka"),
            KeyValue::new("messaging.operation.name", "store"),
            KeyValue::new("messaging.operation.type", "process"),
            KeyValue::new("messaging.destination.name", batch.topic.to_owned()),
            KeyValue::new("messaging.destination.partition.id", record.partition.to_string()),
            KeyValue::new("messaging.kafka.offset", record.offset),
            KeyValue::new("messaging.batch.message_count", i64::try_from(batch.records).unwrap_or(i64::MAX)),
            KeyValue::new("db.system.name", batch.database),
        ]);
        span.start_with_context(&active.tracer, &beneath(Some(&parent))).end_with_timestamp(ended);
    }
}

/// The first record of each sampled span, with that span; at most [`MAX_SPANS`] of them.
pub(super) fn first_of_each<'a>(
    records: impl Iterator<Item = WrittenRecord<'a>>,
) -> impl Iterator<Item = (WrittenRecord<'a>, SpanContext)> {
    let mut seen = HashSet::new();
    let sampled = records.filter_map(|record| {
        let parent = remote(&Traceparent::parse(record.traceparent)?)?;
        parent.is_sampled().then_some((record, parent))
    });
    sampled.filter(move |(record, _)| seen.insert(record.traceparent)).take(MAX_SPANS)
}
