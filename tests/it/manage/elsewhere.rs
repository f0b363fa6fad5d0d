//! Flags that are managed elsewhere: in Unleash, or in a file.

use serde_json::{Value, json};

use super::{FLAGS, Fixture, encoded, evaluate, is_on, leads, new_flag, path, refused};
use crate::harness::{
    Admin, Answer, Dev, OpenApiValidator, Service, Stack, TEST_TIMEOUT, call, rollout, temporary_folder,
    wait_until,
};

const SYNC: &str = "/api/v1/feature-flags/sync?environment=development";

/// Fixture whose Unleash is polled once an hour, so that every effect is that of a call.
fn fixture(stack: &Stack) -> (Fixture, Admin) {
    let fixture = Fixture::new(stack)
        .set("UNLEASH_URL", &stack.unleash.url)
        .set("UNLEASH_API_TOKEN", &stack.unleash.development_token)
        .set("UNLEASH_REFRESH_INTERVAL", "3600s");
    let admin = Admin::new(stack, &fixture.group.topics.prefix);
    (fixture, admin)
}

fn looked(service: &Service) {
    wait_until("the first look at Unleash", TEST_TIMEOUT, || {
        service.metrics().sum("flagstream_feed_polls_total", &[("environment", "development")]) >= 1.0
    });
}

fn sync(fixture: &Fixture, service: &Service) -> Value {
    let synced = fixture.ask(service, "POST", SYNC, &[], &Value::Null);
    assert_eq!(synced.status, 200, "{synced:?}");
    synced.json()
}

/// Syncs until a flag is managed there: Unleash serves a change a while after it has confirmed it, and not to all
/// kinds of clients at the same moment.
fn sync_until(fixture: &Fixture, service: &Service, name: &str, source: &str) -> Value {
    let mut synced = Value::Null;
    wait_until("seen by a sync", TEST_TIMEOUT, || {
        synced = sync(fixture, service);
        fixture.show(service, name).json()["source"] == source
    });
    synced
}

