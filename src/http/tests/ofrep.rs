//! Errors of all OFREP paths have the form of the protocol, whichever part creates them.
#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::limits::{get_request, scene, scene_of};
use super::*;

const ALL: &str = "/ofrep/v1/evaluate/flags";
const ONE: &str = "/ofrep/v1/evaluate/flags/a%2Fb";

fn post(path: &str) -> Request<Body> {
    let body = json!({"context": {"targetingKey": "u"}, "trackingEventName": "purchase"});
    Request::post(path).header(CONTENT_TYPE, "application/json").body(Body::from(body.to_string())).unwrap()
}

/// Makes a call, and checks the form of its error. Returns the error code.
async fn failure(router: &Router, request: Request<Body>, expected: StatusCode) -> String {
    let path = request.uri().path().to_owned();
    let response = router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), expected, "{path}");
    assert_eq!(response.headers()[CONTENT_TYPE], "application/json", "{path}");
    if matches!(expected, StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT) {
        let seconds: u32 = response.headers()[RETRY_AFTER].to_str().unwrap().parse().unwrap();
        assert!((1..=60).contains(&seconds), "{path}: {seconds}");
    }
    let body = to_bytes(response.into_body(), MAX_BODY_BYTES).await.unwrap();
    let mut body: serde_json::Map<String, Value> = serde_json::from_slice(&body).unwrap();
    let key = body.remove("key");
    assert_eq!(key, path.starts_with(ONE).then(|| json!("a/b")), "{path}");
    assert!(body.remove("errorDetails").unwrap().as_str().is_some_and(|text| !text.is_empty()), "{path}");
    let code = body.remove("errorCode").unwrap().as_str().unwrap().to_owned();
    assert!(body.is_empty(), "{path}: {body:?}");
    code
}

#[tokio::test]
async fn unready_and_overloaded_is_the_same_form_on_every_path() {
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    let (api, router, publishing) = scene_of(&[("FLAGSTREAM_HTTP__LISTENERS", "1")], true);
    for path in [ALL, ONE] {
        assert_eq!(failure(&router, post(path), unavailable).await, "PROVIDER_NOT_READY");
    }
    api.store.replace(crate::flag::Snapshot::default());
    let soon = chrono::Utc::now().timestamp_millis();
    for path in [ALL, ONE] {
        let waits = api.places.take_all(places::Pool::VersionWait);
        let later = post(&format!("{path}?min_version={soon}"));
        assert_eq!(failure(&router, later, unavailable).await, "PROVIDER_NOT_READY");
        drop(waits);
        let never = post(&format!("{path}?min_version={}", u64::MAX));
        assert_eq!(failure(&router, never, unavailable).await, "PROVIDER_NOT_READY");
    }
    let evaluations = api.places.take_all(places::Pool::Evaluation);
    for path in [ALL, ONE, "/ofrep/v1/track"] {
        assert_eq!(failure(&router, post(path), unavailable).await, "PROVIDER_NOT_READY");
    }
    drop(evaluations);
    let stream = "/ofrep/v1/changes";
    let open = router.clone().oneshot(get_request(stream)).await.unwrap();
    assert_eq!(open.status(), StatusCode::OK);
    assert_eq!(failure(&router, get_request(stream), unavailable).await, "PROVIDER_NOT_READY");
    drop(open);
    assert!(publishing.join());
}

#[tokio::test]
async fn a_timeout_has_the_form_of_its_path() {
    let pending = || axum::routing::any(std::future::pending::<()>);
    let routes = Router::new().route(ALL, pending()).route("/ofrep/v1/evaluate/flags/{*key}", pending());
    let routes = routes.route("/ofrep/v1/changes", pending()).route("/api/v1/changes", pending());
    let time = Duration::from_millis(10);
    let limits = Limits { time, allowed_hosts: None, api: None, metrics: Metrics::new() };
    let router: Router = limits.around(routes);
    for path in [ALL, ONE, "/ofrep/v1/changes"] {
        assert_eq!(failure(&router, post(path), StatusCode::GATEWAY_TIMEOUT).await, "GENERAL");
    }
    let other = router.oneshot(get_request("/api/v1/changes")).await.unwrap();
    assert_eq!(other.headers()[CONTENT_TYPE], "application/problem+json");
}

#[tokio::test]
async fn refusals_before_the_route_have_the_form_too() {
    let settings =
        [("FLAGSTREAM_HTTP__ALLOWED_HOSTS", "localhost"), ("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "none")];
    let (_api, router, publishing) = scene_of(&settings, true);
    for (path, method) in [(ALL, Method::POST), (ONE, Method::POST), ("/ofrep/v1/changes", Method::GET)] {
        let request = |host: &str| {
            let request = Request::builder().method(method.clone()).uri(path).header("host", host);
            request.header(CONTENT_TYPE, "application/json").body(Body::from("{}")).unwrap()
        };
        let elsewhere = request("other.example.com");
        assert_eq!(failure(&router, elsewhere, StatusCode::MISDIRECTED_REQUEST).await, "GENERAL");
        assert_eq!(failure(&router, request("localhost"), StatusCode::UNAUTHORIZED).await, "GENERAL");
    }
    let not_text = "/ofrep/v1/evaluate/flags/%FF";
    assert_eq!(failure(&router, post(not_text), StatusCode::BAD_REQUEST).await, "PARSE_ERROR");
    let unknown = post("/ofrep/v1/configuration");
    assert_eq!(failure(&router, unknown, StatusCode::NOT_FOUND).await, "GENERAL");
    assert_eq!(failure(&router, get_request(ONE), StatusCode::METHOD_NOT_ALLOWED).await, "GENERAL");
    assert!(publishing.join());
}

#[tokio::test]
async fn a_ticket_that_is_wrong_is_refused_in_the_same_form() {
    let (_api, router, publishing) = scene();
    let request = get_request("/ofrep/v1/changes?environment=production&ticket=wrong");
    assert_eq!(failure(&router, request, StatusCode::UNAUTHORIZED).await, "GENERAL");
    assert!(publishing.join());
}
