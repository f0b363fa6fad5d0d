//! Answers are in the OpenAPI document with every member, whatever state the flag is in.
#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::limits::scene_of;
use super::*;
use crate::flag::{CompiledFlag, FlagChange, Snapshot};

#[path = "../../../tests/it/harness/strict_schema.rs"]
mod strict_schema;

const ENVIRONMENT: &str = "development";

/// Flags that lead to each kind of answer.
fn flags() -> Snapshot {
    let compile = |feature: Value| CompiledFlag::compile(ENVIRONMENT, 5, &feature.to_string()).unwrap();
    let variants = json!([{"name": "dark", "weight": 1, "payload": {"type": "json", "value": "{\"a\":1}"}},
        {"name": "light", "weight": 1}]);
    let plain =
        |name: &str| compile(json!({"name": name, "enabled": true, "description": "d", "type": "release"}));
    let with_variants = |name: &str| compile(json!({"name": name, "enabled": true, "variants": variants}));
    let killed = |flag: CompiledFlag| {
        let switch = json!({"environment": ENVIRONMENT, "flag_name": flag.name, "state": "killed", "version": 9,
            "actor": "ann", "reason": "r", "changed_at": "2026-01-15T10:30:00Z", "expires_at": null,
            "change_id": uuid::Uuid::nil()});
        flag.switched(Arc::new(serde_json::from_value(switch).unwrap()))
    };
    let flags = [
        plain("plain"),
        with_variants("variants"),
        compile(json!({"name": "off", "enabled": false})),
        compile(json!({"name": "nobody", "enabled": true, "strategies": [{"name": "userWithId",
            "parameters": {"userIds": "nobody"}}]})),
        compile(json!({"name": "child", "enabled": true, "dependencies": [{"feature": "off"}]})),
        compile(json!({"name": "orphan", "enabled": true, "dependencies": [{"feature": "missing"}]})),
        killed(plain("killed")),
        killed(with_variants("killed-variants")),
        CompiledFlag::unusable(ENVIRONMENT, "broken", 3, "strategies: expected a list"),
    ];
    Snapshot::default().with(flags.map(|flag| FlagChange::Set(Arc::new(flag))))
}

/// Makes a call, and fails unless its answer is in the document with each of its members.
async fn checked(
    router: &Router,
    (method, template): (&str, &str),
    path: &str,
    body: Option<Value>,
) -> Value {
    let document: Value =
        serde_json::from_slice(&ask(router.clone(), Method::GET, "/openapi.json").await.unwrap().2).unwrap();
    let mut request = Request::builder().method(method).uri(path);
    if body.is_some() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
    let response = router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let media = response.headers()[CONTENT_TYPE].to_str().unwrap().split(';').next().unwrap().to_owned();
    let answer = to_bytes(response.into_body(), MAX_BODY_BYTES).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    let differences = strict_schema::differences(&document, (method, template), status, &media, &answer);
    assert!(differences.is_empty(), "{method} {path} {status}: {differences:?}\n{answer:#}");
    answer
}

#[tokio::test]
async fn every_member_of_an_answer_is_in_the_document_whatever_the_state_of_the_flag() {
    let (api, router, publishing) = scene_of(&[], true);
    api.store.replace(flags());
    let evaluate = "/api/v1/feature-flags/evaluate";
    let post = |body: Value| Some(body);
    let snapshot = flags();
    let known = snapshot.environment(ENVIRONMENT).unwrap().iter();
    let names: Vec<String> = known.map(|flag| flag.name.to_string()).chain(["unknown".to_owned()]).collect();
    for name in &names {
        for default in [json!(true), json!("x"), json!(7), json!({"a": 1}), Value::Null] {
            let body = json!({"flag_name": name, "user_id": "u", "default_value": default});
            let answer = checked(&router, ("POST", evaluate), evaluate, post(body)).await;
            assert_eq!(answer["killed"] == true, name.starts_with("killed"), "{answer}");
        }
        let ofrep = format!("/ofrep/v1/evaluate/flags/{name}");
        let body = json!({"context": {"targetingKey": "u"}});
        let answer = checked(&router, ("POST", "/ofrep/v1/evaluate/flags/{key}"), &ofrep, post(body)).await;
        assert_eq!(answer["metadata"]["killed"] == true, name.starts_with("killed"), "{answer}");
        // The second answer may be a cached one.
        for _ in 0..2 {
            let check = format!("/flags/{name}/check?user_id=u");
            let answer = checked(&router, ("GET", "/flags/{name}/check"), &check, None).await;
            assert_eq!(answer["killed"] == true, name.starts_with("killed"), "{answer}");
            let answer =
                checked(&router, ("GET", "/flags/{name}"), &format!("/flags/{name}?user_id=u"), None).await;
            assert_eq!(answer["flag_data"]["killed"] == true, name.starts_with("killed"), "{answer}");
        }
    }
    let all = checked(&router, ("GET", "/flags"), "/flags", None).await;
    let killed = all["flags"].as_array().unwrap().iter().filter(|flag| flag["killed"] == true).count();
    assert_eq!(killed, 2, "{all}");
    let body = json!({"context": {"targetingKey": "u"}});
    let all = "/ofrep/v1/evaluate/flags";
    checked(&router, ("POST", all), all, post(body)).await;
    let bulk = "/api/v1/feature-flags/evaluate/bulk";
    checked(&router, ("POST", bulk), bulk, post(json!({"flag_names": names, "user_id": "u"}))).await;
    let contexts = json!({"flag_names": names, "contexts": [{"user_id": "u"}, {}]});
    checked(&router, ("POST", bulk), bulk, post(contexts)).await;
    let boolean = "/api/v1/feature-flags/evaluate/boolean";
    checked(&router, ("POST", boolean), boolean, post(json!({"flag_name": "killed", "user_id": "u"}))).await;
    checked(&router, ("GET", "/cache/stats"), "/cache/stats", None).await;
    checked(&router, ("GET", "/health"), "/health", None).await;
    assert!(publishing.join());
}
