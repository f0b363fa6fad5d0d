mod documents;

use std::borrow::Cow;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as Avro;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::event::{EventFrame, EventSource, Timestamp};
use crate::request::{Ask, Request};
use flagstream_evaluation::{Answer, ErrorCode, Reason, Value};

const MAX_BYTES: usize = 1 << 20;

/// The message as the Avro library reads it.
fn by_library(kind: Kind, message: &[u8]) -> Avro {
    let mut rest = message;
    let reader = GenericDatumReader::builder(kind.schema()).build().unwrap();
    let value = reader.read_value(&mut rest).unwrap();
    assert!(rest.is_empty());
    value
}

/// The JSON form of a value that the library has read, computed without flagstream's code.
fn as_json(value: Avro, json: bool, schema: &Schema) -> Json {
    match value {
        Avro::Null => Json::Null,
        Avro::Boolean(boolean) => boolean.into(),
        Avro::Int(int) => int.into(),
        Avro::Long(long) => long.into(),
        Avro::Double(double) => double.into(),
        Avro::String(text) if json => serde_json::from_str(&text).unwrap(),
        Avro::String(text) | Avro::Enum(_, text) => text.into(),
        Avro::Uuid(uuid) => uuid.to_string().into(),
        Avro::TimestampMicros(micros) => {
            let time = chrono::DateTime::from_timestamp_micros(micros).unwrap();
            time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true).into()
        }
        Avro::Union(index, inner) => match schema {
            Schema::Union(union) => as_json(*inner, json, &union.variants()[index as usize]),
            other => panic!("{other:?}"),
        },
        Avro::Array(items) => match schema {
            Schema::Array(array) => items.into_iter().map(|item| as_json(item, json, &array.items)).collect(),
            other => panic!("{other:?}"),
        },
        Avro::Map(entries) => match schema {
            Schema::Map(map) => {
                let entries = entries.into_iter().map(|(key, value)| (key, as_json(value, json, &map.types)));
                Json::Object(entries.collect())
            }
            other => panic!("{other:?}"),
        },
        Avro::Record(fields) => match schema {
            Schema::Record(record) => {
                let fields = fields.into_iter().zip(&record.fields).map(|((name, value), field)| {
                    assert_eq!(name, field.name);
                    let json = field.custom_attributes.contains_key("json");
                    (name, as_json(value, json, &field.schema))
                });
                Json::Object(fields.collect())
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// The JSON without members that have the field's default, because they may be omitted.
fn without_defaults(json: &Json) -> Json {
    match json {
        Json::Object(members) => {
            let kept = members.iter().filter(|(key, value)| {
                !(value.is_null() || key.as_str() == "killed" && **value == Json::Bool(false))
            });
            Json::Object(kept.map(|(key, value)| (key.clone(), without_defaults(value))).collect())
        }
        Json::Array(items) => items.iter().map(without_defaults).collect(),
        other => other.clone(),
    }
}

fn encode(kind: Kind, json: &str) -> Vec<u8> {
    let mut message = Vec::new();
    kind.plan().from_json(json, &mut message).unwrap();
    message
}

fn decode(plan: &Plan, message: &[u8]) -> Result<Json, Broken> {
    let mut text = Vec::new();
    plan.to_json(message, &mut text, MAX_BYTES)?;
    Ok(serde_json::from_slice(&text).unwrap())
}

/// Converts the message to Avro and back, and checks that the library reads the same.
fn there_and_back(kind: Kind, json: &Json) {
    let message = encode(kind, &json.to_string());
    let read = as_json(by_library(kind, &message), false, kind.schema());
    assert_eq!(without_defaults(&read), without_defaults(json), "{kind:?}");
    let back = decode(kind.plan(), &message).unwrap();
    assert_eq!(without_defaults(&back), without_defaults(json), "{kind:?}");
}

#[test]
fn records_of_any_schema_are_converted_completely() {
    let schema = r#"{"type": "record", "name": "Row", "fields": [
        {"name": "plan", "type": ["null", "string"]}, {"name": "age", "type": "int"},
        {"name": "tags", "type": {"type": "array", "items": "string"}}]}"#;
    let plan = Subject::FOREIGN.resolve(&Writer::parse(schema, &[]).unwrap()).unwrap();
    // A text in the second branch of the union, 7, and a list of one text.
    let message = [&[2, 8][..], b"gold", &[14, 2, 2], b"a", &[0]].concat();
    assert_eq!(decode(&plan, &message).unwrap(), json!({"plan": "gold", "age": 7, "tags": ["a"]}));
    assert_eq!(decode(&plan, &[0, 14, 0]).unwrap(), json!({"age": 7, "tags": []}));
    assert!(decode(&plan, &[0]).is_err());
}

#[test]
fn messages_survive_the_trip() {
    for (kind, message) in [
        (
            Kind::Request,
            json!({"request_id": "r-1", "flag_name": "theme-variant", "user_id": "user-456", "session_id": "s-9",
            "context": {"region": "us-west", "deep": {"list": [1, 2.5, null, {"x": "\"é\n"}]}}, "default_value": "light",
            "value_type": "string", "environment": "production", "requested_at": "2026-01-15T10:30:00.000000Z",
            "group_id": "g", "geographic_region": "eu", "device_type": "phone", "user_segment": "beta"}),
        ),
        (
            Kind::Request,
            json!({"flag_names": ["a", "b"], "default_values": {"a": [1], "b": null}, "value_types": {"a": "object"}}),
        ),
        (
            Kind::Reply,
            json!({"request_id": "r-7", "correlation_id": "c-17", "user_id": null, "environment": "production",
            "results": {"limit": {"value": 5, "enabled": true, "variant": "five", "reason": "DISABLED", "killed": true,
                "error_code": null, "error_message": null, "flag_version": 1_768_473_000_124_u64}, "none": {"value": null,
                "enabled": false, "variant": null, "reason": "DEFAULT", "error_code": "FLAG_NOT_FOUND", "error_message": "m",
                "flag_version": null}}, "flags_version": 7, "evaluated_at": "2026-01-15T10:30:00.212345Z"}),
        ),
        (
            Kind::Reply,
            json!({"environment": "e", "results": {}, "flags_version": 7, "evaluated_at": "2026-01-15T10:30:00.212345Z"}),
        ),
        (
            Kind::Changed,
            json!({"event_type": "FEATURE_FLAG_UPDATED", "flag_name": "f", "environment": "e", "version": 8,
            "previous_version": 7, "changed_at": "2026-01-15T10:31:00.998211Z", "published_at": "2026-01-15T10:31:01.007402Z",
            "actor": "unleash", "override": {"change_id": "019bc134-7845-8002-896e-300000018330", "action": "restored",
                "actor": "a", "reason": "r", "changed_at": "2026-01-15T10:31:00.998211Z", "after": null,
                "before": {"actor": "a", "reason": "r", "killed_at": "2026-01-15T10:30:00.998211Z", "expires_at": null, "version": 7}}}),
        ),
        (
            Kind::EvaluatedTogether,
            json!({"event_type": "FEATURE_FLAGS_EVALUATED", "event_id": "019bc134-7845-8000-896e-300000018330",
            "environment": "e", "flags_version": 9, "context": {"a": [1]}, "evaluated_at": "2026-01-15T10:30:00.998211Z",
            "source": {"api": "rest"}, "results": [{"flag_name": "f", "enabled": true, "reason": "DEFAULT",
            "typed_value": {"b": 2}, "context": {}}, {"flag_name": "g", "enabled": false, "reason": "ERROR"}]}),
        ),
        (
            Kind::Hint,
            json!({"event_type": "FEATURE_FLAG_DELETED", "flag_name": "f", "environment": "e", "source": "local"}),
        ),
        (
            Kind::Conversion,
            json!({"experiment": "e", "environment": "p", "user_id": "u", "metric": "m", "value": -1.5e-3,
            "occurred_at": "2026-01-15T10:00:00.000001Z", "event_id": "i", "metadata": {"cart": [1, "a"]}}),
        ),
        (
            Kind::Definition,
            json!({"environment": "p", "flag_name": "f", "source": "unleash", "version": 7, "checksum": "2f",
            "definition": {"name": "f", "strategies": []}}),
        ),
    ] {
        there_and_back(kind, &message);
    }
}

fn any_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(|f| json!(f)),
        ".*".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::hash_map(".*", inner, 0..6)
                .prop_map(|map| Json::Object(map.into_iter().collect())),
        ]
    })
}

