//! Flags are changed through the edge API.

use serde_json::json;

use super::{ENVIRONMENT, Fixture};
use crate::harness::{Database, Group, Redis, Stack, TEST_TIMEOUT, post, wait_until};

#[test]
fn a_local_flag_is_updated_and_nothing_older_is_answered() {
    let (stack, _shared) = Stack::shared();
    let database = Database::create(stack);
    let group = Group::new(stack)
        .set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate,read,write")
        .set("DATABASE_URL", &database.url);
    let redis = Redis::database(stack);
    let url = redis.url.clone();
    let fixture = Fixture::start_at(group, redis, &url);
    let made =
        json!({"name": "own", "environment": ENVIRONMENT, "is_enabled": true, "rollout_percentage": "100"});
    let made = post(&format!("{}/api/v1/feature-flags", fixture.service.url), &made);
    assert_eq!(made.status, 201, "{made:?}");

    let update = |query: &str| {
        let path = format!("/flags/own/update?{query}&environment={ENVIRONMENT}");
        fixture.call("POST", "/flags/{name}/update", &path)
    };
    let (check, list) = ("/flags/own/check?user_id=user123", "/flags");
    for percentage in [0, 100, 0] {
        fixture.hit(check);
        fixture.hit("/flags/own?user_id=user123");
        fixture.hit(list);
        let updated = update(&format!("enabled=true&rollout_percentage={percentage}"));
        assert_eq!(updated.status, 200, "{updated:?}");
        assert_eq!(updated.json()["flag_data"]["rollout_percentage"], percentage);
        let answer = fixture.get(check);
        assert_eq!((&answer["enabled"], &answer["_cache"]), (&json!(percentage == 100), &json!("miss")));
        let answer = fixture.get("/flags/own?user_id=user123");
        assert_eq!(answer["flag_data"]["rollout_percentage"], percentage, "{answer}");
        let listed = fixture.get(list);
        let listed =
            listed["flags"].as_array().unwrap().iter().find(|flag| flag["flag_name"] == "own").unwrap();
        assert_eq!(listed["rollout_percentage"], percentage);
    }
    let off = update("enabled=false");
    assert_eq!((off.status, &off.json()["flag_data"]["enabled"]), (200, &json!(false)));
    assert_eq!(fixture.get(check)["enabled"], false);

    for (query, status, field) in [
        ("", 422, "enabled"),
        ("enabled=perhaps", 400, "enabled"),
        ("rollout_percentage=101", 422, "rollout_percentage"),
        ("rollout_percentage=many", 422, "rollout_percentage"),
    ] {
        let refused = update(query);
        assert_eq!(
            (refused.status, &refused.json()["errors"][0]["field"]),
            (status, &json!(field)),
            "{query}"
        );
    }
    let unknown = fixture.call("POST", "/flags/{name}/update", "/flags/nobody-made-it/update?enabled=true");
    assert_eq!(unknown.status, 404, "{unknown:?}");
    let elsewhere = fixture.call("POST", "/flags/{name}/update", "/flags/everybody/update?enabled=false");
    assert_eq!(elsewhere.status, 409, "{elsewhere:?}");
    assert!(elsewhere.json()["detail"].as_str().unwrap().contains("Unleash"), "{elsewhere:?}");
    wait_until("Unleash's flag is as it was", TEST_TIMEOUT, || {
        fixture.get("/flags/everybody/check")["enabled"] == true
    });
}
