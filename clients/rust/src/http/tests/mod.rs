//! Tests of the provider with a scripted server.

mod scripted;
mod vectors;

use std::time::Duration;

use open_feature::provider::{FeatureProvider, ProviderStatus};
use open_feature::{EvaluationContext, EvaluationErrorCode, EvaluationReason, OpenFeature};
use serde_json::{Value, json};

use super::{HttpOptions, HttpProvider, InvalidOption};

use scripted::{Answer, Server};

fn good() -> Value {
    json!({"flag_name": "f", "value": true, "enabled": true, "variant": null, "reason": "TARGETING_MATCH",
        "error_code": null, "error_message": null, "flag_version": 10, "environment": "e", "flags_version": 10})
}

fn say(status: u16, body: impl Into<Vec<u8>>) -> Answer {
    Answer::Say(status, Vec::new(), body.into())
}

async fn provider(answers: Vec<Answer>, options: HttpOptions) -> HttpProvider {
    HttpProvider::new(&Server::start(answers).await.url, options).unwrap()
}

fn once() -> HttpOptions {
    HttpOptions {
        max_retries: 0,
        attempt_timeout: Duration::from_secs(30),
        timeout: Duration::from_secs(30),
        ..HttpOptions::default()
    }
}

#[tokio::test]
async fn each_failure_has_a_code_of_openfeature() {
    use EvaluationErrorCode::{FlagNotFound, InvalidContext, ParseError, ProviderNotReady};
    let general = || EvaluationErrorCode::General("GENERAL".into());
    let with = |members: Value| {
        let mut answer = good();
        answer.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        say(200, answer.to_string())
    };
    let context = json!({"errors": [{"field": "context.a", "message": "?"}]}).to_string();
    let flag = json!({"errors": [{"field": "flag_name", "message": "?"}]}).to_string();
    let table = [
        (Answer::Drop, general()),
        (Answer::Hang, general()),
        (say(500, ""), general()),
        (say(503, "{}"), general()),
        (say(401, ""), general()),
        (say(404, ""), general()),
        (say(422, flag), general()),
        (say(400, context), InvalidContext),
        (say(200, "<html>"), ParseError),
        (say(200, "{\"value\": true}"), ParseError),
        (say(200, vec![b' '; 33 << 20]), ParseError),
        (Answer::Begin(vec![b' '; 33 << 20]), ParseError),
        (say(302, ""), ParseError),
        (with(json!({"error_code": "FLAG_NOT_FOUND"})), FlagNotFound),
        (with(json!({"error_code": "PROVIDER_NOT_READY", "reason": "ERROR"})), ProviderNotReady),
    ];
    for (answer, code) in table {
        let told = format!("{answer:.80?}");
        let attempt_timeout =
            Duration::from_millis(if matches!(answer, Answer::Hang) { 100 } else { 30_000 });
        let provider = provider(vec![answer], HttpOptions { attempt_timeout, ..once() }).await;
        let error = provider.resolve_bool_value("f", &EvaluationContext::default()).await.unwrap_err();
        assert_eq!(error.code, code, "{told:.200}: {error:?}");
    }
    let nowhere = HttpProvider::new("http://127.0.0.1:1", once()).unwrap();
    let error = nowhere.resolve_bool_value("f", &EvaluationContext::default()).await.unwrap_err();
    assert_eq!(error.code, general());
}

#[tokio::test]
async fn a_clients_default_counts_until_there_is_an_answer() {
    let answers = vec![say(500, ""), say(200, good().to_string())];
    let provider = provider(answers, once()).await;
    let mut api = OpenFeature::default();
    api.set_provider(provider).await;
    let client = api.create_client();
    assert!(!client.get_bool_value("f", None, None).await.unwrap_or(false));
    assert!(client.get_bool_value("f", None, None).await.unwrap_or(false));
}

#[tokio::test]
async fn what_was_kept_says_so() {
    let options = HttpOptions { cache: true, ..once() };
    let provider = provider(vec![say(200, good().to_string())], options).await;
    let context = EvaluationContext::default();
    let reasons = [EvaluationReason::TargetingMatch, EvaluationReason::Cached];
    for reason in reasons {
        let details = provider.resolve_bool_value("f", &context).await.unwrap();
        assert_eq!((details.value, details.reason), (true, Some(reason)));
    }
}

#[tokio::test]
async fn an_attempt_that_is_given_up_leaves_the_circuit_as_it_was() {
    let options = HttpOptions { failure_threshold: 1, ..once() };
    let provider = provider(vec![say(500, ""), Answer::Hang, say(200, good().to_string())], options).await;
    let context = EvaluationContext::default();
    assert_eq!(provider.status(), ProviderStatus::Ready);
    assert!(provider.resolve_bool_value("f", &context).await.is_err());
    assert_eq!(provider.status(), ProviderStatus::Error);
    provider.client.clock.advance(Duration::from_secs(61));
    let given_up =
        tokio::time::timeout(Duration::from_millis(50), provider.resolve_bool_value("f", &context));
    assert!(given_up.await.is_err());
    assert!(provider.resolve_bool_value("f", &context).await.unwrap().value, "the next one goes through");
    assert_eq!(provider.status(), ProviderStatus::Ready);
}

#[tokio::test]
async fn a_stream_of_changes_overtakes_what_is_kept() {
    let newer = json!({"value": false, "flags_version": 12});
    let mut later = good();
    later.as_object_mut().unwrap().extend(newer.as_object().unwrap().clone());
    let events = "id: 11\n\nid: 12\ndata: {\"version\": 12, \"environment\": \"e\"}\n\n";
    let (environment, token) = (Some("a&b".to_owned()), Some("fst_1_a".into()));
    let options = HttpOptions { follow_changes: true, environment, token, ..once() };
    let answers = [good(), later].map(|answer| say(200, answer.to_string()));
    let server = Server::start([Answer::Begin(events.into())].into_iter().chain(answers).collect()).await;
    let mut provider = HttpProvider::new(&server.url, options).unwrap();
    assert_eq!(provider.status(), ProviderStatus::STALE);
    let context = EvaluationContext::default();
    provider.initialize(&context).await;
    assert_eq!(provider.client.cache.newest(), 12);
    for expected in [true, false, false] {
        assert_eq!(provider.resolve_bool_value("f", &context).await.unwrap().value, expected);
    }
    let seen = server.seen.lock().unwrap();
    assert_eq!(seen[0].path, "/api/v1/changes?environment=a%26b");
    assert!(seen.iter().all(|seen| seen.headers["authorization"] == "Bearer fst_1_a"));
    assert_eq!(seen[1].body["environment"], "a&b");
    assert_eq!(seen[1].headers["if-flags-version"], "12");
}

#[test]
fn options_that_make_no_sense_are_named() {
    let option = |url: &str, options: HttpOptions| match HttpProvider::new(url, options) {
        Err(InvalidOption { option, .. }) => option,
        Ok(provider) => panic!("{provider:?}"),
    };
    let default = HttpOptions::default;
    assert_eq!(option("ftp://host", default()), "url");
    assert_eq!(option("host:8082", default()), "url");
    assert_eq!(option("http://h", HttpOptions { token: Some("a\nb".into()), ..default() }), "token");
    assert_eq!(option("http://h", HttpOptions { timeout: Duration::MAX, ..default() }), "timeout");
    assert_eq!(option("http://h", HttpOptions { failure_threshold: 0, ..default() }), "failure_threshold");
    let options = HttpOptions { token: Some("fst_1_secret".into()), ..default() };
    assert!(!format!("{:?}", HttpProvider::new("http://h/base/", options).unwrap()).contains("secret"));
}
