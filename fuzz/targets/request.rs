//! Any bytes as a request: a refusal that names what is wrong, or events that are JSON. Never a panic.
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use flagstream::flag::value::{Lookup, answer};
use flagstream::flag::{CompiledFlag, FlagChange, Moment, Snapshot};
use flagstream::message::event::{EventFrame, EventSource, Timestamp, write_event};
use flagstream::message::request::Request;
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

const ENVIRONMENT: &str = "development";
const NOW: &str = "2026-01-15T10:30:00Z";
const FLAGS: [&str; 2] = [
    r#"{"name":"on","enabled":true,"strategies":[{"name":"default","parameters":{}}],"variants":[]}"#,
    r#"{"name":"theme","enabled":true,"strategies":[{"name":"flexibleRollout",
        "parameters":{"rollout":"50","stickiness":"userId","groupId":"g"},
        "constraints":[{"contextName":"region","operator":"STR_CONTAINS","values":["we"]}]}],
        "variants":[{"name":"a","weight":1000,"payload":{"type":"json","value":"{\"value\":5}"}}]}"#,
];

static SNAPSHOT: LazyLock<Snapshot> = LazyLock::new(|| {
    let compile = |json: &&str| CompiledFlag::compile(ENVIRONMENT, 1, json).expect("a good definition");
    Snapshot::default().with(FLAGS.iter().map(compile).map(|flag| FlagChange::Set(flag.into())))
});

fuzz_target!(|body: &[u8]| {
    let request = match Request::decode(body) {
        Ok(request) => request,
        Err(refusal) => return assert!(!refusal.message.is_empty()),
    };
    let flags = SNAPSHOT.environment(ENVIRONMENT).expect("served");
    let moment = Moment { now: NOW, hostname: "h", app_name: "fuzz" };
    for ask in request.asks.as_slice() {
        let outcome = flags.evaluate(&ask.flag, &request.context, &moment);
        let lookup = outcome.map_or(Lookup::NotFound, Lookup::Found);
        let answer = answer(&ask.flag, lookup, ask.value_type, ask.default.as_ref());
        let frame = EventFrame {
            event_id: "e",
            request_id: request.request_id.as_deref(),
            user_id: request.context.user_id.as_deref(),
            session_id: request.context.session_id.as_deref(),
            environment: ENVIRONMENT,
            context: &request.context_json,
        attributes: None,
            evaluation_ns: None,
            evaluated_at: Timestamp { text: NOW, micros: 0 },
            source: EventSource::Kafka { topic: "requests", topic_id: None, partition: 0, offset: 0, index: 0 },
        };
        let mut event = Vec::new();
        write_event(&mut event, &frame, ask, &answer);
        // Echoed numbers may be larger than any float: they are read as they stand.
        let event: BTreeMap<&str, &RawValue> = serde_json::from_slice(&event).expect("an event is JSON");
        let name: String = serde_json::from_str(event["flag_name"].get()).expect("a string");
        assert_eq!(name, *ask.flag);
    }
});
