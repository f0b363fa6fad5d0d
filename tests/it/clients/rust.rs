//! The OpenFeature providers for Rust: both against the service, which both must agree with.

use std::time::Duration;

use flagstream::flag::Cacheability;
use flagstream_openfeature::{HttpOptions, HttpProvider, InProcessProvider};
use open_feature::provider::{FeatureProvider, ProviderStatus, ResolutionDetails};
use open_feature::{
    EvaluationContext, EvaluationContextFieldValue as Field, EvaluationResult, FlagMetadataValue,
    StructValue, Value as Given,
};
use serde_json::{Map, Value, json};

use crate::harness::{Flag, Flags, Group, Service, Stack, TEST_TIMEOUT, block_on, post, wait_until};
use crate::spec;

use super::{folder, group, start};

const TYPES: [&str; 5] = ["boolean", "integer", "float", "string", "object"];
const ENVIRONMENT: &str = "production";

fn over_http(service: &Service, options: HttpOptions) -> HttpProvider {
    let options = HttpOptions { environment: Some(ENVIRONMENT.to_owned()), ..options };
    let mut provider = HttpProvider::new(&service.url, options).unwrap();
    block_on(provider.initialize(&EvaluationContext::default()));
    provider
}

fn in_process(group: &Group) -> InProcessProvider {
    let environment = ("UNLEASH_ENVIRONMENT".to_owned(), ENVIRONMENT.to_owned());
    InProcessProvider::start(group.topics.settings().into_iter().chain([environment])).unwrap()
}

fn ready(group: &Group) -> InProcessProvider {
    let provider = in_process(group);
    assert!(block_on(provider.wait_until_ready(TEST_TIMEOUT)));
    provider
}

/// A question as JSON has it.
#[derive(Debug)]
struct Question {
    flag: String,
    user: Option<String>,
    context: Map<String, Value>,
}

impl Question {
    fn new(flag: &str, user: &str) -> Self {
        Self { flag: flag.to_owned(), user: Some(user.to_owned()), context: Map::new() }
    }

    /// Expectation of a test of the client specification.
    fn of(test: &Value, prefix: &str) -> Self {
        let mut context = test["context"].as_object().unwrap().clone();
        let user = context.remove("userId").map(|user| user.as_str().unwrap().to_owned());
        context.remove("environment");
        let properties = context.remove("properties").unwrap_or_default();
        context.extend(properties.as_object().cloned().unwrap_or_default());
        Self { flag: format!("{prefix}{}", test["toggleName"].as_str().unwrap()), user, context }
    }

    fn ask(&self, provider: &dyn FeatureProvider, value_type: &str) -> Value {
        let custom_fields = self.context.iter().map(|(name, value)| (name.clone(), field(value))).collect();
        let context = &EvaluationContext { targeting_key: self.user.clone(), custom_fields };
        block_on(async {
            match value_type {
                "boolean" => told(provider.resolve_bool_value(&self.flag, context).await, Given::Bool),
                "integer" => told(provider.resolve_int_value(&self.flag, context).await, Given::Int),
                "float" => told(provider.resolve_float_value(&self.flag, context).await, Given::Float),
                "string" => told(provider.resolve_string_value(&self.flag, context).await, Given::String),
                _ => told(provider.resolve_struct_value(&self.flag, context).await, Given::Struct),
            }
        })
    }

    /// The service's answer, reduced to the members that OpenFeature can express.
    fn ask_service(&self, service: &Service, value_type: &str) -> Value {
        let mut body = json!({"flag_name": self.flag, "context": self.context, "value_type": value_type});
        body["environment"] = json!(ENVIRONMENT);
        if let Some(user) = &self.user {
            body["user_id"] = json!(user);
        }
        let answer = post(&format!("{}/api/v1/feature-flags/evaluate", service.url), &body);
        assert_eq!(answer.status, 200, "{answer:?}");
        let mut answer = answer.json();
        if !answer["error_code"].is_null() {
            return json!({"code": answer["error_code"]});
        }
        if answer["value"].is_null() {
            return json!({"code": answer["reason"]});
        }
        if value_type == "object" && !answer["value"].is_object() {
            return json!({"code": "TYPE_MISMATCH"});
        }
        if value_type == "float" {
            answer["value"] = json!(answer["value"].as_f64());
        }
        json!({"value": answer["value"], "variant": answer["variant"], "reason": answer["reason"],
            "version": answer["flag_version"], "enabled": answer["enabled"]})
    }
}

fn field(value: &Value) -> Field {
    match value {
        Value::Bool(value) => Field::Bool(*value),
        Value::String(text) => Field::String(text.clone()),
        Value::Number(number) if number.is_i64() => Field::Int(number.as_i64().unwrap()),
        Value::Number(number) => Field::Float(number.as_f64().unwrap()),
        other => Field::new_struct(other.clone()),
    }
}