#[test]
fn a_flag_of_unleash_is_changed_there_only_and_shadows_a_local_one() {
    let (stack, _shared) = Stack::shared();
    let (mut fixture, admin) = fixture(stack);
    let service = fixture.start("one");
    looked(&service);
    let name = admin.name("both");
    let mut local = new_flag(&name);
    local["rollout_percentage"] = json!(0);
    let made = fixture.create(&service, &local);
    assert_eq!(made.status, 201, "{made:?}");
    assert!(!is_on(&service, &name, "u"));

    // Unleash has one of the same name: it is in force, the local one is not forgotten.
    admin.create("both", &rollout(&json!([])));
    let synced = sync_until(&fixture, &service, &name, "unleash");
    assert!(synced["synced_count"].as_u64() >= Some(1), "{synced}");
    assert!(is_on(&service, &name, "u"));
    let shown = fixture.show(&service, &name);
    let flag = shown.json();
    assert_eq!(
        (&flag["source"], &flag["in_force"], shown.header("etag")),
        (&json!("unleash"), &json!(true), "")
    );
    assert_eq!(flag["shadowed"]["rollout_percentage"], "0");
    let refused = [
        fixture.update(&service, &name, &json!({"is_enabled": false})),
        fixture.delete(&service, &name),
        fixture.create(&service, &local),
    ];
    for answer in &refused {
        assert_eq!(answer.status, 409, "{answer:?}");
    }
    for answer in &refused {
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("Unleash at") && detail.contains(&stack.unleash.url), "{detail}");
    }
    assert!(is_on(&service, &name, "u"));

    // It is gone from Unleash: the local one is in force again, without a moment in between.
    admin.archive("both");
    sync_until(&fixture, &service, &name, "local");
    let again = fixture.show(&service, &name).json();
    assert_eq!(
        (&again["source"], &again["in_force"], &again["shadowed"]),
        (&json!("local"), &json!(true), &Value::Null)
    );
    assert!(!is_on(&service, &name, "u"));
    let topics = &fixture.group.topics;
    let mut updates = crate::harness::TopicReader::open(&topics.kafka, &topics.updates);
    updates.wait("the last change", TEST_TIMEOUT, |record| record.json()["version"] == again["version"]);
    let told: Vec<_> = updates
        .seen
        .iter()
        .map(|record| record.json())
        .filter(|change| change["flag_name"] == name.as_str())
        .map(|change| change["event_type"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(told, ["FEATURE_FLAG_CREATED", "FEATURE_FLAG_UPDATED", "FEATURE_FLAG_UPDATED"]);

    // A shadowed one can be deleted, in so many words.
    admin.create("other", &rollout(&json!([])));
    let other = admin.name("other");
    // Made before Unleash's is seen here.
    assert_eq!(fixture.create(&service, &new_flag(&other)).status, 201);
    sync_until(&fixture, &service, &other, "unleash");
    let shadowed = format!("{}&shadowed=true", path(&other));
    assert_eq!(fixture.ask(&service, "DELETE", &shadowed, &[], &Value::Null).status, 204);
    let left = fixture.show(&service, &other).json();
    assert_eq!((&left["source"], &left["shadowed"]), (&json!("unleash"), &Value::Null));
    admin.archive("other");
}

#[test]
fn a_sync_brings_what_the_admin_api_tells() {
    let (stack, _shared) = Stack::shared();
    let (fixture, admin) = fixture(stack);
    let mut fixture = fixture.set("UNLEASH_ADMIN_TOKEN", &stack.unleash.admin_token);
    let service = fixture.start("one");
    looked(&service);
    let flags: Vec<_> = (0..3).map(|number| (format!("f-{number}"), rollout(&json!([])))).collect();
    admin.create_all(&flags);
    let synced = sync_until(&fixture, &service, &admin.name("f-2"), "unleash");
    assert_eq!((&synced["environment"], &synced["admin"]), (&json!("development"), &json!(true)));
    let served = admin
        .served()
        .into_iter()
        .filter(|flag| flag["name"].as_str().unwrap().starts_with(&admin.name("")))
        .count();
    assert_eq!(served, 3);
    assert!(synced["synced_count"].as_u64() >= Some(3), "{synced}");
    let name = admin.name("f-0");
    assert!(is_on(&service, &name, "u"));
    let shown = fixture.show(&service, &name).json();
    let theirs = admin.read(&format!("/projects/default/features/{name}")).unwrap();
    assert_eq!((&shown["type"], &shown["project"]), (&theirs["type"], &theirs["project"]));
    assert_eq!((&shown["owner"], &shown["unleash_flag_name"]), (&theirs["createdBy"]["name"], &json!(name)));
    let time = |value: &Value| value.as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    assert_eq!(time(&shown["created_at"]), time(&theirs["createdAt"]));
    assert!((chrono::Utc::now() - time(&shown["last_synced_at"])).num_seconds() < 60);

    let nowhere =
        fixture.ask(&service, "POST", &format!("{FLAGS}/sync?environment=nowhere"), &[], &Value::Null);
    assert_eq!((nowhere.status, refused(&nowhere)), (422, vec!["environment".to_owned()]));
    let none = fixture.ask(&service, "POST", &format!("{FLAGS}/sync"), &[], &Value::Null);
    assert_eq!((none.status, refused(&none)), (422, vec!["environment".to_owned()]));
    for (flag, _) in &flags {
        admin.archive(flag);
    }
}

#[test]
fn a_source_that_cannot_be_looked_at_is_told_and_evaluation_goes_on() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack)
        .set("UNLEASH_URL", "http://127.0.0.1:1")
        .set("UNLEASH_API_TOKEN", "x:development.y")
        .set("FLAGSTREAM_FEED__START_WITHOUT_SOURCE", "true");
    let service = fixture.start("one");
    leads(&service);
    let answer = fixture.ask(&service, "POST", SYNC, &[], &Value::Null);
    assert_eq!(answer.status, 502, "{answer:?}");
    assert!(answer.body.contains("unreachable") && !answer.body.contains("127.0.0.1"), "{answer:?}");
    // Local flags need no Unleash.
    assert_eq!(fixture.create(&service, &new_flag("f")).status, 201);
    assert!(is_on(&service, "f", "u"));
    // The four outcomes of the contract.
    assert_eq!(evaluate(&service, "f", "u")["reason"], "TARGETING_MATCH");
    assert_eq!(evaluate(&service, "none", "u")["reason"], "DEFAULT");
    assert_eq!(fixture.update(&service, "f", &json!({"is_enabled": false})).status, 200);
    assert_eq!(evaluate(&service, "f", "u")["reason"], "DEFAULT");
    let body = json!({"flag_name": "f", "user_id": "u", "environment": "elsewhere", "default_value": true});
    let url = format!("{}/api/v1/feature-flags/evaluate", service.url);
    let other =
        call("POST", &url, &[("content-type", "application/json")], body.to_string().as_bytes()).json();
    assert_eq!((&other["reason"], &other["value"]), (&json!("ERROR"), &json!(true)));
}

