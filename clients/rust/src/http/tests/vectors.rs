//! The scripted cases of `clients/vectors.json`, limited to those that OpenFeature supports: single flags, without a
//! separate session, and with types in place of defaults.

use std::time::Duration;

use open_feature::provider::FeatureProvider;
use open_feature::{EvaluationContext, EvaluationContextFieldValue as Field};
use serde_json::{Value, json};

use crate::http::error::{Error, Kind};
use crate::http::{HttpOptions, HttpProvider, Token};
use crate::question::body;

use super::scripted::{Answer, Seen, Server};

/// Number of cases in the file that use only calls which OpenFeature has.
const CASES: usize = 30;

#[tokio::test]
async fn the_scripted_cases_are_as_in_all_languages() {
    let vectors: Value = serde_json::from_str(include_str!("../../../../vectors.json")).unwrap();
    let mut run = 0;
    for case in vectors["scripted"].as_array().unwrap() {
        // In this case, calls for several flags send no request because the circuit is open.
        let breaks = case["name"].as_str().unwrap().starts_with("the circuit opens");
        let steps = case["steps"].as_array().unwrap().iter();
        let steps: Vec<_> = steps.filter(|step| !breaks || step.get("flags").is_none()).collect();
        if steps.iter().all(|step| is_openfeature(step)) {
            run_case(case, &steps, &vectors["answer"]).await;
            run += 1;
        }
    }
    assert_eq!(run, CASES, "cases of vectors.json that could be run");
}

fn is_openfeature(step: &Value) -> bool {
    let only_elsewhere =
        ["flags", "session_id", "environment", "value_type", "min_version", "follow", "clear_cache"];
    // Values that are numbers or lists have no default of OpenFeature's structures.
    let has_default =
        step.get("default").is_none_or(|value| value.is_boolean() || value.is_string() || value.is_object());
    has_default
        && only_elsewhere.iter().all(|member| step.get(member).is_none())
        && step
            .get("call")
            .is_none_or(|call| ["is_enabled", "evaluate_flag", "evaluate"].iter().any(|c| call == c))
        && (step.get("call").is_some() || step.get("advance_s").is_some() || step.get("invalidate").is_some())
}

async fn run_case(case: &Value, steps: &[&Value], answer: &Value) {
    let answers = case["answers"].as_array().unwrap().iter().map(|told| said(told, answer)).collect();
    let server = Server::start(answers).await;
    let provider = HttpProvider::new(&server.url, options(&case["options"])).unwrap();
    for step in steps {
        if let Some(seconds) = step["advance_s"].as_u64() {
            provider.client.clock.advance(Duration::from_secs(seconds));
        } else if let Some(version) = step["invalidate"]["version"].as_u64() {
            provider.invalidate(version, step["invalidate"]["environment"].as_str().unwrap_or_default());
        } else {
            run_step(&provider, step, &format!("{}: {step}", case["name"])).await;
        }
    }
    let seen = server.seen.lock().unwrap();
    let expected = case["requests"].as_array().unwrap();
    assert_eq!(seen.len(), expected.len(), "{}: requests {seen:#?}", case["name"]);
    for (seen, expected) in seen.iter().zip(expected) {
        compare(seen, expected, &case["name"]);
    }
}

async fn run_step(provider: &HttpProvider, step: &Value, case: &str) {
    let flag = step["flag"].as_str().unwrap();
    let context = context(step);
    if let Some(expected) = step.get("error") {
        let environment = provider.client.options.environment.as_deref();
        let body = body(flag, "boolean", &context, environment).unwrap();
        let error = provider.client.ask(body).await.expect_err(case);
        return compare_error(&error, expected, case);
    }
    let default = &step["default"];
    let value = match default {
        Value::Bool(_) => {
            provider.resolve_bool_value(flag, &context).await.ok().map(|said| json!(said.value))
        }
        Value::String(_) => {
            provider.resolve_string_value(flag, &context).await.ok().map(|said| json!(said.value))
        }
        Value::Object(_) => match provider.resolve_struct_value(flag, &context).await {
            Ok(said) => panic!("{case}: no case is answered with a structure, got {:?}", said.value),
            Err(_) => None,
        },
        other => panic!("{case}: a default of {other}"),
    };
    let value = value.unwrap_or_else(|| default.clone());
    let expected = step["expect"].get("value").unwrap_or(&step["expect"]);
    assert_eq!(&value, expected, "{case}");
}