fn told<T>(result: EvaluationResult<ResolutionDetails<T>>, given: impl Fn(T) -> Given) -> Value {
    let details = match result {
        Ok(details) => details,
        Err(error) => return json!({"code": error.code.to_string()}),
    };
    let metadata = details.flag_metadata.unwrap().values;
    let member = |name: &str| match metadata.get(name) {
        Some(FlagMetadataValue::Bool(value)) => json!(value),
        Some(FlagMetadataValue::Int(value)) => json!(value),
        other => panic!("{name}: {other:?}"),
    };
    json!({"value": json(&given(details.value)), "variant": details.variant,
        "reason": details.reason.unwrap().to_string(), "version": member("version"), "enabled": member("enabled")})
}

fn json(given: &Given) -> Value {
    match given {
        Given::Bool(value) => json!(value),
        Given::Int(value) => json!(value),
        Given::Float(value) => json!(value),
        Given::String(value) => json!(value),
        Given::Array(values) => values.iter().map(json).collect(),
        Given::Struct(StructValue { fields }) => {
            Value::Object(fields.iter().map(|(name, value)| (name.clone(), json(value))).collect())
        }
    }
}

/// The flags of all suites, each under a name of its own, and the questions about them whose answers are not chance.
fn specification() -> (Vec<Flag>, Vec<Question>) {
    let (mut flags, mut questions) = (Vec::new(), Vec::new());
    for (number, (_, suite)) in (1..).zip(spec::suites()) {
        let prefix = format!("{number}.");
        let snapshot = spec::snapshot(&suite);
        for mut definition in spec::definitions(&suite) {
            let name = format!("{prefix}{}", definition["name"].as_str().unwrap());
            definition["name"] = json!(name);
            for parent in definition["dependencies"].as_array_mut().into_iter().flatten() {
                parent["feature"] = json!(format!("{prefix}{}", parent["feature"].as_str().unwrap()));
            }
            flags.push(Flag::on(&name).body(definition));
        }
        for test in ["tests", "variantTests"].iter().flat_map(|kind| suite[*kind].as_array()).flatten() {
            let flags = snapshot.environment(spec::environment_of(test)).unwrap();
            let flag = flags.get(test["toggleName"].as_str().unwrap());
            let cacheability = |flag| flags.cacheability(flag, &spec::context(&test["context"]), 0);
            if flag.is_none_or(|flag| !matches!(cacheability(flag), Cacheability::Never(_))) {
                questions.push(Question::of(test, &prefix));
            }
        }
    }
    (flags, questions)
}

#[test]
fn both_providers_say_what_the_service_says() {
    let (stack, _shared) = Stack::shared();
    let group = group(stack).set("FLAGSTREAM_API__DURABILITY", "memory");
    let (flags, mut questions) = specification();
    let service = start(&group, &flags);
    let providers: [Box<dyn FeatureProvider>; 2] =
        [Box::new(over_http(&service, HttpOptions::default())), Box::new(ready(&group))];
    assert!(questions.len() >= 250, "only {} questions", questions.len());
    // Payloads of all kinds, and fields of all kinds in the context.
    let odd = "a/b%2F c?d#é🚩";
    for flag in ["on", "off", "theme", "max-retries", "config", "premium", "unknown", odd] {
        let mut question = Question::new(flag, "a/b%2F c?d#é🚩&e=f");
        let context = json!({"subscription_tier": "premium", "n": 5, "x": 2.5, "yes": true, "list": [1, {"a": null}],
            "sessionId": "s-9", "empty": "", "nothing": null});
        question.context = context.as_object().unwrap().clone();
        questions.push(question);
    }
    let (mut on, mut differences) = (0, Vec::new());
    for question in &questions {
        for value_type in TYPES {
            let expected = question.ask_service(&service, value_type);
            on += usize::from(expected["enabled"] == true);
            for provider in &providers {
                let found = question.ask(&**provider, value_type);
                if found != expected {
                    let name = &provider.metadata().name;
                    differences.push(format!("{name}: {question:?} {value_type}\n  {found}, not {expected}"));
                }
            }
        }
    }
    println!("{} questions of {} types, {on} on", questions.len(), TYPES.len());
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
    assert!(on >= 150, "only {on} of them on");
}

