//! Component tests of the whole feeder.

mod fixture;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::header;
use chrono::{DateTime, TimeDelta};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use serde_json::{Value, json};

use crate::message::source_status::SourceStatus;
use crate::store::{Missing, Store};

use super::{EnvironmentHealth, Role};
use fixture::{Fixture, Running, flag, until};

fn environment(running: &Running) -> EnvironmentHealth {
    running.health.load().environments.get("dev").cloned().unwrap_or_default()
}

fn reason(running: &Running) -> Option<&'static str> {
    environment(running).error.map(|error| error.reason)
}

fn field<'v>(record: &'v (String, Option<Value>), name: &str) -> &'v Value {
    &record.1.as_ref().unwrap()[name]
}

async fn synced(running: &Running, flags: usize) {
    until("first sync", || {
        environment(running).last_success.is_some() && environment(running).flags == flags
    })
    .await;
}

const HINT: &str = r#"{"event_type":"FEATURE_FLAG_UPDATED","flag_name":"a","environment":"dev"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_first_sync_publishes_definition_event_and_invalidation_of_each_flag() {
    let fixture = Fixture::new().await;
    fixture.unleash.serve(&[flag("a", true), flag("b", false)]);
    let running = fixture.feed("one");
    let (definitions, events, updates) = (
        fixture.repository("definitions", 2).await,
        fixture.repository("events", 2).await,
        fixture.repository("updates", 2).await,
    );
    for (index, name) in ["a", "b"].iter().enumerate() {
        let version = field(&definitions[index], "version").as_u64().unwrap();
        assert_eq!(definitions[index].0, format!("dev/{name}"));
        assert_eq!(field(&definitions[index], "definition")["name"], *name);
        assert_eq!(field(&events[index], "event_type"), "FEATURE_FLAG_CREATED");
        assert_eq!(field(&events[index], "version"), version);
        assert_eq!(field(&updates[index], "version"), version);
    }
    assert!(field(&definitions[0], "version").as_u64() < field(&definitions[1], "version").as_u64());
    until("leader", || running.health.load().role == Role::Leader).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_brings_a_change_without_any_refresh() {
    let fixture = Fixture::new().await;
    fixture.unleash.serve(&[flag("a", true), flag("b", true)]);
    let running = fixture.feed("one");
    synced(&running, 2).await;
    fixture.hint(HINT).await;
    until("keeps looking", || fixture.unleash.script().not_modified >= 3).await;

    fixture.unleash.serve(&[flag("a", false), flag("b", true)]);
    let updates = fixture.repository("updates", 3).await;
    assert_eq!(field(&updates[2], "event_type"), "FEATURE_FLAG_UPDATED");
    assert_eq!(field(&updates[2], "previous_version"), field(&updates[0], "version"));
    let events = fixture.repository("events", 3).await;
    assert!(field(&events[2], "previous_version").is_null());

    let requests = fixture.unleash.script().requests;
    fixture.unleash.serve(&[flag("b", true)]);
    fixture.hint(HINT).await;
    let definitions = fixture.repository("definitions", 4).await;
    assert_eq!(definitions[3], ("dev/a".to_owned(), None), "a tombstone");
    assert!(fixture.unleash.script().requests <= requests + 3, "the first hint was done with");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_a_whole_list_changes_nothing_and_shows_in_health() {
    let mut fixture = Fixture::new().await;
    fixture.refresh = Duration::from_millis(50);
    let good = [flag("a", true)];
    fixture.unleash.serve(&good);
    let running = fixture.feed("one");
    synced(&running, 1).await;
    let whole = json!({"features": good}).to_string();
    let cases = [
        (200, "", "empty"),
        (200, &whole[..whole.len() - 9], "truncated"),
        (200, "<html>login</html>", "not_json"),
        (200, r#"{"features":null}"#, "not_features"),
        (401, r#"{"name":"NoAccessError"}"#, "unauthorised"),
        (403, "", "unauthorised"),
        (429, "", "rate_limited"),
        (503, "<html>", "server_error"),
        (204, "", "unexpected_status"),
    ];
    for (status, body, expected) in cases {
        fixture.unleash.answer(status, body, Vec::new());
        until(expected, || reason(&running) == Some(expected)).await;
        fixture.unleash.serve(&good);
        until("well again", || reason(&running).is_none()).await;
    }
    fixture.unleash.serve(&[flag("a", true), flag("sign-of-life", true)]);
    let updates = fixture.repository("updates", 2).await;
    assert_eq!(updates[1].0, "dev/sign-of-life");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_most_flags_needs_a_second_answer() {
    let mut fixture = Fixture::new().await;
    fixture.refresh = Duration::from_millis(100);
    let all: Vec<Value> = (0..20).map(|n| flag(&format!("flag-{n:02}"), true)).collect();
    fixture.unleash.serve(&all);
    let running = fixture.feed("one");
    synced(&running, 20).await;

    fixture.unleash.serve(&all[..5]);
    until("held", || environment(&running).held_deletions == 15).await;
    fixture.unleash.serve(&all);
    until("well again", || environment(&running).held_deletions == 0).await;
    assert_eq!(environment(&running).flags, 20);

    fixture.unleash.serve(&all[..5]);
    until("agreed", || environment(&running).flags == 5).await;
    let definitions = fixture.repository("definitions", 35).await;
    assert!(definitions[20..].iter().all(|(_, body)| body.is_none()));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flag_that_cannot_be_compiled_is_refused_by_name() {
    let mut fixture = Fixture::new().await;
    fixture.refresh = Duration::from_millis(50);
    fixture.unleash.serve(&[flag("a", true), flag("b", true)]);
    let running = fixture.feed("one");
    synced(&running, 2).await;
    let bad = json!({"name": "a", "enabled": true, "strategies": [{"name": "default", "constraints": [7]}]});
    fixture.unleash.serve(&[bad, flag("b", false)]);
    let updates = fixture.repository("updates", 3).await;
    assert_eq!(updates[2].0, "dev/b");
    until("listed", || environment(&running).refused_total == 1).await;
    let refused = &environment(&running).refused[0];
    assert!(refused.flag == "a" && refused.reason.contains("constraints"), "{refused:?}");
    assert_eq!(environment(&running).flags, 2);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_honoured_even_when_a_hint_comes() {
    let mut fixture = Fixture::new().await;
    fixture.refresh = Duration::from_millis(50);
    fixture.unleash.answer(429, "", vec![(header::RETRY_AFTER, "2".to_owned())]);
    let running = fixture.feed("one");
    until("refused", || reason(&running) == Some("rate_limited")).await;
    let start = Instant::now();
    fixture.unleash.serve(&[flag("a", true)]);
    fixture.hint(HINT).await;
    synced(&running, 1).await;
    assert!(start.elapsed() > Duration::from_millis(1500), "{:?}", start.elapsed());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_leader_goes_on_where_it_was() {
    let fixture = Fixture::new().await;
    fixture.unleash.serve(&[flag("a", true), flag("b", true)]);
    let running = fixture.feed("one");
    synced(&running, 2).await;
    running.stop().await;

    fixture.unleash.serve(&[flag("a", true), flag("b", false)]);
    let running = fixture.feed("one");
    let updates = fixture.repository("updates", 3).await;
    assert_eq!(updates[2].0, "dev/b");
    assert_eq!(field(&updates[2], "previous_version"), field(&updates[1], "version"));
    synced(&running, 2).await;
    running.stop().await;
}

/// The mock broker does not fence producers by itself, so the error is injected.
#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_leader_steps_down_and_stands_again() {
    let mut fixture = Fixture::new().await;
    fixture.refresh = Duration::from_millis(100);
    fixture.unleash.serve(&[flag("a", true)]);
    let running = fixture.feed("one");
    synced(&running, 1).await;
    let fenced = RDKafkaRespErr::RD_KAFKA_RESP_ERR_PRODUCER_FENCED;
    fixture.cluster.request_errors(RDKafkaApiKey::EndTxn, &[fenced]);
    fixture.unleash.serve(&[flag("a", false)]);
    until("stepped down", || running.terms_ended("fenced") == 1).await;
    until("leads again", || running.health.load().role == Role::Leader).await;
    assert_eq!(running.health.load().failure, None);
    fixture.unleash.serve(&[flag("a", false), flag("sign-of-life", true)]);
    synced(&running, 2).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_unknown_outcome_the_leader_reads_what_is_in_force() {
    let mut fixture = Fixture::new().await;
    fixture.refresh = Duration::from_millis(100);
    fixture.unleash.serve(&[flag("a", true)]);
    let running = fixture.feed("one");
    synced(&running, 1).await;
    let failed = RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN;
    fixture.cluster.request_errors(RDKafkaApiKey::EndTxn, &[failed]);
    fixture.unleash.serve(&[flag("a", true), flag("b", true)]);
    until("a new term", || running.terms_ended("publish") == 1).await;
    synced(&running, 2).await;
    let updates = fixture.repository("updates", 2).await;
    assert_eq!(updates[1].0, "dev/b");
    running.stop().await;
}

fn text<'v>(status: &'v Value, name: &str) -> Option<&'v str> {
    status.get(name).and_then(Value::as_str)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_seen_of_a_source_is_written_before_its_flags_and_after_them() {
    let fixture = Fixture::new().await;
    fixture.unleash.answer(503, "", vec![(header::RETRY_AFTER, "0".to_owned())]);
    let running = fixture.feed("one");
    let begun = fixture.statuses(2).await;
    assert_eq!((text(&begun[0], "source"), text(&begun[0], "environment")), (Some("unleash"), Some("dev")));
    assert!(begun[0]["synced_at"].is_null() && begun[0].get("error").is_none(), "{begun:?}");
    assert!(begun[1]["synced_at"].is_null() && begun[1]["error"]["reason"] == "server_error", "{begun:?}");
    fixture.unleash.serve(&[flag("a", true)]);
    synced(&running, 1).await;
    let statuses = fixture.statuses(3).await;
    assert!(statuses[2]["synced_at"].is_string() && statuses[2].get("error").is_none(), "{statuses:?}");
    assert_eq!(text(&statuses[2], "leader"), Some("one"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_without_flags_counts_as_synced() {
    let fixture = Fixture::new().await;
    let running = fixture.feed("one");
    let statuses = fixture.statuses(2).await;
    assert!(statuses[0]["synced_at"].is_null() && statuses[1]["synced_at"].is_string(), "{statuses:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_says_who_it_is_and_keeps_when_the_source_was_synced_first() {
    let fixture = Fixture::new().await;
    fixture.unleash.serve(&[flag("a", true)]);
    let running = fixture.feed("one");
    synced(&running, 1).await;
    running.stop().await;
    let running = fixture.feed("two");
    let statuses = fixture.statuses(3).await;
    assert_eq!(statuses[2]["synced_at"], statuses[1]["synced_at"], "{statuses:?}");
    assert_eq!(text(&statuses[2], "leader"), Some("two"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_writes_again_what_its_store_says_is_lost_and_announces_nothing() {
    let fixture = Fixture::new().await;
    fixture.unleash.answer(503, "", Vec::new());
    let store = Arc::new(Store::default());
    let running = fixture.feed_with("one", Arc::clone(&store));
    until("leader", || running.health.load().role == Role::Leader).await;
    let lost = |name: &str| {
        let key = format!("dev/{name}");
        let body = json!({"environment": "dev", "flag_name": name, "source": "unleash", "version": 7,
            "checksum": "c", "definition": flag(name, true)});
        (key.into(), serde_json::to_vec(&body).unwrap().into())
    };
    // The leader began before the loss was noticed, and has written that the source was never synced.
    let status: SourceStatus = serde_json::from_value(fixture.statuses(1).await.remove(0)).unwrap();
    assert_eq!(status.synced_at, None);
    let synced_at = Some(DateTime::UNIX_EPOCH + TimeDelta::days(20_000));
    let sources = Arc::new([(status.name(), SourceStatus { synced_at, ..status })].into());
    store.lose(Missing { definitions: vec![lost("a"), lost("b")], sources, ..Missing::default() });
    until("a new term", || running.terms_ended("lost") == 1).await;
    let definitions = fixture.repository("definitions", 2).await;
    assert_eq!(definitions[0].0, "dev/a");
    assert_eq!(field(&definitions[1], "version"), 7, "as it was");
    let statuses = fixture.statuses(4).await;
    let is_synced =
        |status: &Value| text(status, "synced_at").is_some_and(|time| time.starts_with("2024-10-04"));
    assert!(statuses.iter().any(is_synced), "{statuses:?}");
    // The next change is based on the restored definitions, and is the first that is announced.
    fixture.unleash.serve(&[flag("a", true), flag("b", false)]);
    let updates = fixture.repository("updates", 1).await;
    assert_eq!(field(&updates[0], "previous_version"), 7);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_has_the_name_that_the_webhook_gave() {
    let fixture = Fixture::new().await;
    fixture.unleash.serve(&[flag("a", true)]);
    let running = fixture.feed("one");
    synced(&running, 1).await;
    fixture
        .hint(r#"{"type":"feature-environment-disabled","createdBy":"ann","featureName":"a","environment":"dev"}"#)
        .await;
    until("keeps looking", || fixture.unleash.script().not_modified >= 2).await;
    fixture.unleash.serve(&[flag("a", false)]);
    let (definitions, events) =
        (fixture.repository("definitions", 2).await, fixture.repository("events", 2).await);
    assert_eq!((field(&definitions[1], "actor"), field(&events[1], "actor")), (&json!("ann"), &json!("ann")));
    assert_eq!(field(&events[0], "actor"), "unleash", "nobody said so");
    running.stop().await;
}

/// A description with which a definition is within its limit, but its record is not within the producer's.
const NEARLY_TOO_LONG: usize = 999_850;

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_too_large_for_the_topic_holds_up_neither_other_changes_nor_their_hints() {
    let fixture = Fixture::new().await;
    fixture.unleash.serve(&[flag("a", true), flag("b", true)]);
    let running = fixture.feed("one");
    synced(&running, 2).await;
    fixture
        .hint(r#"{"type":"feature-environment-disabled","createdBy":"ann","featureName":"b","environment":"dev"}"#)
        .await;
    until("keeps looking", || fixture.unleash.script().not_modified >= 2).await;
    let mut large = flag("a", true);
    large["description"] = "x".repeat(NEARLY_TOO_LONG).into();
    fixture.unleash.serve(&[large, flag("b", false)]);
    // The regular poll never comes in this test.
    let definitions = fixture.repository("definitions", 3).await;
    assert_eq!((definitions[2].0.as_str(), field(&definitions[2], "actor")), ("dev/b", &json!("ann")));
    until("listed", || environment(&running).refused_total == 1).await;
    let refused = &environment(&running).refused[0];
    assert!(refused.flag == "a" && refused.reason.contains("larger than max.message.bytes"), "{refused:?}");
    running.stop().await;
}
