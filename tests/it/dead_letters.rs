//! `flagstream dead-letters`: looking at what was refused, and sending it again.

use rdkafka::message::{Header, OwnedHeaders};
use serde_json::{Value, json};

use flagstream::message::avro::Kind;

use crate::harness::avro::{message, register};
use crate::harness::{Flag, Flags, Group, Sender, Stack, TEST_TIMEOUT, TopicReader, flagstream};

/// Runs the command; its exit code, what it printed, and what it said beside that.
fn dead_letters(group: &Group, arguments: &[&str]) -> (Option<i32>, String, String) {
    let all = [&["dead-letters"], arguments].concat();
    let output = flagstream(group.folder.path(), &all, group.settings());
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A dead letter as the service writes one.
fn write(group: &Group, source: &str, body: &[u8], more: &[(&str, &str)]) {
    let usual = [
        ("error-code", "MADE_UP"),
        ("error-message", "for a test"),
        ("source-topic", source),
        ("source-partition", "1"),
        ("source-offset", "7"),
    ];
    let headers = usual.iter().chain(more).copied().fold(OwnedHeaders::new(), |headers, (key, value)| {
        headers.insert(Header { key, value: Some(value) })
    });
    Sender::new(&group.topics.kafka).send(
        &group.topics.dead_letters,
        Some(0),
        Some(b"made-up"),
        body,
        Some(headers),
    );
}

#[test]
fn what_was_refused_is_listed_edited_and_answered() {
    let (stack, _shared) = Stack::shared();
    let group = Group::new(stack);
    Flags::new(&group.topics).set("production", Flag::on("on"));
    let _service = group.start("one");
    let sender = Sender::new(stack.kafka.as_str());
    let correlated = OwnedHeaders::new().insert(Header { key: "correlation-id", value: Some("c-1") });
    let wrong = br#"{"request_id":"edited","flag_name":"on","user_id":["u-1"],"environment":"production"}"#;
    let at = sender.send(&group.topics.requests, None, Some(b"u-1"), wrong, Some(correlated));
    sender.send(&group.topics.requests, None, Some(b"u-2"), b"{", None);
    let mut dead = TopicReader::open(&stack.kafka, &group.topics.dead_letters);
    dead.until("both", TEST_TIMEOUT, |seen| seen.len() == 2);

    let list = |arguments: &[&str]| {
        let (code, out, said) = dead_letters(&group, &[&["list", "--output", "json"], arguments].concat());
        assert_eq!(code, Some(0), "{said}");
        lines(&out)
    };
    let [invalid] = list(&["--code", "INVALID_FIELD"]).try_into().unwrap();
    assert_eq!(
        invalid["source"],
        json!({"topic": group.topics.requests, "partition": at.0, "offset": at.1, "index": null})
    );
    assert_eq!(invalid["headers"], json!({"correlation-id": "c-1"}));
    assert_eq!(list(&["--since", "1h", "--source", "requests"]).len(), 2);
    assert_eq!(list(&["--code", "not_json,EMPTY", "--count", "1"]).len(), 1);
    let nothing = [["--until", "1h"], ["--source", "events"], ["--since", "2100-01-01"]];
    assert!(nothing.iter().all(|arguments| list(arguments).is_empty()));
    let (_, text, _) = dead_letters(&group, &["list"]);
    assert!(text.contains("NOT_JSON") && text.lines().count() == 2, "{text}");

    let place = format!("{}/{}", invalid["partition"], invalid["offset"]);
    let (_, body, _) = dead_letters(&group, &["show", &place, "--body"]);
    assert_eq!(body.as_bytes(), wrong);
    let (_, text, _) = dead_letters(&group, &["show", &place]);
    assert!(text.contains("correlation-id: c-1") && text.contains("INVALID_FIELD"), "{text}");
    let (code, _, said) = dead_letters(&group, &["show", "0/999"]);
    assert!(code == Some(1) && said.contains("0/999"), "{said}");

    // As it is it would be refused again, and a filter that fails or says nothing sends nothing.
    let filtered =
        |filter: &str| dead_letters(&group, &["replay", "--all", "--filter", filter, "--output", "json"]);
    let fates = |out: &str| -> Vec<String> {
        lines(out).iter().map(|line| line["not_sent"].as_str().unwrap_or("sent").to_owned()).collect()
    };
    let (code, out, said) = filtered("cat");
    assert_eq!((code, fates(&out)), (Some(1), vec!["still_refused".to_owned(); 2]), "{said}");
    assert_eq!(fates(&filtered("cat > /dev/null").1), ["filtered"; 2]);
    assert_eq!(fates(&filtered("exit 3").1), ["filter_failed"; 2]);
    assert_eq!(dead_letters(&group, &["replay"]).0, Some(2), "which ones?");

    let edit = r#"sed 's/\["u-1"\]/"u-1"/'"#;
    let (code, out, said) = dead_letters(&group, &["replay", &place, "--filter", edit, "--dry-run"]);
    assert!(code == Some(0) && out.contains("would go to"), "{out}{said}");
    let (code, _, said) = dead_letters(&group, &["replay", &place, "--filter", edit]);
    assert_eq!(code, Some(0), "{said}");
    let mut events = TopicReader::open(&stack.kafka, &group.topics.events);
    let event = events.wait("its event", TEST_TIMEOUT, |event| event.json()["request_id"] == "edited");
    assert_eq!((&event.json()["typed_value"], event.header("correlation-id")), (&json!(true), Some("c-1")));
    assert_eq!(event.position.0, at.0, "in the partition of its request");
    assert_eq!(events.seen.len(), 1, "of all these, one was sent");
    let mut requests = TopicReader::open(&stack.kafka, &group.topics.requests);
    let again = requests.wait("the request", TEST_TIMEOUT, |it| it.header("replayed-from").is_some());
    assert_eq!(again.header("error-code"), None);
}

#[test]
fn what_must_not_be_sent_again_says_why() {
    let (stack, _shared) = Stack::shared();
    let group = Group::new(stack);
    let topics = &group.topics;
    let request = br#"{"flag_names":["a","b"],"user_id":"u"}"#;
    write(&group, &topics.requests, request, &[("source-index", "1")]);
    write(&group, &topics.requests, b"", &[("body-omitted", "true")]);
    write(&group, &topics.events, b"{}", &[]);
    write(&group, &topics.conversions, b"whatever it is", &[]);
    let (code, out, said) = dead_letters(&group, &["replay", "--all", "--output", "json"]);
    assert_eq!(code, Some(1), "{said}");
    let fates: Vec<Value> =
        lines(&out).into_iter().map(|line| line.get("not_sent").cloned().unwrap_or_default()).collect();
    assert_eq!(json!(fates), json!(["part_of_a_request", "body_omitted", "not_an_input", null]), "{out}");
    assert!(said.contains("1 sent, 3 not"), "{said}");
    let mut conversions = TopicReader::open(&stack.kafka, &topics.conversions);
    let conversion = conversions.wait("the conversion", TEST_TIMEOUT, |_| true);
    assert_eq!((conversion.payload.as_deref(), conversion.position.0), (Some(&b"whatever it is"[..]), 1));
    let (_, out, _) = dead_letters(&group, &["replay", "0/0", "--whole", "--dry-run"]);
    assert!(out.contains("would go to"), "{out}");
}

#[test]
fn letters_in_avro_are_shown_edited_and_answered() {
    let (stack, _shared) = Stack::shared();
    let group = Group::new(stack).in_avro(&stack.registry).set("FLAGSTREAM_FORMAT__REQUESTS", "avro");
    Flags::new(&group.topics).set("production", Flag::on("on"));
    let _service = group.start("one");
    let topics = &group.topics;
    let id = register(stack, &format!("{}-senders", topics.prefix), Kind::Request.text());
    let request = |id: &str, flag: &str| {
        format!(r#"{{"request_id":"{id}","flag_name":"{flag}","user_id":"u","environment":"production"}}"#)
    };
    let sender = Sender::new(&topics.kafka);
    let wrong = message(id, Kind::Request, &request("edited", ""));
    sender.send(&topics.requests, Some(2), Some(b"u"), &wrong, None);
    sender.send(&topics.requests, Some(2), Some(b"u"), request("json", "on").as_bytes(), None);
    let mut dead = TopicReader::open(&stack.kafka, &topics.dead_letters);
    dead.until("both", TEST_TIMEOUT, |seen| seen.len() == 2);
    // Refused while its schema was not known, which it is now.
    write(&group, &topics.requests, &message(id, Kind::Request, &request("late", "on")), &[]);

    let (_, out, said) = dead_letters(&group, &["list", "--output", "json"]);
    let letters = lines(&out);
    let of = |code: &str| letters.iter().find(|letter| letter["code"] == code).expect(code);
    let invalid = of("INVALID_FIELD");
    assert_eq!(invalid["body"], request("edited", ""), "{out}{said}");
    assert_eq!(of("NOT_AVRO")["body"], request("json", "on"));
    let place = format!("{}/{}", invalid["partition"], invalid["offset"]);
    assert!(dead_letters(&group, &["show", &place]).1.contains(&request("edited", "")));
    let raw = flagstream(group.folder.path(), &["dead-letters", "show", &place, "--body"], group.settings());
    assert_eq!(raw.stdout, wrong);

    let replay = |arguments: &[&str]| {
        let (_, out, _) =
            dead_letters(&group, &[&["replay", "--all", "--output", "json"], arguments].concat());
        let fate = |line: &Value| (line["code"].as_str().unwrap().to_owned(), line["not_sent"].clone());
        lines(&out).iter().map(fate).collect::<std::collections::BTreeMap<_, _>>()
    };
    let expected = |fates: [(&str, Value); 3]| fates.map(|(code, fate)| (code.to_owned(), fate)).into();
    let refused = json!("still_refused");
    assert_eq!(
        replay(&[]),
        expected([("INVALID_FIELD", refused.clone()), ("NOT_AVRO", refused), ("MADE_UP", Value::Null)])
    );
    let edit = r#"sed 's/"flag_name":""/"flag_name":"on"/'"#;
    let fates = replay(&["--code", "INVALID_FIELD,NOT_AVRO", "--filter", edit]);
    assert!(fates.len() == 2 && fates.values().all(Value::is_null), "{fates:?}");
    let mut events = TopicReader::open(&stack.kafka, &topics.events);
    events.until("an event of each", TEST_TIMEOUT, |seen| seen.len() == 3);
    let asked: std::collections::BTreeSet<_> =
        events.seen.iter().map(|event| event.json()["request_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(asked, ["edited", "json", "late"].map(str::to_owned).into());
    let mut requests = TopicReader::open(&stack.kafka, &topics.requests);
    requests.until("all requests", TEST_TIMEOUT, |seen| seen.len() == 5);
    let is_avro = |body: &Option<Vec<u8>>| body.as_ref().is_some_and(|body| body.starts_with(&[0]));
    assert_eq!(requests.seen.iter().filter(|request| is_avro(&request.payload)).count(), 4);
    assert_eq!(
        lines(&dead_letters(&group, &["list", "--output", "json"]).1).len(),
        3,
        "none was refused again"
    );
}
