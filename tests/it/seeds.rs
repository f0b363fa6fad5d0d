//! The calls of the documents that this service was asked for with, on `flagstream dev` as it starts in an empty folder: the
//! management of flags, the batch call, and the walkthrough of the edge API.

use serde_json::{Value, json};

use crate::harness::{Answer, Dev, TEST_TIMEOUT, call, temporary_folder, wait_until};

/// `flagstream dev` in an empty folder.
struct Fixture {
    dev: Dev,
    _folder: tempfile::TempDir,
}

impl Fixture {
    fn start() -> Self {
        let folder = temporary_folder();
        Self { dev: Dev::start(folder.path()), _folder: folder }
    }

    fn call(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let headers = [("content-type", "application/json")];
        let headers = if body.is_empty() { &[][..] } else { &headers[..] };
        call(method, &format!("{}{path}", self.dev.url), headers, body.as_bytes())
    }

    fn get(&self, path: &str) -> Value {
        self.expect("GET", path, None, 200)
    }

    fn expect(&self, method: &str, path: &str, body: Option<Value>, status: u16) -> Value {
        let answer = self.call(method, path, body);
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        if answer.body.is_empty() { Value::Null } else { answer.json() }
    }
}

#[test]
fn flags_are_evaluated_in_development_and_production() {
    let dev = Fixture::start();
    let evaluate = "/api/v1/feature-flags/evaluate";
    let boolean = json!({
        "flag_name": "new-ui-enabled", "user_id": "user-123",
        "context": {"region": "us-west", "subscription_tier": "premium"},
        "default_value": false, "environment": "development",
    });
    let answer = dev.expect("POST", &format!("{evaluate}/boolean"), Some(boolean), 200);
    assert_eq!((&answer["value"], &answer["reason"]), (&json!(true), &json!("TARGETING_MATCH")));
    let variant = json!({
        "flag_name": "theme-variant", "user_id": "user-456", "default_value": "light", "environment": "production",
    });
    let answer = dev.expect("POST", evaluate, Some(variant), 200);
    assert_eq!(answer["reason"], "TARGETING_MATCH", "{answer}");
    assert!(answer["variant"].is_string() && answer["evaluated_at"].is_string(), "{answer}");
    let bulk = json!({
        "flag_names": ["new-ui-enabled", "dark-mode", "premium-features"], "user_id": "user-789",
        "environment": "development",
    });
    let answer = dev.expect("POST", &format!("{evaluate}/bulk"), Some(bulk), 200);
    assert_eq!(answer["results"]["new-ui-enabled"]["value"], true);
    assert_eq!(answer["results"].as_object().unwrap().len(), 3);

    // The batch call of the integration guide, and its single one.
    let one = json!({"flag_name": "new-ui-enabled", "user_id": "user123", "environment": "development"});
    assert_eq!(dev.expect("POST", evaluate, Some(one), 200)["enabled"], true);
    let path = format!("{evaluate}/batch?user_id=user123&environment=development");
    let answer =
        dev.expect("POST", &path, Some(json!(["new-ui-enabled", "dark_mode", "beta_features"])), 200);
    assert_eq!(
        (&answer["new-ui-enabled"]["enabled"], &answer["dark_mode"]["enabled"]),
        (&json!(true), &json!(false))
    );
}

#[test]
fn flags_are_managed() {
    let dev = Fixture::start();
    let flags = "/api/v1/feature-flags";
    let new = json!({
        "name": "new-feature", "description": "New feature description", "is_enabled": false,
        "environment": "development", "rollout_percentage": "25", "target_users": ["user-1", "user-2"],
    });
    let made = dev.expect("POST", flags, Some(new), 201);
    assert_eq!((&made["name"], &made["is_enabled"]), (&json!("new-feature"), &json!(false)));
    let one = format!("{flags}/new-feature?environment=development");
    let change = json!({"is_enabled": true, "description": "Updated description"});
    assert_eq!(dev.expect("PUT", &one, Some(change), 200)["description"], "Updated description");
    let shown = dev.get(&one);
    for member in ["id", "evaluation_count", "last_evaluated_at", "created_at", "updated_at"] {
        assert!(shown.get(member).is_some(), "{member}: {shown}");
    }
    let page = dev.get(&format!("{flags}?environment=development&limit=50&offset=0"));
    assert!(page["total"].as_u64().unwrap() >= 15 && page["items"].is_array(), "{page}");
    let synced = dev.expect("POST", &format!("{flags}/sync?environment=development"), None, 200);
    assert_eq!(synced["environment"], "development");

    let asked = json!({"flag_name": "new-feature", "user_id": "user-1", "environment": "development"});
    assert_eq!(dev.expect("POST", &format!("{flags}/evaluate"), Some(asked), 200)["value"], true);
    let history = format!("{flags}/new-feature/history?environment=development&limit=100");
    wait_until("the evaluation is in the history", TEST_TIMEOUT, || {
        dev.get(&history)[0]["user_id"] == "user-1"
    });
    assert_eq!(dev.get(&history)[0]["evaluation_reason"], "TARGETING_MATCH");
    dev.expect("DELETE", &one, None, 204);
    assert_eq!(dev.call("GET", &one, None).status, 404);
}

