//! `flagstream taps check`: what it finds, and what it prints for a sample.

use rdkafka::message::OwnedHeaders;
use serde_json::{Value, json};

use crate::harness::{Stack, flagstream};

use super::{Fixture, SELECTORS, headers};

fn check(fixture: &Fixture, arguments: &[&str]) -> (Option<i32>, String, String) {
    let all: Vec<&str> = ["taps", "check"].iter().chain(arguments).copied().collect();
    let output = flagstream(fixture.group.folder.path(), &all, fixture.group.settings());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&fixture.group.topics.prefix, "@");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn what_would_be_written_is_printed() {
    let (stack, _shared) = Stack::shared();
    let settings = format!(
        "{SELECTORS}\nroute = {{ new-pricing = {{ on = \"@-canary\" }}, checkout = {{ blue = \"@-stable\" }} }}"
    );
    let fixture = Fixture::new(stack, &settings);
    let (code, text, error) = check(&fixture, &[]);
    assert_eq!((code, error.as_str()), (Some(0), ""), "{text}");
    assert!(text.ends_with("  the source has no records\n"), "{text}");
    fixture.send(0, "old", "{}", OwnedHeaders::new());
    fixture.send(0, "k-1", r#"{"customer":{"id":"c-7","plan":"gold"}}"#, headers(&[("country", b"DE")]));
    fixture.send(0, "k-2", "order", OwnedHeaders::new());
    fixture.sender.send(&fixture.source, Some(0), Some(b"k-3"), b"{}", None);
    let (code, text, error) = check(&fixture, &["orders"]);
    assert_eq!((code, error.as_str()), (Some(0), ""), "{text}");
    let expected = "tap orders: @-orders to @-flagged
  its topics exist and have the same number of partitions
  note: route.checkout.blue: the flag has no variant of this name
  record 0/1, key k-1: user c-7, context {\"country\":\"DE\",\"plan\":\"gold\"}
    header flag-new-pricing: true
    header flag-checkout: crimson
    to @-canary
  record 0/2, key k-2: dead letter NOT_JSON: value: expected a value at byte 0
  record 0/3, key k-3: user none, context {}
    header flag-new-pricing: false
    header flag-checkout: false
    to @-flagged
";
    assert_eq!(text, expected);
    let (code, text, _) = check(&fixture, &["--output", "json", "--sample", "1"]);
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((code, &lines[0]["problems"], &lines[1]["outcome"]), (Some(0), &json!([]), &json!("written")));
    assert_eq!(lines.len(), 2);
    // Nothing was written.
    let mut target = fixture.reader(&fixture.target);
    let marker = fixture.sender.send(&fixture.target, Some(0), Some(b"marker"), b"", None);
    assert_eq!(marker.1, 0);
    target.wait("the marker alone", crate::harness::TEST_TIMEOUT, |record| record.position == marker);
}

#[test]
fn topics_that_do_not_fit_and_wrong_usage_are_errors() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack, "route = { checkout = { on = \"@-none\" } }\n");
    fixture.group.topics.grow_topic(&fixture.target, 5);
    let (code, text, _) = check(&fixture, &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("  cannot run: topic @-none does not exist\n"), "{text}");
    assert!(
        text.contains("  cannot run: topic @-flagged has 5 partitions and topic @-orders has 3"),
        "{text}"
    );
    let output = flagstream(fixture.group.folder.path(), &["doctor"], fixture.group.settings());
    let doctor = String::from_utf8_lossy(&output.stdout).replace(&fixture.group.topics.prefix, "@");
    assert!(doctor.contains("tap orders: topic @-none does not exist"), "{doctor}");
    let (code, _, error) = check(&fixture, &["payments"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("unknown tap payments; configured are orders"), "{error}");
}