fn any_value() -> impl Strategy<Value = Value<'static>> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Boolean),
        ".*".prop_map(|text| Value::String(Cow::Owned(text))),
        any::<i64>().prop_map(|number| Value::Number(Cow::Owned(number.to_string()))),
        any_json().prop_map(|json| Value::Json(Cow::Owned(json!([json]).to_string()))),
    ]
}

proptest! {
    /// The direct writer produces the same bytes as the conversion of the JSON form.
    #[test]
    fn an_event_is_the_same_in_both_forms(
        value in any_value(), context in any_json(), default in any_json(),
        texts in prop::collection::vec(prop::option::of(".*"), 5),
        numbers in (any::<Option<u32>>(), prop::option::of(0..i64::MAX), any::<i32>(), 0..i64::MAX, any::<u16>()),
        (enabled, in_kafka, reason) in (any::<bool>(), any::<bool>(), 0usize..4), micros in 0i64..4_000_000_000_000_000,
    ) {
        let [request_id, user_id, session_id, variant, message] = &texts[..] else { panic!() };
        let (ns, version, partition, offset, index) = numbers;
        let at = chrono::DateTime::from_timestamp_micros(micros).unwrap().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
        let (context, default) = (json!({"c": context}).to_string(), default.to_string());
        let source = match in_kafka {
            true => EventSource::Kafka { topic: "t", topic_id: (index % 2 == 0).then_some("id"), partition, offset, index: index.into(), tap: (index % 3 == 0).then_some("orders") },
            false => EventSource::Api("rest"),
        };
        let frame = EventFrame {
            event_id: "019bc134-7845-8002-896e-300000018330",
            request_id: request_id.as_deref(), user_id: user_id.as_deref(), session_id: session_id.as_deref(),
            environment: "production", context: &context,
            attributes: in_kafka.then_some(r#"{"user":{"partition":0,"offset":17,"names":["plan"]}}"#), evaluated_at: Timestamp { text: &at, micros },
            flags_version: version.map_or(7, i64::cast_unsigned), value_type: ns.map(|_| flagstream_evaluation::ValueType::Integer),
            evaluation_ns: ns.map(Into::into), source,
        };
        let body = format!(r#"{{"flag_name": "flag \"1\"", "default_value": {default}}}"#);
        let request = Request::decode(body.as_bytes()).unwrap();
        let ask: &Ask<'_> = &request.asks.as_slice()[0];
        let answer = Answer {
            value, enabled, variant: variant.as_deref(),
            reason: [Reason::TargetingMatch, Reason::Default, Reason::Disabled, Reason::Error][reason],
            error_code: message.as_ref().map(|_| ErrorCode::General), error_message: message.as_deref().map(Into::into),
            flag_version: version.map(i64::cast_unsigned),
            assignment: enabled.then_some(r#"{"how":"drawn","rule":null,"weights":{"a":500}}"#),
        };
        let (mut text, mut own) = (Vec::new(), Vec::new());
        crate::event::write_event(&mut text, &frame, ask, &answer);
        event::write_event(&mut own, &frame, ask, &answer);
        let text = String::from_utf8(text).unwrap();
        prop_assert_eq!(&own, &encode(Kind::Evaluated, &text));
        let json: Json = serde_json::from_str(&text).unwrap();
        let library = as_json(by_library(Kind::Evaluated, &own), false, Kind::Evaluated.schema());
        prop_assert_eq!(without_nulls(&library), without_nulls(&json));
        prop_assert_eq!(without_nulls(&decode(Kind::Evaluated.plan(), &own).unwrap()), without_nulls(&json));
    }

    #[test]
    fn any_context_survives_the_trip(context in any_json(), default in any_json()) {
        let request = json!({"flag_name": "f", "context": {"c": context}, "default_value": default});
        let back = decode(Kind::Request.plan(), &encode(Kind::Request, &request.to_string())).unwrap();
        prop_assert_eq!(&back["context"], &request["context"]);
        prop_assert_eq!(&back["default_value"], &request["default_value"]);
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_stay_bounded(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for kind in Kind::ALL {
            let mut text = Vec::new();
            let read = kind.plan().to_json(&bytes, &mut text, 1_000);
            prop_assert!(text.len() < 2_000);
            if read.is_ok() {
                prop_assert!(serde_json::from_slice::<Json>(&text).is_ok());
            }
        }
    }
}

/// The event without nulls in the top level and in `source`; values are left unchanged.
fn without_nulls(json: &Json) -> Json {
    let kept = |json: &Json| -> serde_json::Map<String, Json> {
        let members = json.as_object().unwrap().iter();
        let kept = members.filter(|(key, value)| {
            !(value.is_null() || key.as_str() == "killed" && **value == Json::Bool(false))
        });
        kept.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let mut event = kept(json);
    event.insert("source".into(), Json::Object(kept(&json["source"])));
    Json::Object(event)
}

/// Message of another producer's schema, written by the library.
fn written(schema: &str, value: impl Into<Avro>) -> (Writer, Vec<u8>) {
    let schema = Schema::parse_str(schema).unwrap();
    let value = value.into().resolve(&schema).unwrap();
    let message = apache_avro::writer::datum::GenericDatumWriter::builder(&schema)
        .build()
        .unwrap()
        .write_value_to_vec(value)
        .unwrap();
    (Writer { schema, others: Vec::new() }, message)
}

fn writer(schema: &str) -> Writer {
    Writer::parse(schema, &[]).unwrap()
}

fn record(fields: Vec<(&str, Avro)>) -> Avro {
    Avro::Record(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

#[test]
fn older_and_newer_schemas_are_read() {
    let (older, message) = written(
        r#"{"type":"record","name":"EvaluationRequest","fields":[{"name":"flag_name","type":"string"}]}"#,
        record(vec![("flag_name", "f".into())]),
    );
    assert_eq!(
        decode(&Subject::REQUESTS.resolve(&older).unwrap(), &message).unwrap(),
        json!({"flag_name": "f"})
    );
    let (newer, message) = written(
        r#"{"type":"record","name":"com.acme.Ask","fields":[
            {"name":"trace","type":{"type":"array","items":{"type":"map","values":["null","bytes",{"type":"fixed","name":"F","size":3}]}}},
            {"name":"tree","type":{"type":"record","name":"Tree","fields":[{"name":"of","type":["null","Tree"]},{"name":"x","type":"double"}]}},
            {"name":"user_id","type":"long"},
            {"name":"flag_name","type":["null","string"]},
            {"name":"requested_at","type":{"type":"long","logicalType":"timestamp-millis"}},
            {"name":"default_value","type":["boolean","double"]},
            {"name":"context","type":{"type":"record","name":"Context","fields":[
                {"name":"region","type":"string"},{"name":"scores","type":{"type":"map","values":"int"}},
                {"name":"tier","type":{"type":"enum","name":"Tier","symbols":["free","paid"]}}]}}]}"#,
        record(vec![
            (
                "trace",
                Avro::Array(vec![Avro::Map(
                    [("k".to_owned(), Avro::Union(1, Box::new(Avro::Bytes(vec![0]))))].into(),
                )]),
            ),
            (
                "tree",
                record(vec![
                    (
                        "of",
                        Avro::Union(
                            1,
                            Box::new(record(vec![
                                ("of", Avro::Union(0, Box::new(Avro::Null))),
                                ("x", 2.0.into()),
                            ])),
                        ),
                    ),
                    ("x", 1.0.into()),
                ]),
            ),
            ("user_id", 7i64.into()),
            ("flag_name", Avro::Union(1, Box::new("f".into()))),
            ("requested_at", Avro::TimestampMillis(1_768_473_000_000)),
            ("default_value", Avro::Union(1, Box::new(2.5.into()))),
            (
                "context",
                record(vec![
                    ("region", "us \"west\"".into()),
                    ("scores", Avro::Map([("a".to_owned(), 1.into())].into())),
                    ("tier", Avro::Enum(1, "paid".to_owned())),
                ]),
            ),
        ]),
    );
    assert_eq!(
        decode(&Subject::REQUESTS.resolve(&newer).unwrap(), &message).unwrap(),
        json!({"user_id": 7, "flag_name": "f", "requested_at": "2026-01-15T10:30:00.000000Z", "default_value": 2.5,
            "context": {"region": "us \"west\"", "scores": {"a": 1}, "tier": "paid"}})
    );
}

#[test]
fn a_schema_that_does_not_fit_is_named() {
    for (fields, expected) in [
        (
            r#"{"name":"flag_names","type":"string"}"#,
            "flag_names: expected a list, but the writer's schema has string",
        ),
        (
            r#"{"name":"flag_name","type":{"type":"fixed","name":"F","size":3}}"#,
            "flag_name: expected a string, but the writer's schema has F",
        ),
        (
            r#"{"name":"context","type":{"type":"map","values":"bytes"}}"#,
            "context: expected a type that can be represented in JSON, but the writer's schema has bytes",
        ),
        (
            r#"{"name":"requested_at","type":"double"}"#,
            "requested_at: expected a time, but the writer's schema has double",
        ),
    ] {
        let schema = format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#);
        let misfit = Subject::REQUESTS.resolve(&writer(&schema)).unwrap_err();
        assert_eq!(misfit.to_string(), expected);
    }
    let misfit = Subject::EVENTS.resolve(&writer(r#""string""#)).unwrap_err();
    assert_eq!(misfit.to_string(), "expected a record, but the writer's schema has string");
    let evaluated = Kind::Evaluated.text().replace("\"flag_name\"", "\"flag\"");
    let misfit = Subject::EVENTS.resolve(&writer(&evaluated)).unwrap_err();
    assert_eq!(misfit.to_string(), "flag_name: expected a string, but the writer's schema has no such field");
}

#[test]
fn records_that_share_a_topic_are_told_apart() {
    let union = writer(&Subject::EVENTS.text());
    let plan = Subject::EVENTS.resolve(&union).unwrap();
    let change = json!({"event_type": "FEATURE_FLAG_CREATED", "flag_name": "f", "environment": "e", "version": 8,
        "changed_at": "2026-01-15T10:31:00.998211Z", "published_at": "2026-01-15T10:31:01.007402Z", "actor": "unleash"});
    let mut message = vec![2];
    message.extend(encode(Kind::Changed, &change.to_string()));
    assert_eq!(decode(&plan, &message).unwrap(), change);
    // A record under a subject of its own has no branch index.
    let alone = Subject::EVENTS.resolve(&writer(Kind::Changed.text())).unwrap();
    assert_eq!(decode(&alone, message.get(1..).unwrap()).unwrap(), change);
}

#[test]
fn broken_messages_are_refused() {
    let request = encode(Kind::Request, r#"{"flag_name":"f","context":{"a":1}}"#);
    for end in 0..request.len() {
        assert!(decode(Kind::Request.plan(), &request[..end]).is_err(), "cut at {end}");
    }
    let error = |message: &[u8]| decode(Kind::Request.plan(), message).unwrap_err().to_string();
    assert_eq!(
        error(&[request.as_slice(), &[7]].concat()),
        "1 unexpected bytes after the end of the message"
    );
    // JSON text must not be able to add members.
    let smuggled = [&[0, 0, 0, 0, 0, 2][..], &[32], br#"{},"user_id":"x""#].concat();
    assert_eq!(error(&smuggled), "context: expected JSON text: expected the end of the text at byte 2");
    // A list of nulls may claim any number of elements without needing bytes.
    let (endless, message) = written(
        r#"{"type":"record","name":"R","fields":[{"name":"x","type":{"type":"array","items":"null"}}]}"#,
        record(vec![("x", Avro::Array(vec![Avro::Null]))]),
    );
    let plan = Subject::REQUESTS.resolve(&endless).unwrap();
    assert_eq!(decode(&plan, &message).unwrap(), json!({}));
    let claims = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0];
    assert_eq!(decode(&plan, &claims).unwrap_err().to_string(), "the message has more than 1000000 elements");
}

#[test]
fn schemas_that_grow_without_bytes_have_an_end() {
    let record =
        |name: &str, fields: &str| format!(r#"{{"type":"record","name":"{name}","fields":[{fields}]}}"#);
    // Each record contains the inner one twice, and none contains a byte.
    let doubled = (0..40).fold(record("R", ""), |inner, level| {
        let name = if level == 0 { "R".to_owned() } else { format!("R{}", level - 1) };
        record(
            &format!("R{level}"),
            &format!(r#"{{"name":"a","type":{inner}}},{{"name":"b","type":"{name}"}}"#),
        )
    });
    let plan = Subject::REQUESTS.resolve(&writer(&doubled)).unwrap();
    assert_eq!(decode(&plan, &[]).unwrap_err().to_string(), "the message has more than 1000000 elements");
    // Each record references the previous one by name.
    let chain: String = (0..10_000)
        .map(|level| {
            let inner = if level == 0 { "int".to_owned() } else { format!("R{}", level - 1) };
            let record = record(&format!("R{level}"), &format!(r#"{{"name":"a","type":"{inner}"}}"#));
            format!(r#"{{"name":"f{level}","type":{record}}},"#)
        })
        .collect();
    let chain = record("Chain", &format!(r#"{chain}{{"name":"context","type":"R9999"}}"#));
    let misfit = Subject::REQUESTS.resolve(&writer(&chain)).unwrap_err();
    assert!(
        misfit
            .to_string()
            .ends_with("expected fewer nested levels, but the writer's schema has more than 200"),
        "{misfit}"
    );
}

#[test]
fn the_wire_format_is_confluents() {
    assert_eq!(split(&[0, 0, 0, 1, 2, 9, 9]), Some((258, &[9, 9][..])));
    assert_eq!(header(258), [0, 0, 0, 1, 2]);
    assert_eq!(split(b"{\"a\":1}"), None);
    assert_eq!(split(&[0, 1]), None);
}
