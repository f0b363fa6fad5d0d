//! Sizes of the load's events in each form, as docs/benchmarks.md states them.

use flagstream::flag::Snapshot;
use flagstream::message::avro::{EventFormat, Format};
use flagstream::message::bulk_event::{BulkEvent, Shared};
use flagstream::message::event::{EventSource, Nulls, Timestamp, stream_event_id};
use flagstream::message::request::Request;

use crate::load;

const FLAGS: usize = 350;
const NOW: &str = "2026-01-15T10:30:00.012345Z";

/// Bytes of all events of a request, in single events and in one bulk event.
fn sizes(snapshot: &Snapshot, request: &str, format: &EventFormat) -> (usize, usize) {
    let request = Request::decode(request.as_bytes()).unwrap();
    let (mut single, mut bulk, mut together) = (Vec::new(), BulkEvent::default(), Vec::new());
    for (ask, index) in request.asks.as_slice().iter().zip(0..) {
        let id = stream_event_id(7, 3, 99_120, index, 1_768_473_000_123);
        let answer = load::evaluate(snapshot, &request, ask).unwrap();
        let source = EventSource::Kafka {
            topic: "feature-flag-evaluation-requests",
            topic_id: Some("Nh3kvXqkTVSbJ1Yw0bOHUg"),
            partition: 3,
            offset: 99_120,
            index,
            tap: None,
        };
        let at = Timestamp { text: NOW, micros: 1_768_473_000_012_345 };
        let frame = load::frame(snapshot, &request, ask, std::str::from_utf8(&id).unwrap(), at, source);
        format.write_event(&mut single, &frame, ask, &answer);
        let shared = Shared { session_id: frame.session_id, context: frame.context };
        assert!(bulk.add(&format.format, shared, &frame, ask, &answer, usize::MAX));
    }
    bulk.take(&format.format, &mut together);
    (single.len(), together.len())
}

#[test]
fn events_of_the_mix_have_these_sizes() {
    let json = |nulls| EventFormat::new(nulls, None);
    let mut avro = EventFormat::default();
    avro.format = Format::Avro(vec![0; 6]);
    let all = [("JSON", json(Nulls::Write)), ("JSON without nulls", json(Nulls::Omit)), ("Avro", avro)];
    let names: Vec<String> = (0..FLAGS).map(|flag| format!("\"{}\"", load::flag_name(flag))).collect();
    let (_, one) = load::request(7, FLAGS, 7);
    let many = one.replace(
        &one[one.find("\"flag_name\"").unwrap()..one.find("\"user_id\"").unwrap()],
        &format!("\"flag_names\":[{}],", names.join(",")),
    );
    let many = many.replace("\"default_value\":false,", "").replace("\"default_value\":\"auto\",", "");
    let snapshot = load::snapshot(FLAGS).unwrap();
    let mut means = Vec::new();
    for (name, format) in &all {
        let single: usize =
            (0..300).map(|number| sizes(&snapshot, &load::request(number, FLAGS, number).1, format).0).sum();
        let (each, together) = sizes(&snapshot, &many, format);
        println!(
            "{name}: one flag {} bytes; {FLAGS} flags {each} bytes in single events, {together} in a bulk event, \
             {} of a result",
            single / 300,
            together / FLAGS
        );
        means.push((single / 300, each, together));
    }
    let [written, omitted, avro] = means[..] else { panic!() };
    assert!(omitted.0 + 40 < written.0, "{means:?}");
    assert!(omitted.2 * 2 < omitted.1 && avro.2 * 2 < avro.1, "{means:?}");
}