#[test]
fn the_live_cases_are_as_in_all_languages() {
    let (stack, _shared) = Stack::shared();
    let group = group(stack);
    let service = start(&group, &[]);
    let providers: [Box<dyn FeatureProvider>; 2] =
        [Box::new(over_http(&service, HttpOptions::default())), Box::new(ready(&group))];
    let vectors: Value =
        serde_json::from_str(&std::fs::read_to_string(folder("clients/vectors.json")).unwrap()).unwrap();
    for case in vectors["live"].as_array().unwrap() {
        // OpenFeature has neither, no call without a default value, and no lists outside of objects in Rust.
        let has_other_terms = case.get("environment").is_some() || case.get("value_type").is_some();
        if has_other_terms || case["default"].is_null() || case["default"].is_array() {
            continue;
        }
        let mut question = Question::new(case["flag"].as_str().unwrap(), case["user_id"].as_str().unwrap());
        question.context = case["context"].as_object().cloned().unwrap_or_default();
        if let Some(session) = case.get("session_id") {
            question.context.insert("sessionId".to_owned(), session.clone());
        }
        let value_type = match &case["default"] {
            Value::Bool(_) => "boolean",
            Value::String(_) => "string",
            Value::Number(number) if number.is_f64() => "float",
            Value::Number(_) => "integer",
            _ => "object",
        };
        for provider in &providers {
            let found = question.ask(&**provider, value_type);
            let expected = case.get("expect").unwrap_or(case);
            let value = found.get("value").unwrap_or(&case["default"]);
            assert_eq!(value, &expected["value"], "{}: {case}: {found}", provider.metadata().name);
            if let Some(code) = expected.get("error_code").filter(|code| !code.is_null()) {
                assert_eq!(&found["code"], code, "{case}");
            }
        }
    }
}

#[test]
fn a_change_and_a_kill_reach_both_providers() {
    let (stack, _shared) = Stack::shared();
    let group = group(stack);
    let mut flags = Flags::new(&group.topics).later(1_000);
    let service = start(&group, &[Flag::on("burning")]);
    let following = over_http(&service, HttpOptions { follow_changes: true, ..HttpOptions::default() });
    let embedded = ready(&group);
    assert_eq!((following.status(), embedded.status()), (ProviderStatus::Ready, ProviderStatus::Ready));
    let providers: [&dyn FeatureProvider; 2] = [&following, &embedded];
    let theme = Question::new("theme", "u");
    let value = |provider| theme.ask(provider, "string")["value"].clone();
    for provider in providers {
        assert_eq!(value(provider), "dark");
    }
    assert_eq!(theme.ask(&following, "string")["reason"], "CACHED");
    flags.change(ENVIRONMENT, Flag::on("theme").variant("light", Some(("string", "light"))));
    for provider in providers {
        wait_until("the change is known", TEST_TIMEOUT, || value(provider) == "light");
    }

    let kill = format!("{}/api/v1/feature-flags/burning/kill?environment={ENVIRONMENT}", service.url);
    let burning = Question::new("burning", "u");
    assert_eq!(burning.ask(&embedded, "boolean")["value"], true);
    let killed = post(&kill, &json!({"reason": "it burns"}));
    assert_eq!(killed.status, 200, "{killed:?}");
    for provider in providers {
        wait_until("the flag is killed", TEST_TIMEOUT, || {
            let told = burning.ask(provider, "boolean");
            (&told["value"], &told["reason"]) == (&json!(false), &json!("DISABLED"))
        });
    }
    assert_eq!(burning.ask(&embedded, "string"), json!({"code": "DISABLED"}));

    block_on(embedded.close());
    assert_eq!(embedded.status(), ProviderStatus::STALE);
    assert_eq!(value(&embedded), "light", "it answers with what it has");
    wait_until("what the kill overtook is kept anew", TEST_TIMEOUT, || {
        theme.ask(&following, "string")["reason"] == "CACHED"
    });
    drop(service);
    wait_until("nobody is listened to", TEST_TIMEOUT, || following.status() == ProviderStatus::STALE);
    assert_eq!(value(&following), "light", "what was kept is served while nobody answers");
}

#[test]
fn without_kafka_flags_stay_as_they_were() {
    let (stack, exclusive) = Stack::exclusive();
    let group = Group::new(stack);
    let mut flags = Flags::new(&group.topics);
    flags.set(ENVIRONMENT, Flag::on("f"));
    let question = Question::new("f", "u");
    let is_on = |provider: &InProcessProvider| question.ask(provider, "boolean")["value"] == true;
    let before = ready(&group);
    assert!(is_on(&before));

    let stopped = stack.stop("kafka", &exclusive);
    let meanwhile = in_process(&group);
    assert_eq!(question.ask(&meanwhile, "boolean"), json!({"code": "PROVIDER_NOT_READY"}));
    assert!(!block_on(meanwhile.wait_until_ready(Duration::from_millis(100))));
    assert_eq!(meanwhile.status(), ProviderStatus::NotReady);
    wait_until("stale", TEST_TIMEOUT, || before.status() == ProviderStatus::STALE);
    assert!(is_on(&before));

    drop(stopped);
    for provider in [&before, &meanwhile] {
        wait_until("ready", TEST_TIMEOUT, || provider.status() == ProviderStatus::Ready);
        assert!(is_on(provider));
    }
    flags.set(ENVIRONMENT, Flag::off("f"));
    for provider in [&before, &meanwhile] {
        wait_until("the change is known", TEST_TIMEOUT, || !is_on(provider));
        block_on(provider.close());
    }
}
