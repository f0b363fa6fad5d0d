//! Exposures as events: each one that is in the table is in the topic, with how the variant was chosen.

use std::collections::{BTreeMap, BTreeSet};

use chrono::Utc;
use serde_json::{Value, json};

use super::{ENVIRONMENT, Fixture, evaluate, rfc3339};
use crate::harness::{
    OpenApiValidator, Service, Stack, TEST_TIMEOUT, TopicReader, flagstream, post, wait_until,
};

const QUEUED: &str = "SELECT count(*) FROM experiment_exposure_events";
const EXPOSED: &str = "SELECT count(*) FROM experiment_exposures";

fn evaluate_with(service: &Service, user: &str, context: &Value) {
    let body = json!({"flag_name": "theme", "user_id": user, "default_value": "none", "environment": ENVIRONMENT,
        "context": context});
    let answer = post(&format!("{}/api/v1/feature-flags/evaluate", service.url), &body);
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn wait_for_exposures(fixture: &Fixture, count: i64) {
    wait_until("exposures", TEST_TIMEOUT, || fixture.database.number(EXPOSED) == Some(count));
}

/// Ids of the events that were read.
fn ids(reader: &TopicReader) -> BTreeSet<String> {
    reader.seen.iter().map(|event| event.json()["event_id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn each_first_exposure_is_an_event_also_if_the_publisher_is_killed() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    // The role sink alone, so that no event of a call is lost when it is killed.
    let mut sink = fixture.group.prepare("sink").roles("sink");
    sink.spawn();
    let mut service = fixture.group.prepare("one").roles("api,feeder");
    service.spawn();
    service.wait_until_ready();
    fixture.contract = Some(OpenApiValidator::of(&service.url));
    fixture.begin(&service, &json!([{"name": "purchase"}]));
    let topic = &fixture.group.topics.exposures;
    let mut reader = TopicReader::open(&fixture.group.topics.kafka, topic);
    for round in 0..3 {
        for number in 0..40 {
            let context = json!({"plan": if number % 2 == 0 { "gold" } else { "free" }});
            evaluate_with(&service, &format!("user-{}", number + 20 * round), &context);
        }
        // Some events are acknowledged, some deleted, some neither.
        wait_until("some exposures", TEST_TIMEOUT, || fixture.database.number(EXPOSED) > Some(20 * round));
        sink.kill();
        sink.spawn();
    }
    wait_for_exposures(&fixture, 80);
    reader.until("an event of each", TEST_TIMEOUT, |seen| seen.len() >= 80);
    wait_until("none waits", TEST_TIMEOUT, || fixture.database.number(QUEUED) == Some(0));
    reader.until("all of them", TEST_TIMEOUT, |seen| {
        let users: BTreeSet<_> = seen.iter().map(|event| event.json()["user_id"].to_string()).collect();
        users.len() == 80
    });
    assert_eq!(ids(&reader).len(), 80, "a repetition has the same id");

    let variants: BTreeMap<String, i64> = fixture
        .database
        .rows::<(String, i64)>("SELECT variant, count(*) FROM experiment_exposures GROUP BY 1")
        .into_iter()
        .collect();
    let mut published: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for event in &reader.seen {
        let body = event.json();
        let user = body["user_id"].as_str().unwrap();
        assert_eq!(event.key.as_deref(), Some(user.as_bytes()));
        published.entry(body["variant"].as_str().unwrap().to_owned()).or_default().insert(user.to_owned());
    }
    let published: BTreeMap<String, i64> =
        published.into_iter().map(|(variant, users)| (variant, users.len() as i64)).collect();
    assert_eq!(published, variants);

    let of_seven = reader.wait("user 7", TEST_TIMEOUT, |event| event.json()["user_id"] == "user-7").json();
    let evaluated = "SELECT event_id::text, flag_version FROM feature_flag_evaluations
        WHERE user_id = 'user-7' ORDER BY evaluated_at LIMIT 1";
    let (evaluation, version) = fixture.database.rows::<(String, i64)>(evaluated).remove(0);
    assert_eq!(
        (&of_seven["evaluation_id"], &of_seven["flag_version"]),
        (&json!(evaluation), &json!(version)),
        "{of_seven:#}"
    );
    assert_eq!(
        (&of_seven["event_type"], &of_seven["experiment"], &of_seven["environment"], &of_seven["flag_name"]),
        (&json!("FEATURE_FLAG_EXPOSED"), &json!("theme"), &json!(ENVIRONMENT), &json!("theme"))
    );
    assert_eq!(of_seven["assignment"]["how"], "drawn", "{of_seven:#}");
    assert_eq!(of_seven["assignment"]["weights"], json!({"dark": 500, "light": 500}), "{of_seven:#}");
    assert_eq!(of_seven["metadata"]["plan"], "free", "{of_seven:#}");
}

#[test]
fn exposures_wait_for_their_topic_and_past_ones_are_published_too() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    let topic = format!("{}-later", fixture.group.topics.exposures);
    fixture.group = fixture
        .group
        .set("FLAGSTREAM_TOPICS__EXPOSURES", topic.as_str())
        .set("FLAGSTREAM_PRIVACY__USER_IDS", "hash")
        .set("FLAGSTREAM_PRIVACY__HASH_ATTRIBUTES", "plan")
        .set("FLAGSTREAM_PRIVACY__HASH_KEY", "a key that nobody knows of, and long");
    let service = fixture.start("one");
    let started_at = rfc3339(Utc::now());
    (0..5).for_each(|number| drop(evaluate(&service, &format!("past-{number}"))));
    wait_until("rows", TEST_TIMEOUT, || fixture.database.audited() == 5);
    let body = json!({"name": "theme", "environment": ENVIRONMENT, "control": "light",
        "metrics": [{"name": "purchase"}], "started_at": started_at});
    fixture.create(&service, &body);
    (0..5).for_each(|number| evaluate_with(&service, &format!("new-{number}"), &json!({"plan": "gold"})));
    wait_for_exposures(&fixture, 10);
    wait_until("the log says why they wait", TEST_TIMEOUT, || {
        service.log().contains("if the topic is missing, create it with `flagstream topics apply`")
    });
    assert_eq!(fixture.database.number(QUEUED), Some(10));
    // An erased user has no event.
    let settings = fixture.group.settings();
    let erased = flagstream(fixture.group.folder.path(), &["erase", "--user", "new-0"], settings);
    assert!(erased.status.success(), "{erased:?}");
    assert_eq!(fixture.database.number(QUEUED), Some(9));

    fixture.group.topics.create(&topic, 1);
    let mut reader = TopicReader::open(&fixture.group.topics.kafka, &topic);
    reader.until("all events", TEST_TIMEOUT, |seen| seen.len() == 9);
    let past = reader.seen.iter().filter(|event| event.json()["evaluation_id"].is_null()).count();
    assert_eq!(past, 5, "those that were read from rows");
    for event in &reader.seen {
        let body = event.json();
        let text = body.to_string();
        assert!(!text.contains("past-") && !text.contains("new-") && !text.contains("gold"), "{text}");
        assert_eq!(body["user_id"].as_str().unwrap().len(), 32, "{text}");
    }
}

#[test]
fn a_conversions_metadata_is_kept_on_both_paths_and_exported() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    fixture.group = fixture
        .group
        .set("FLAGSTREAM_EXPERIMENTS__EXPOSURE_EVENTS", "false")
        .set("FLAGSTREAM_PRIVACY__DROP_ATTRIBUTES", "card");
    let service = fixture.start("one");
    fixture.begin(&service, &json!([{"name": "purchase"}]));
    evaluate(&service, "ann");
    wait_for_exposures(&fixture, 1);
    assert_eq!(fixture.database.number(QUEUED), Some(0), "exposures have no events if they are off");
    let now = rfc3339(Utc::now());
    let conversion = |id: &str| {
        json!({"user_id": "ann", "metric": "purchase", "occurred_at": now, "event_id": id,
            "metadata": {"card": "1234", "payment": "visa", "items": 2}})
    };
    let answer = fixture.ask(&service, "POST", "/theme/conversions", &conversion("http"));
    assert_eq!(answer.status, 202, "{answer:?}");
    let mut of_kafka = conversion("kafka");
    of_kafka["experiment"] = json!("theme");
    fixture.convert(&crate::harness::Sender::new(&fixture.group.topics.kafka), &of_kafka);
    let metadata = "SELECT metadata::text FROM experiment_conversions";
    let stored = || fixture.database.rows::<(String,)>(metadata);
    wait_until("both", TEST_TIMEOUT, || stored().len() == 2);
    for (text,) in stored() {
        let metadata: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(metadata, json!({"payment": "visa", "items": 2}));
    }
    let mut wrong = conversion("wrong");
    wrong["metadata"] = json!("visa");
    let answer = fixture.ask(&service, "POST", "/theme/conversions", &wrong);
    assert_eq!(
        (answer.status, &answer.json()["errors"][0]["field"]),
        (422, &json!("metadata")),
        "{answer:?}"
    );

    let out = fixture.group.folder.path().join("export").to_string_lossy().into_owned();
    let arguments = ["experiments", "export", "theme", "--environment", ENVIRONMENT, "--out", &out];
    let exported = flagstream(fixture.group.folder.path(), &arguments, fixture.group.settings());
    assert!(exported.status.success(), "{exported:?}");
    let csv = std::fs::read_to_string(format!("{out}/conversions.csv")).unwrap();
    assert!(csv.starts_with("user,metric,value,occurred_at,metadata\n"), "{csv}");
    assert_eq!(csv.matches(r#"""payment"": ""visa"""#).count(), 2, "{csv}");
}