fn ask(dev: &Dev, method: &str, path: &str, body: &Value) -> Answer {
    let text = if body.is_null() { String::new() } else { body.to_string() };
    call(method, &format!("{}{path}", dev.url), &[("content-type", "application/json")], text.as_bytes())
}

#[test]
fn in_dev_local_flags_are_in_sqlite_and_those_of_the_file_are_left_alone() {
    let folder = temporary_folder();
    let dev = Dev::start(folder.path());
    let contract = OpenApiValidator::of(&dev.url);
    let odd = "a/b%2F c?d#é🚩";
    let mut body = new_flag(odd);
    body["rollout_percentage"] = json!("100");
    body["target_users"] = json!(["u-1"]);
    let made = ask(&dev, "POST", FLAGS, &body);
    contract.check("POST", FLAGS, &made);
    assert_eq!(made.status, 201, "{made:?}");
    let evaluated = || {
        let question = json!({"flag_name": odd, "user_id": "u"});
        ask(&dev, "POST", "/api/v1/feature-flags/evaluate", &question).json()["value"].clone()
    };
    assert_eq!(evaluated(), true);
    let changed = ask(&dev, "PUT", &path(odd), &json!({"rollout_percentage": 0}));
    contract.check("PUT", "/api/v1/feature-flags/{name}", &changed);
    assert_eq!((changed.status, evaluated()), (200, json!(false)), "{changed:?}");

    for (method, body) in [("PUT", json!({"is_enabled": false})), ("DELETE", Value::Null)] {
        let answer = ask(&dev, method, &path("theme-variant"), &body);
        assert_eq!(answer.status, 409, "{answer:?}");
        assert!(answer.json()["detail"].as_str().unwrap().contains("flags.json"), "{answer:?}");
    }
    let synced = ask(&dev, "POST", "/api/v1/feature-flags/sync?environment=development", &Value::Null);
    contract.check("POST", "/api/v1/feature-flags/sync", &synced);
    assert_eq!((synced.status, &synced.json()["synced_count"]), (200, &json!(10)), "{synced:?}");
    // Ten flags of the file and four local ones in each of two environments, and the one made here.
    wait_until("all are listed", TEST_TIMEOUT, || {
        let list = ask(&dev, "GET", FLAGS, &Value::Null);
        contract.check("GET", FLAGS, &list);
        list.json()["total"] == 29
    });
    wait_until("its history", TEST_TIMEOUT, || {
        let path = format!("{FLAGS}/{}/history?environment=development", encoded(odd));
        let history = ask(&dev, "GET", &path, &Value::Null);
        contract.check("GET", "/api/v1/feature-flags/{name}/history", &history);
        history.json().as_array().map(Vec::len) == Some(2)
    });
    let path_of_changes = format!("{FLAGS}/{}/changes?environment=development", encoded(odd));
    let changes = ask(&dev, "GET", &path_of_changes, &Value::Null);
    contract.check("GET", "/api/v1/feature-flags/{name}/changes", &changes);
    assert_eq!(changes.json()[0]["after"]["rollout_percentage"], 0);

    // The broker starts empty, the database does not.
    drop(dev);
    let dev = Dev::start(folder.path());
    wait_until("the local flag in force again", TEST_TIMEOUT, || {
        ask(&dev, "GET", &path(odd), &Value::Null).json()["in_force"] == true
    });
    let gone = ask(&dev, "DELETE", &path(odd), &Value::Null);
    assert_eq!(gone.status, 204, "{gone:?}");
    assert_eq!(ask(&dev, "GET", &path(odd), &Value::Null).status, 404);
}
