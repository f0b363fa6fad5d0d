//! Runs the language-independent test vectors: the answers in `tests/vectors/local_flags.json`, and the valid
//! and invalid documents in `local_flag_documents.json`.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use flagstream_evaluation::local::{created, feature};
use flagstream_evaluation::value::{Lookup, answer};
use flagstream_evaluation::{CompiledFlag, DefaultValue, FlagChange, Moment, Snapshot, ValueType};
use flagstream_protocol::request;

const ANSWERS: &str = include_str!("../../../../tests/vectors/local_flags.json");
const DOCUMENTS: &str = include_str!("../../../../tests/vectors/local_flag_documents.json");
const NOW: &str = "2026-01-15T10:30:00Z";

fn definition(flag: &Value, translated_at: DateTime<Utc>) -> String {
    if let Some(feature) = flag.get("unleash") {
        return feature.to_string();
    }
    let (name, _, flag) =
        created(flag.to_string().as_bytes()).unwrap_or_else(|problems| panic!("{problems:?}: {flag}"));
    feature(&name, &flag, 1, translated_at).to_string()
}

fn ask(flags: &Value, ask: &Value, translated_at: DateTime<Utc>) -> Value {
    let compiled = flags.as_array().unwrap().iter().map(|flag| {
        FlagChange::Set(CompiledFlag::compile("e", 1, &definition(flag, translated_at)).unwrap().into())
    });
    let snapshot = Snapshot::default().with(compiled);
    let name = ask["flag"].as_str().unwrap_or("f");
    let context = ask["context"].to_string();
    let context = request::context(&context).unwrap();
    let now = ask["now"].as_str().unwrap_or(NOW);
    let moment = Moment { now, hostname: "", app_name: "" };
    let outcome = snapshot.environment("e").unwrap().evaluate(name, &context, &moment).unwrap();
    let asked: ValueType = ask["type"].as_str().unwrap_or("boolean").parse().unwrap();
    let default = ask["default"].to_string();
    let default = match &ask["default"] {
        Value::Null => None,
        Value::Bool(boolean) => Some(DefaultValue::Boolean(*boolean)),
        Value::String(text) => Some(DefaultValue::String(text.into())),
        _ => Some(DefaultValue::Number(&default)),
    };
    let answer = answer(name, Lookup::Found(outcome), asked, default.as_ref());
    let mut value = Vec::new();
    answer.value.write_json(&mut value);
    json!({"enabled": answer.enabled, "variant": answer.variant, "reason": answer.reason.as_str(),
        "value": serde_json::from_slice::<Value>(&value).unwrap(),
        "error_code": answer.error_code.map(|code| code.as_str())})
}

#[test]
fn flags_answer_as_the_vectors_say() {
    let vectors: Value = serde_json::from_str(ANSWERS).unwrap();
    let mut asked = 0;
    for case in vectors["cases"].as_array().unwrap() {
        for expected in case["asks"].as_array().unwrap() {
            let now: DateTime<Utc> = expected["now"].as_str().unwrap_or(NOW).parse().unwrap();
            // The answer does not depend on when the definition was translated: before all steps, or at the
            // time of the evaluation.
            for translated_at in [DateTime::UNIX_EPOCH, now] {
                let said = ask(&case["flags"], expected, translated_at);
                for field in ["enabled", "variant", "value", "reason", "error_code"] {
                    let Some(wanted) = expected.get(field) else { continue };
                    let number = |value: &Value| value.as_f64();
                    let same = said[field] == *wanted
                        || (wanted.is_number() && number(&said[field]) == number(wanted));
                    assert!(same, "{}: {expected}\n{field}: {said}", case["name"]);
                }
            }
            asked += 1;
        }
    }
    assert!(asked > 250, "{asked}");
}

#[test]
fn reader_and_schema_agree_on_documents() {
    let schema: Value = serde_json::from_str(flagstream_evaluation::local::SCHEMA).unwrap();
    let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
    let vectors: Value = serde_json::from_str(DOCUMENTS).unwrap();
    let list = |name: &str| vectors[name].as_array().unwrap().clone();
    let whole = |part: &Value| {
        let mut document = json!({"name": "f", "environment": "e"});
        let members = part.as_object().unwrap().clone();
        document.as_object_mut().unwrap().extend(members);
        document
    };
    let refused = |document: &Value| {
        let problems = created(document.to_string().as_bytes()).err().unwrap_or_default();
        let mut fields: Vec<String> = problems.into_iter().map(|problem| problem.field).collect();
        fields.sort();
        fields
    };
    for part in list("good") {
        let document = whole(&part);
        assert!(validator.is_valid(&document), "schema: {document}");
        assert_eq!(refused(&document), Vec::<String>::new(), "{document}");
    }
    for case in list("bad") {
        let document = whole(&case["flag"]);
        let fields: Vec<String> = serde_json::from_value(case["fields"].clone()).unwrap();
        assert_eq!(refused(&document), fields, "{document}");
        // Problems that arise from several fields together are not covered by the JSON schema.
        assert_eq!(validator.is_valid(&document), case["only_together"] == true, "schema: {document}");
    }
}
