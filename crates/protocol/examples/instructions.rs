//! Runs one scenario of the evaluation core a number of times. `scripts/instructions` counts the instructions.
//!
//! ```console
//! $ cargo run --release -p flagstream-protocol --example instructions -- request 1000
//! ```
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::Arc;

use flagstream_evaluation::value::Lookup;
use flagstream_evaluation::{CompiledFlag, FlagChange, Moment, Snapshot, answer};
use flagstream_protocol::event::{EventFrame, EventSource, Timestamp, write_event};
use flagstream_protocol::request::Request;

const ENVIRONMENT: &str = "production";
const FLAGS: usize = 1_000;
const MOMENT: Moment<'static> =
    Moment { now: "2026-01-15T10:30:00Z", hostname: "host", app_name: "flagstream" };

/// A step of a request, with those that it needs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scenario {
    /// Reads a request.
    Decode,
    /// Also evaluates its flag among 1,000 flags, and converts the value.
    Evaluate,
    /// Also writes the event.
    Request,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let scenario = match arguments.next().as_deref() {
        Some("decode") => Scenario::Decode,
        Some("evaluate") => Scenario::Evaluate,
        Some("request") => Scenario::Request,
        _ => return usage(),
    };
    let Some(count) = arguments.next().and_then(|count| count.parse::<usize>().ok()) else { return usage() };
    let flags = (0..FLAGS).map(|number| FlagChange::Set(Arc::new(flag(number))));
    let snapshot = Snapshot::default().with(flags);
    let requests: Vec<String> = (0..FLAGS).map(request).collect();
    let mut written = Vec::with_capacity(1 << 12);
    for number in 0..count {
        written.clear();
        // A prime step, so that every part of the requests is visited in any order.
        run(scenario, &snapshot, &requests[number * 379 % FLAGS], &mut written);
        black_box(&written);
    }
}

#[allow(clippy::print_stderr)]
fn usage() {
    eprintln!("expected: decode | evaluate | request, and the number of repetitions");
    std::process::exit(2);
}

fn run(scenario: Scenario, snapshot: &Snapshot, body: &str, written: &mut Vec<u8>) {
    let request = black_box(Request::decode(body.as_bytes()).unwrap());
    if scenario == Scenario::Decode {
        return;
    }
    let ask = request.asks.as_slice().first().unwrap();
    let flags = snapshot.environment(ENVIRONMENT).unwrap();
    let lookup = flags.evaluate(&ask.flag, &request.context, &MOMENT).map_or(Lookup::NotFound, Lookup::Found);
    let answer = black_box(answer(&ask.flag, lookup, ask.value_type, ask.default.as_ref()));
    if scenario == Scenario::Evaluate {
        return;
    }
    let frame = EventFrame {
        event_id: "019bc0e7-8ab0-8000-8000-000000000000",
        request_id: request.request_id.as_deref(),
        user_id: request.context.user_id.as_deref(),
        session_id: request.context.session_id.as_deref(),
        environment: ENVIRONMENT,
        context: &request.context_json,
        attributes: None,
        evaluated_at: Timestamp { text: "2026-01-15T10:30:00.012345Z", micros: 1_768_473_000_012_345 },
        flags_version: snapshot.version(),
        value_type: Some(ask.value_type),
        evaluation_ns: None,
        source: EventSource::Kafka {
            topic: "feature-flag-evaluation-requests",
            topic_id: Some("AAAAAAAAAAAAAAAAAAAAAQ"),
            partition: 0,
            offset: 500_000,
            index: 0,
            tap: None,
        },
    };
    write_event(written, &frame, ask, &answer);
}

/// Flag `number`. One of three has two constraints and a rollout to half of the users, one has two variants, and one has a
/// plain rollout.
fn flag(number: usize) -> CompiledFlag {
    let rollout = |share: u32, constraints: &str| {
        format!(
            r#"{{"name":"flexibleRollout","constraints":[{constraints}],
            "parameters":{{"rollout":"{share}","stickiness":"default","groupId":"flag-{number}"}}}}"#
        )
    };
    let targeted = r#"{"contextName":"region","operator":"IN","values":["us-west","us-east"]},
        {"contextName":"subscription_tier","operator":"NOT_IN","values":["free"]}"#;
    let (strategy, variants) = match number % 3 {
        0 => (rollout(50, targeted), ""),
        1 => (
            rollout(100, ""),
            r#"{"name":"light","weight":500,"stickiness":"default","payload":{"type":"string","value":"light"}},
            {"name":"dark","weight":500,"stickiness":"default","payload":{"type":"string","value":"dark"}}"#,
        ),
        _ => (rollout(25, ""), ""),
    };
    let definition = format!(
        r#"{{"name":"flag-{number}","type":"release","enabled":true,"strategies":[{strategy}],"variants":[{variants}]}}"#
    );
    CompiledFlag::compile(ENVIRONMENT, 1, &definition).unwrap()
}

fn request(number: usize) -> String {
    let region = ["us-west", "us-east", "eu-central", "ap-south"][number % 4];
    let tier = ["free", "premium", "enterprise"][number % 3];
    let default = if number % 3 == 1 { "\"auto\"" } else { "false" };
    format!(
        "{{\"request_id\":\"{number:020}\",\"flag_name\":\"flag-{number}\",\"user_id\":\"user-{number}\",\
         \"session_id\":\"s-{number}\",\"context\":{{\"region\":\"{region}\",\"subscription_tier\":\"{tier}\",\
         \"app_version\":\"4.2.1\"}},\"default_value\":{default},\"environment\":\"{ENVIRONMENT}\"}}"
    )
}
