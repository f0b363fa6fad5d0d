//! Rules for every route in the OpenAPI document, including future ones; and the document's own example.

use serde_json::{Value, json};

use super::{BOOTSTRAP, Fixture, JSON, TOKENS, bootstrap, with};
use crate::harness::{Answer, Service, Stack, TEST_TIMEOUT, call, wait_for};

const DOCUMENT: &str = include_str!("../../../docs/api.md");

/// Operations that concern no environment, or list only what the caller may see. Tests of their own check what they show.
const WITHOUT_ENVIRONMENT: [&str; 4] = ["getCluster", "listReplays", "getReplay", "cancelReplay"];

/// A route, as the document has it.
struct Route {
    method: String,
    path: String,
    body: Value,
    /// Whether it concerns no environment, so that a token for any environment may call it.
    is_without_environment: bool,
    /// Whether only SDKs of Unleash call it, which must not get 401 for a token.
    is_for_sdks: bool,
}

/// All routes that ask who calls.
fn routes(service: &Service) -> Vec<Route> {
    let document = call("GET", &format!("{}/openapi.json", service.url), &[], b"").json();
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let has_key_of_its_own = path == "/api/v1/unleash/webhook";
            let is_open =
                ["health", "schemas", "unleash-open"].iter().any(|tag| operation["tags"] == json!([tag]));
            // Everyone may ask who they are.
            if is_open || has_key_of_its_own || operation["operationId"] == "getCaller" {
                continue;
            }
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            let body = match schema["type"].as_str() {
                _ if schema.is_null() => Value::Null,
                Some("array") => json!(["on"]),
                _ => json!({"flag_name": "on", "environment": "production", "user_id": "u"}),
            };
            routes.push(Route {
                method: method.to_uppercase(),
                path: path.clone(),
                body,
                is_without_environment: WITHOUT_ENVIRONMENT
                    .contains(&operation["operationId"].as_str().unwrap()),
                is_for_sdks: operation["tags"] == json!(["unleash"]),
            });
        }
    }
    assert!(routes.len() >= 10, "the document has hardly any routes");
    routes
}

fn ask(service: &Service, route: &Route, token: Option<&str>) -> Answer {
    let path: Vec<_> =
        route.path.split('/').map(|part| if part.starts_with('{') { "on" } else { part }).collect();
    let url = format!("{}{}?environment=production", service.url, path.join("/"));
    let mut headers = vec![JSON, ("flags-environment", "production")];
    headers.extend(token.map(|token| ("authorization", token)));
    let body = if route.body.is_null() { String::new() } else { route.body.to_string() };
    call(&route.method, &url, &headers, body.as_bytes())
}

#[test]
fn no_route_answers_who_may_not_or_not_there() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    let service = fixture.start("one");
    let elsewhere = fixture.token("evaluate,read,write,delete", "development", &[]);
    let mut refused = 0;
    for route in routes(&service) {
        let Route { method, path, .. } = &route;
        let anonymous = ask(&service, &route, None);
        assert_eq!(anonymous.status, 401, "{method} {path} without a token: {anonymous:?}");
        // The service limits how many unknown tokens it answers per second.
        let unknown = wait_for("a call with an unknown token", TEST_TIMEOUT, || {
            Some(ask(&service, &route, Some("Bearer guess"))).filter(|answer| answer.status != 429)
        });
        if route.is_for_sdks {
            assert_eq!(unknown.status, 403, "{method} {path}: {unknown:?}");
        } else {
            assert_eq!(unknown.status, 401, "{method} {path}: {unknown:?}");
            assert!(unknown.header("www-authenticate").starts_with("Bearer"), "{method} {path}: {unknown:?}");
        }
        // An invalid request may be reported before the missing permission.
        if route.is_without_environment {
            continue;
        }
        let answer = ask(&service, &route, Some(&elsewhere.header));
        assert!([403, 400, 422].contains(&answer.status), "{method} {path} elsewhere: {answer:?}");
        refused += usize::from(answer.status == 403);
    }
    assert!(refused >= 8, "{refused}");
}

#[test]
fn who_may_nothing_learns_nothing_about_the_service() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    let service = fixture.start("one");
    let me =
        |token: Option<&str>| with("GET", &format!("{}/api/v1/me", service.url), token, &Value::Null).json();
    let anonymous = me(None);
    assert_eq!((&anonymous["scopes"], &anonymous["environments"]), (&json!([]), &json!([])), "{anonymous}");
    for member in ["instance", "version", "default_environment", "person"] {
        assert_eq!(anonymous[member], Value::Null, "{member}: {anonymous}");
    }
    let known = me(Some(&bootstrap()));
    assert!(known["instance"].is_string() && known["environments"] != json!([]), "{known}");
}

#[test]
fn the_example_of_the_document_is_answered_like_that() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    let service = fixture.start("one");
    let (_, section) = DOCUMENT.split_once("\n### Access\n").unwrap();
    let (_, example) = section.split_once("```console\n").unwrap();
    let (request, answer) = example.split("```").next().unwrap().split_once("}'\n").unwrap();
    assert!(request.contains(TOKENS) && request.contains("Bearer $BOOTSTRAP") && BOOTSTRAP.len() > 16);
    let (_, body) = request.split_once("-d '").unwrap();
    let body: Value = serde_json::from_str(&format!("{body}}}")).unwrap();
    let made = with("POST", &format!("{}{TOKENS}", service.url), Some(&bootstrap()), &body);
    assert_eq!(made.status, 201, "{made:?}");
    let (made, documented) = (made.json(), serde_json::from_str::<Value>(answer).unwrap());
    let (made, documented) = (made.as_object().unwrap(), documented.as_object().unwrap());
    for (field, value) in documented {
        let varies = ["id", "token", "created_at", "expires_at"].contains(&field.as_str());
        assert!(made.get(field) == Some(value) || (varies && made[field].is_string()), "{field}: {made:?}");
    }
    assert_eq!(made.len(), documented.len(), "{made:?}");
}