#[test]
fn the_edge_walkthrough_hits_its_cache_and_updates_its_flags() {
    let dev = Fixture::start();
    let check = "/flags/new_checkout_flow/check?user_id=user123";
    assert_eq!(dev.get(check)["_cache"], "miss");
    let again = dev.get(check);
    assert_eq!((&again["_cache"], again["enabled"].is_boolean()), (&json!("hit"), true));
    let details = dev.get("/flags/new_checkout_flow?user_id=user123");
    assert_eq!(details["flag_data"]["rollout_percentage"].as_f64(), Some(50.0), "{details}");
    let listed = dev.get("/flags");
    let names: Vec<_> =
        listed["flags"].as_array().unwrap().iter().map(|flag| flag["flag_name"].clone()).collect();
    for name in ["new_checkout_flow", "beta_features", "dark_mode", "experimental_api"] {
        assert!(names.contains(&json!(name)), "{name}: {names:?}");
    }

    let update = "/flags/new_checkout_flow/update?enabled=true&rollout_percentage=100";
    assert_eq!(
        dev.expect("POST", update, None, 200)["flag_data"]["rollout_percentage"].as_f64(),
        Some(100.0)
    );
    let after = dev.get(check);
    assert_eq!((&after["_cache"], &after["enabled"]), (&json!("miss"), &json!(true)), "invalidated");
    assert_eq!(dev.get(check)["_cache"], "hit");
    dev.expect("POST", "/flags/new_checkout_flow/update?enabled=false&rollout_percentage=0", None, 200);
    assert_eq!(dev.get(check)["enabled"], false);

    dev.get(check);
    let cleared = dev.expect("DELETE", "/flags/new_checkout_flow/cache", None, 200);
    assert!(cleared["removed_keys"].as_u64().unwrap() > 0, "{cleared}");
    assert_eq!(dev.get(check)["_cache"], "miss");
    let stats = dev.get("/cache/stats");
    assert!(stats["hits"].as_u64().unwrap() >= 2 && stats["misses"].as_u64().unwrap() >= 3, "{stats}");
    assert_eq!(stats["redis"]["state"], "memory");

    // An update of a flag that does not exist is rejected.
    let unknown = dev.call("POST", "/flags/new_feature/update?enabled=true&rollout_percentage=10", None);
    assert_eq!(unknown.status, 404);
    assert!(unknown.body.contains("POST /api/v1/feature-flags"), "{unknown:?}");
}

#[test]
fn a_kill_switch_survives_a_restart_of_dev() {
    let folder = temporary_folder();
    let start = || Fixture { dev: Dev::start(folder.path()), _folder: temporary_folder() };
    let check = "/flags/new-ui-enabled/check?user_id=u";
    let dev = start();
    let version = dev.get(check)["flag_version"].clone();
    let kill = "/api/v1/feature-flags/payment-processing/kill?environment=development";
    dev.expect("POST", kill, Some(json!({"reason": "a test"})), 200);
    let kept = folder.path().join(".flagstream/dev/kept.json");
    let has_kill = || std::fs::read_to_string(&kept).is_ok_and(|text| text.contains("a test"));
    wait_until("the switch is kept", TEST_TIMEOUT, has_kill);
    drop(dev);

    let dev = start();
    let killed = dev.get("/flags/payment-processing/check?user_id=u");
    assert_eq!((&killed["enabled"], &killed["reason"]), (&json!(false), &json!("DISABLED")));
    assert_eq!(dev.get(check)["flag_version"], version, "an unchanged flag is the same version");
}
