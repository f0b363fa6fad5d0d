//! Spans and log events, decoded as a collector receives them.

use std::process::Command;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value as Kind};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use rdkafka::message::{Header, OwnedHeaders};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::harness::{
    Database, Flag, Flags, Group, Received, Sender, Service, Stack, TEST_TIMEOUT, TopicReader, call, runtime,
    wait_for, wait_until,
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const CONSUMER: i32 = 5;
const PRODUCER: i32 = 4;
const SERVER: i32 = 2;
/// Entries that may wait in a service whose collector is away.
const QUEUE_ENTRIES: usize = 4;

/// A collector for OTLP over HTTP.
struct Collector {
    url: String,
    received: Arc<Inbox>,
    serving: AbortHandle,
}

#[derive(Default)]
struct Inbox {
    /// Answer to each request.
    status: Mutex<StatusCode>,
    spans: Mutex<Vec<Span>>,
    logs: Mutex<Vec<LogRecord>>,
    resources: Mutex<Vec<Resource>>,
}

impl Collector {
    fn start() -> Self {
        let received = Arc::new(Inbox::default());
        let router = Router::new()
            .route("/v1/traces", post(traces))
            .route("/v1/logs", post(logs))
            .with_state(Arc::clone(&received));
        let listener = runtime().block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = runtime().spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, received, serving: serving.abort_handle() }
    }

    fn span(&self, what: &str, wanted: impl Fn(&Span) -> bool) -> Span {
        wait_for(what, TEST_TIMEOUT, || {
            self.received.spans.lock().unwrap().iter().find(|span| wanted(span)).cloned()
        })
    }

    fn log(&self, what: &str, wanted: impl Fn(&LogRecord) -> bool) -> LogRecord {
        wait_for(what, TEST_TIMEOUT, || {
            self.received.logs.lock().unwrap().iter().find(|record| wanted(record)).cloned()
        })
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn traces(State(received): State<Arc<Inbox>>, body: Bytes) -> StatusCode {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let status = *received.status.lock().unwrap();
    if status == StatusCode::OK {
        for group in request.resource_spans {
            received.resources.lock().unwrap().extend(group.resource);
            received
                .spans
                .lock()
                .unwrap()
                .extend(group.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }
    status
}

async fn logs(State(received): State<Arc<Inbox>>, body: Bytes) -> StatusCode {
    let request = ExportLogsServiceRequest::decode(body).unwrap();
    let groups = request.resource_logs.into_iter().flat_map(|group| group.scope_logs);
    received.logs.lock().unwrap().extend(groups.flat_map(|scope| scope.log_records));
    *received.status.lock().unwrap()
}

fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match &found.value {
        Some(AnyValue { value: Some(Kind::StringValue(text)) }) => Some(text.clone()),
        Some(AnyValue { value: Some(Kind::IntValue(number)) }) => Some(number.to_string()),
        other => panic!("{key}: {other:?}"),
    }
}

fn group(stack: &Stack, collector: &Collector) -> Group {
    let group = Group::new(stack)
        .set("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url)
        .set("OTEL_BSP_SCHEDULE_DELAY", "50")
        .set("OTEL_BLRP_SCHEDULE_DELAY", "50")
        .set("OTEL_BSP_MAX_QUEUE_SIZE", QUEUE_ENTRIES.to_string())
        .set("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", QUEUE_ENTRIES.to_string())
        // Of callers' traces, those that are sampled; of others none.
        .set("OTEL_TRACES_SAMPLER", "parentbased_always_off");
    let mut flags = Flags::new(&group.topics);
    flags.set("production", Flag::on("on"));
    group
}

fn ask(group: &Group, user: &str, traceparent: &str, reply_to: &str) -> (i32, i64) {
    let header =
        |headers: OwnedHeaders, key: &str, value: &str| headers.insert(Header { key, value: Some(value) });
    let headers = header(OwnedHeaders::new(), "traceparent", traceparent);
    let headers = header(headers, "reply-to", reply_to);
    let body = json!({"flag_names": ["on", "missing"], "user_id": user, "environment": "production"});
    let sender = Sender::new(&group.topics.kafka);
    sender.send(
        &group.topics.requests,
        None,
        Some(user.as_bytes()),
        body.to_string().as_bytes(),
        Some(headers),
    )
}

fn traceparent(record: &Received) -> String {
    record.header("traceparent").expect("the header traceparent").to_owned()
}

fn names(span: &Span) -> String {
    format!("00-{}-{}-01", hex::encode(&span.trace_id), hex::encode(&span.span_id))
}

#[test]
fn one_trace_runs_from_the_producer_through_the_evaluation_to_event_reply_and_audit_row() {
    let (stack, _shared) = Stack::shared();
    let collector = Collector::start();
    let database = Database::create(stack);
    let group = group(stack, &collector)
        .set("DATABASE_URL", &database.url)
        .set("FLAGSTREAM_FEED__START_WITHOUT_SOURCE", "true");
    let topics = &group.topics;
    let reply_to = topics.reply_topic("traced");
    let _service = group.start("one");
    let mut events = TopicReader::open(&topics.kafka, &topics.events);
    let mut replies = TopicReader::open(&topics.kafka, &reply_to);

    let unsampled = format!("00-{TRACE}-{PARENT}-00");
    let not_traced = ask(&group, "bob", &unsampled, &reply_to);
    let asked = ask(&group, "ann", &format!("00-{TRACE}-{PARENT}-01"), &reply_to);
    let process =
        collector.span("the request's span", |span| span.name == format!("process {}", topics.requests));
    assert_eq!(hex::encode(&process.trace_id), TRACE);
    assert_eq!((hex::encode(&process.parent_span_id), process.kind), (PARENT.to_owned(), CONSUMER));
    assert_eq!(hex::encode(&process.links[0].span_id), PARENT);
    assert_eq!(attribute(&process.attributes, "messaging.kafka.offset"), Some(asked.1.to_string()));
    for (name, count) in [("send events", "2"), ("send reply", "1")] {
        let sent = collector.span(name, |span| span.name == name);
        assert_eq!((sent.kind, &sent.parent_span_id), (PRODUCER, &process.span_id), "{name}");
        assert_eq!(attribute(&sent.attributes, "messaging.batch.message_count").as_deref(), Some(count));
    }

    let event = events.wait("the event", TEST_TIMEOUT, |event| event.source() == (asked.0, asked.1, 0));
    let reply = replies.wait("the reply", TEST_TIMEOUT, |reply| reply.json()["user_id"] == "ann");
    assert_eq!([traceparent(&event), traceparent(&reply)], [names(&process), names(&process)]);
    let other = events
        .wait("the other event", TEST_TIMEOUT, |event| event.source() == (not_traced.0, not_traced.1, 0));
    assert_eq!(traceparent(&other), unsampled, "what is not sampled is passed on");

    let stored = collector.span("the sink's write", |span| span.name == format!("store {}", topics.events));
    assert_eq!((&stored.trace_id, &stored.parent_span_id), (&process.trace_id, &process.span_id));
    assert_eq!((stored.kind, &stored.links[0].span_id), (CONSUMER, &process.span_id));
    assert_eq!(attribute(&stored.attributes, "db.system.name").as_deref(), Some("postgresql"));
    assert_eq!(attribute(&stored.attributes, "messaging.kafka.offset"), Some(event.position.1.to_string()));
    assert!(database.audited() >= 1, "the span is that of a write");

    for (flag, reason, error) in
        [("on", "targeting_match", None), ("missing", "default", Some("flag_not_found"))]
    {
        let log = collector
            .log(flag, |log| attribute(&log.attributes, "feature_flag.key").as_deref() == Some(flag));
        assert_eq!((&log.trace_id, &log.span_id), (&process.trace_id, &process.span_id));
        assert_eq!(log.event_name, "feature_flag.evaluation");
        assert_eq!(attribute(&log.attributes, "feature_flag.result.reason").as_deref(), Some(reason));
        assert_eq!(attribute(&log.attributes, "error.type").as_deref(), error);
        assert_eq!(attribute(&log.attributes, "feature_flag.context.id").as_deref(), Some("ann"));
    }
    assert_eq!(collector.received.logs.lock().unwrap().len(), 2, "those of the sampled request only");
    let resources = collector.received.resources.lock().unwrap();
    assert_eq!(attribute(&resources[0].attributes, "service.name").as_deref(), Some("flagstream"));
}

/// Evaluates a flag through Kafka with the client for Python, within a trace.
const PYTHON: &str = r#"
import sys
from flagstream_client.kafka import SyncKafkaFeatureFlagClient
servers, requests, replies, traceparent = sys.argv[1:]
with SyncKafkaFeatureFlagClient(servers, "production", requests_topic=requests, reply_topic=replies,
                                timeout=30, traceparent=lambda: traceparent) as client:
    client.wait_until_ready(30)
    print(client.evaluate("on", "ann", False).value)
"#;

#[test]
fn a_trace_that_a_python_producer_begins_continues_to_the_reply_that_it_consumes() {
    let (stack, _shared) = Stack::shared();
    let collector = Collector::start();
    let group = group(stack, &collector);
    let topics = &group.topics;
    let reply_to = topics.reply_topic("python");
    let _service = group.start("one");
    let mut replies = TopicReader::open(&topics.kafka, &reply_to);
    let client = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/python/src");
    let output = Command::new("python3")
        .args(["-c", PYTHON, &topics.kafka, &topics.requests, &reply_to, &format!("00-{TRACE}-{PARENT}-01")])
        .env("PYTHONPATH", format!("{}:{client}", stack.python_path))
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(printed.trim(), "True", "{}", String::from_utf8_lossy(&output.stderr));

    let process =
        collector.span("the request's span", |span| span.name == format!("process {}", topics.requests));
    assert_eq!(hex::encode(&process.trace_id), TRACE);
    assert_eq!(hex::encode(&process.parent_span_id), PARENT);
    let sent = collector.span("the reply's span", |span| span.name == "send reply");
    assert_eq!((&sent.trace_id, &sent.parent_span_id), (&process.trace_id, &process.span_id));
    let reply = replies.wait("the reply", TEST_TIMEOUT, |reply| reply.json()["user_id"] == "ann");
    assert_eq!(traceparent(&reply), names(&process));
}

/// Calls the API within a trace of the caller.
fn evaluate(service: &Service, user: &str) {
    let url = format!("{}/api/v1/feature-flags/evaluate", service.url);
    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    let headers = [("content-type", "application/json"), ("traceparent", traceparent.as_str())];
    let body = json!({"flag_name": "on", "user_id": user, "environment": "production"});
    assert_eq!(call("POST", &url, &headers, body.to_string().as_bytes()).status, 200);
}

#[test]
fn a_call_has_a_span_that_its_event_names() {
    let (stack, _shared) = Stack::shared();
    let collector = Collector::start();
    let group = group(stack, &collector);
    let service = group.start("one");
    evaluate(&service, "ann");
    let span = collector.span("the call's span", |span| span.kind == SERVER);
    assert_eq!(span.name, "POST /api/v1/feature-flags/evaluate");
    assert_eq!(
        (hex::encode(&span.trace_id).as_str(), hex::encode(&span.parent_span_id).as_str()),
        (TRACE, PARENT)
    );
    assert_eq!(attribute(&span.attributes, "http.response.status_code").as_deref(), Some("200"));
    let mut events = TopicReader::open(&group.topics.kafka, &group.topics.events);
    let event = events.wait("the event", TEST_TIMEOUT, |event| event.json()["user_id"] == "ann");
    assert_eq!(traceparent(&event), names(&span));
    let log = collector.log("the evaluation", |log| log.event_name == "feature_flag.evaluation");
    assert_eq!((&log.trace_id, &log.span_id), (&span.trace_id, &span.span_id));
}

#[test]
fn what_a_collector_does_not_take_is_dropped_and_counted_and_delays_nothing() {
    let (stack, _shared) = Stack::shared();
    let collector = Collector::start();
    *collector.received.status.lock().unwrap() = StatusCode::BAD_REQUEST;
    let group = group(stack, &collector);
    let service = group.start("one");
    let counted = |what: &str| {
        service.metrics().sum(&format!("flagstream_telemetry_{what}_total"), &[("signal", "spans")])
    };
    wait_until("spans are dropped", TEST_TIMEOUT, || {
        evaluate(&service, "ann");
        counted("dropped") >= 1.0
    });
    *collector.received.status.lock().unwrap() = StatusCode::OK;
    wait_until("spans arrive again", TEST_TIMEOUT, || {
        evaluate(&service, "ann");
        counted("exported") >= 1.0
    });
}
