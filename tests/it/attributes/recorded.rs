//! Replay, the audit trail, and the erasure of a user.

use serde_json::{Value, json};

use super::{ENVIRONMENT, FLAG, Rows, evaluated, group, is_on, row, set_flag, topic_of, until};
use crate::harness::{
    Database, HEALTH_TOKEN, Stack, TEST_TIMEOUT, TopicReader, call, flagstream, wait_until,
};

#[test]
fn a_replay_shows_no_difference_although_the_attributes_have_changed() {
    let (stack, _shared) = Stack::shared();
    let database = Database::create(stack);
    let group = group(stack)
        .set("DATABASE_URL", &database.url)
        .set("FLAGSTREAM_ATTRIBUTES__TABLE_WINS", "plan")
        .set("FLAGSTREAM_FEED__START_WITHOUT_SOURCE", "true");
    set_flag(&group.topics);
    let service = group.start("one");
    let rows = Rows::of(&group.topics);
    let users: Vec<_> = (0..20).map(|number| format!("user-{number}")).collect();
    let mut on = 0;
    for round in 0..6 {
        for (number, user) in users.iter().enumerate() {
            match (number + round) % 3 {
                0 => rows.put(user, &json!({"plan": "gold"})),
                1 => rows.put(user, &json!({"plan": "free"})),
                _ => rows.remove(user),
            };
        }
        rows.put("last", &json!({"plan": if round % 2 == 0 { "gold" } else { "free" }}));
        until(&service, "last", round % 2 == 0);
        for user in &users {
            on += u32::from(evaluated(&service, user, &json!({"plan": "gold", "n": round}))["value"] == true);
        }
    }
    assert!(on > 20, "{on}");
    let evaluations = || service.metrics().sum("flagstream_evaluations_total", &[]);
    wait_until("all rows", TEST_TIMEOUT, || database.audited() as f64 >= evaluations());
    let all = ["replay", "--from", "1h", "--output", "json"];
    let output = flagstream(group.folder.path(), &all, group.settings());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{report} {told}");
    assert!(report["same"].as_u64().unwrap_or_default() >= 120, "{report}");
    // The row names what was used; the chain of the audit trail covers it.
    let used = "SELECT attributes::text FROM feature_flag_evaluations WHERE flag_name = 'by-plan' \
        AND result AND attributes IS NOT NULL LIMIT 1";
    let used: Vec<(String,)> = database.rows(used);
    let used: Value = serde_json::from_str(&used[0].0).unwrap();
    assert_eq!(used["user"]["names"], json!(["plan"]));
    // So does the search.
    let bearer = format!("Bearer {HEALTH_TOKEN}");
    let url = format!("{}/api/v1/evaluations?flag_name=by-plan&user_id=user-0", service.url);
    let found = call("GET", &url, &[("authorization", bearer.as_str())], b"");
    assert_eq!(found.status, 200, "{found:?}");
    let found = found.json();
    let mut rows = found["evaluations"].as_array().unwrap().iter();
    assert!(rows.any(|row| row["attributes"]["user"]["names"] == json!(["plan"])), "{found}");
    let forged =
        "SELECT count(*) FROM feature_flag_evaluations WHERE NOT result AND context->>'plan' = 'gold'";
    assert_eq!(database.number(forged), Some(0));
    let verified = flagstream(group.folder.path(), &["audit", "verify"], group.settings());
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    let tampered = "UPDATE feature_flag_evaluations SET attributes = '{}' WHERE attributes IS NOT NULL";
    database.run(tampered);
    let verified = flagstream(group.folder.path(), &["audit", "verify"], group.settings());
    assert!(!verified.status.success(), "a change of the column is noticed");
}

#[test]
fn erasing_a_user_removes_the_row() {
    let (stack, _shared) = Stack::shared();
    let group = group(stack);
    set_flag(&group.topics);
    let service = group.start("one");
    let rows = Rows::of(&group.topics);
    rows.put("ann", &json!({"plan": "gold"}));
    rows.put("bob", &json!({"plan": "gold"}));
    until(&service, "ann", true);
    until(&service, "bob", true);
    let erased =
        flagstream(group.folder.path(), &["erase", "--user", "ann", "--output", "json"], group.settings());
    assert!(erased.status.success(), "{}", String::from_utf8_lossy(&erased.stderr));
    let report: Value = serde_json::from_slice(&erased.stdout).unwrap();
    assert_eq!(report["attributes"], 1, "{report}");
    until(&service, "ann", false);
    assert_eq!((row(&service, "ann"), is_on(&service, "bob")), (None, true));
    let mut topic = TopicReader::open(&group.topics.kafka, &topic_of(&group.topics));
    let last = topic.wait("the tombstone", TEST_TIMEOUT, |record| record.payload.is_none());
    assert_eq!(last.key.as_deref(), Some(&b"ann"[..]));
}

#[test]
fn privacy_settings_apply_to_joined_attributes() {
    let (stack, _shared) = Stack::shared();
    let group = group(stack)
        .set("FLAGSTREAM_PRIVACY__HASH_ATTRIBUTES", "plan")
        .set("FLAGSTREAM_PRIVACY__HASH_KEY", "a key of sixteen")
        .set("FLAGSTREAM_PRIVACY__USER_IDS", "hash");
    set_flag(&group.topics);
    let service = group.start("one");
    Rows::of(&group.topics).put("ann", &json!({"plan": "gold"}));
    until(&service, "ann", true);
    let answer = evaluated(&service, "ann", &json!({}));
    let mut events = TopicReader::open(&group.topics.kafka, &group.topics.events);
    let event =
        events.wait("its event", TEST_TIMEOUT, |event| event.json()["event_id"] == answer["event_id"]);
    let event = event.json();
    assert_eq!((&event["value"], &event["flag_name"]), (&json!("true"), &json!(FLAG)));
    assert_eq!(event["environment"], ENVIRONMENT);
    let plan = event["context"]["plan"].as_str().unwrap();
    assert!(plan.len() == 32 && plan != "gold", "{event}");
    assert!(!event.to_string().contains("ann"), "{event}");
}