fn context(step: &Value) -> EvaluationContext {
    let members = step["context"].as_object().into_iter().flatten();
    let custom_fields =
        members.map(|(name, value)| (name.clone(), Field::new_struct(value.clone()))).collect();
    EvaluationContext { targeting_key: step["user_id"].as_str().map(str::to_owned), custom_fields }
}

fn options(told: &Value) -> HttpOptions {
    let mut options = HttpOptions { backoff_base: Duration::ZERO, ..HttpOptions::default() };
    for (name, value) in told.as_object().into_iter().flatten() {
        let time = || Duration::from_secs_f64(value.as_f64().unwrap());
        let count = || value.as_u64().unwrap();
        match name.as_str() {
            "environment" => options.environment = value.as_str().map(str::to_owned),
            "token" => options.token = value.as_str().map(Token::from),
            "max_retries" => options.max_retries = count() as u32,
            "timeout_s" => options.timeout = time(),
            "attempt_timeout_s" => options.attempt_timeout = time(),
            "failure_threshold" => options.failure_threshold = count() as u32,
            "recovery_timeout_s" => options.recovery_timeout = time(),
            "cache" => options.cache = value == true,
            "cache_ttl_s" => options.cache_ttl = time(),
            "cache_max_entries" => options.cache_max_entries = count() as usize,
            other => panic!("an option unknown here: {other}"),
        }
    }
    options
}

fn said(told: &Value, answer: &Value) -> Answer {
    if told["drop"] == true {
        return Answer::Drop;
    }
    if told["hang"] == true {
        return Answer::Hang;
    }
    let status = told["status"].as_u64().unwrap_or(200) as u16;
    let headers = told["headers"].as_object().into_iter().flatten();
    let headers = headers.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect();
    let text = match (told["text"].as_str(), status) {
        (Some(text), _) => text.to_owned(),
        (None, 200) => {
            let mut answer = answer.as_object().unwrap().clone();
            answer.extend(told["body"].as_object().cloned().unwrap_or_default());
            json!(answer).to_string()
        }
        (None, _) => told["problem"].to_string(),
    };
    Answer::Say(status, headers, text.into_bytes())
}

fn compare(seen: &Seen, expected: &Value, case: &Value) {
    let members = |name: &str| expected[name].as_object().cloned().unwrap_or_default();
    for (name, value) in members("headers") {
        assert_eq!(seen.headers.get(&name).map(String::as_str), value.as_str(), "{case}: {name}");
    }
    for name in expected["without"].as_array().into_iter().flatten() {
        assert_eq!(seen.headers.get(name.as_str().unwrap()), None, "{case}: {name}");
    }
    assert_eq!(seen.method, expected["method"].as_str().unwrap_or("POST"), "{case}");
    assert_eq!(seen.path, expected["path"].as_str().unwrap_or("/api/v1/feature-flags/evaluate"), "{case}");
    // The requests have a type in place of a default value.
    for (name, value) in members("body").iter().filter(|(name, _)| *name != "default_value") {
        assert_eq!(&seen.body[name], value, "{case}: {name}");
    }
    if expected.get("whole_body").is_some() {
        let mut body = members("whole_body");
        body.remove("default_value");
        body.insert("value_type".to_owned(), json!("boolean"));
        assert_eq!(seen.body, Value::Object(body), "{case}");
    }
}

fn compare_error(error: &Error, expected: &Value, case: &str) {
    let kind = match error.kind {
        Kind::ConnectionFailed => "connection_failed",
        Kind::TimedOut => "timed_out",
        Kind::CircuitOpen => "circuit_open",
        Kind::InvalidRequest => "invalid_request",
        Kind::Unauthorized => "unauthorized",
        Kind::Forbidden => "forbidden",
        Kind::NotFound => "not_found",
        Kind::RateLimited => "rate_limited",
        Kind::Unavailable => "unavailable",
        Kind::InvalidAnswer => "invalid_answer",
    };
    for (name, value) in expected.as_object().unwrap() {
        let found = match name.as_str() {
            "kind" => json!(kind),
            "status" => json!(error.status),
            "detail" => json!(error.detail),
            "fields" => json!(error.fields),
            "retry_after_s" => json!(error.retry_after.as_secs()),
            other => panic!("{case}: an error's member unknown here: {other}"),
        };
        assert_eq!(&found, value, "{case}: {name} of {error}");
    }
}
