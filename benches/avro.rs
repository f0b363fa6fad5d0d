//! One event, written as JSON and as Avro, by us and by the library; one request, read from either.
//!
//! `cargo bench --bench avro`.
#![allow(clippy::unwrap_used, missing_debug_implementations)]

use std::hint::black_box;

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use criterion::{Criterion, criterion_group, criterion_main};
use flagstream::flag::{Answer, Reason, Value};
use flagstream::message::avro::{Kind, event};
use flagstream::message::event::{EventFrame, EventSource, Timestamp, write_event};
use flagstream::message::request::{MAX_REQUEST_BYTES, Request};

const REQUEST: &str = r#"{"request_id":"r-1","flag_name":"theme-variant","user_id":"user-456","session_id":"s-9","context":{"region":"us-west","subscription_tier":"premium"},"default_value":"light","environment":"production"}"#;

fn events(criterion: &mut Criterion) {
    let request = Request::decode(REQUEST.as_bytes()).unwrap();
    let ask = request.asks.as_slice().first().unwrap();
    let frame = EventFrame {
        event_id: "019bc134-7845-8002-896e-300000018330",
        request_id: request.request_id.as_deref(),
        user_id: request.context.user_id.as_deref(),
        session_id: request.context.session_id.as_deref(),
        environment: "production",
        context: &request.context_json,
        attributes: None,
        evaluated_at: Timestamp { text: "2026-01-15T10:30:00.012345Z", micros: 1_768_473_000_012_345 },
        flags_version: 1_768_473_061_007,
        value_type: Some(ask.value_type),
        evaluation_ns: None,
        source: EventSource::Kafka {
            topic_id: None,
            topic: "feature-flag-evaluation-requests",
            partition: 3,
            offset: 99_120,
            index: 0,
            tap: None,
        },
    };
    let answer = Answer {
        value: Value::String("dark".into()),
        enabled: true,
        variant: Some("dark"),
        reason: Reason::TargetingMatch,
        error_code: None,
        error_message: None,
        flag_version: Some(1_768_473_000_123),
        assignment: None,
    };
    let mut out = Vec::with_capacity(1024);
    criterion.bench_function("event/json", |bencher| {
        bencher.iter(|| {
            out.clear();
            write_event(&mut out, black_box(&frame), ask, black_box(&answer));
            out.len()
        });
    });
    let json = String::from_utf8(out.clone()).unwrap();
    criterion.bench_function("event/avro", |bencher| {
        bencher.iter(|| {
            out.clear();
            event::write_event(&mut out, black_box(&frame), ask, black_box(&answer));
            out.len()
        });
    });
    println!("bytes: {} as JSON, {} as Avro", json.len(), out.len());
    let value = GenericDatumReader::builder(Kind::Evaluated.schema())
        .build()
        .unwrap()
        .read_value(&mut out.as_slice())
        .unwrap();
    let writer = GenericDatumWriter::builder(Kind::Evaluated.schema()).build().unwrap();
    criterion.bench_function("event/avro by apache-avro, its value made already", |bencher| {
        bencher.iter_batched(
            || value.clone(),
            |value| writer.write_value_to_vec(value).unwrap().len(),
            criterion::BatchSize::SmallInput,
        );
    });
    criterion.bench_function("event/avro from its JSON", |bencher| {
        bencher.iter(|| {
            out.clear();
            Kind::Evaluated.plan().from_json(black_box(&json), &mut out).unwrap();
            out.len()
        });
    });
}

fn requests(criterion: &mut Criterion) {
    let mut message = Vec::new();
    Kind::Request.plan().from_json(REQUEST, &mut message).unwrap();
    let mut text = Vec::new();
    criterion.bench_function("request/json", |bencher| {
        bencher.iter(|| Request::decode(black_box(REQUEST.as_bytes())).unwrap().context_json.len());
    });
    criterion.bench_function("request/avro", |bencher| {
        bencher.iter(|| {
            text.clear();
            Kind::Request.plan().to_json(black_box(&message), &mut text, MAX_REQUEST_BYTES).unwrap();
            Request::decode(&text).unwrap().context_json.len()
        });
    });
    criterion.bench_function("request/avro by apache-avro, as its value", |bencher| {
        let reader = GenericDatumReader::builder(Kind::Request.schema()).build().unwrap();
        bencher.iter(|| reader.read_value(&mut black_box(&message).as_slice()).unwrap());
    });
}

criterion_group!(benches, events, requests);
criterion_main!(benches);
