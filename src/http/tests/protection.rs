//! Details that unauthenticated callers must not see, and the headers that protect against browsers.
#![allow(clippy::unwrap_used)]

use axum::response::Response;

use super::limits::{get_request, scene_of};
use super::*;
use crate::config::{Profile, load_from};

const TOKEN: &str = "a-token-of-the-admin";

async fn json(response: Response) -> Value {
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    serde_json::from_slice(&body).unwrap()
}

/// State of a service that lets every caller evaluate, without the `api` role.
fn service(settings: &[(&str, &str)]) -> HttpState {
    let variables = [("FLAGSTREAM_INSTANCE", "test-1"), ("FLAGSTREAM_AUTH__BOOTSTRAP_TOKEN", TOKEN)];
    let variables = variables.iter().chain(settings).map(|(name, value)| (name.into(), value.into()));
    let config = load_from(None, variables, Profile::Service).unwrap().config;
    let health = Arc::new(Registry::new("test-1"));
    health.address("kafka", "broker.internal:9092");
    health.reporter("store", true).starting("reads feature-flag-definitions");
    HttpState::new(&config, health, Metrics::new(), None)
}

#[tokio::test]
async fn health_tells_strangers_states_and_operators_the_rest() {
    let (http_state, get) = (service(&[]), |path: &'static str| get_request(path));
    let main = router(http_state.clone(), false);
    for path in ["/health", "/health/ready"] {
        let secret = ["broker.internal", "feature-flag-definitions", "detail\"", "test-1"];
        let answer = main.clone().oneshot(get(path)).await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        let told = json(answer).await;
        assert_eq!(told["parts"]["store"]["state"], "starting");
        assert!(secret.iter().all(|secret| !told.to_string().contains(secret)), "{told}");
        let admin = json(admin_router(http_state.clone()).oneshot(get(path)).await.unwrap()).await;
        assert_eq!(admin["parts"]["store"]["detail"], "reads feature-flag-definitions");
        for (token, sees) in [(TOKEN, true), ("wrong", false)] {
            let request = Request::get(path).header("authorization", format!("Bearer {token}"));
            let answer = main.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
            assert_eq!(json(answer).await["parts"]["store"]["detail"].is_string(), sees, "{token}");
        }
        // With the anonymous scope `read`, every caller sees the details.
        let open = router(service(&[("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "read")]), false);
        let told = json(open.oneshot(get(path)).await.unwrap()).await;
        assert!(told["parts"]["store"]["detail"].is_string(), "{told}");
    }
}

#[tokio::test]
async fn no_answer_of_the_api_is_kept_by_a_cache_or_taken_for_something_else() {
    let (api, router, publishing) = scene_of(&[], true);
    api.store.replace(crate::flag::Snapshot::default());
    for path in ["/flags", "/flags/f/check?user_id=u", "/cache/stats", "/flags/f", "/nowhere", "/health"] {
        let answer = router.clone().oneshot(get_request(path)).await.unwrap();
        let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        if path != "/nowhere" {
            assert_eq!(header("x-content-type-options").as_deref(), Some("nosniff"), "{path}");
            assert_eq!(header("cache-control").as_deref(), Some("no-store"), "{path}");
        }
    }
    let viewer = router.oneshot(get_request("/docs/")).await.unwrap();
    let policy = viewer.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("frame-ancestors 'none'") && policy.contains("default-src 'self'"), "{policy}");
    assert_eq!(viewer.headers()["x-frame-options"], "DENY");
    // The page has no inline script, which the policy would block.
    let page = to_bytes(viewer.into_body(), usize::MAX).await.unwrap();
    let page = String::from_utf8_lossy(&page).to_lowercase();
    assert!(page.split("<script").skip(1).all(|script| script.trim_start().starts_with("src=")), "{page}");
    assert!(publishing.join());
}

#[tokio::test]
async fn dev_answers_under_its_own_names_only_and_no_page_of_others() {
    let (_api, router, publishing) = scene_of(&[], true);
    let ask = |method: &str, path: &str, headers: &[(&str, &str)]| {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        router.clone().oneshot(request.body(Body::empty()).unwrap())
    };
    for path in ["/health", "/flags", "/docs/"] {
        for host in ["localhost:8082", "127.0.0.1:8082"] {
            let status = ask("GET", path, &[("host", host)]).await.unwrap().status();
            assert_ne!(status, StatusCode::MISDIRECTED_REQUEST, "{path} {host}");
        }
        let rebound = ask("GET", path, &[("host", "evil.example:8082")]).await.unwrap();
        assert_eq!(rebound.status(), StatusCode::MISDIRECTED_REQUEST, "{path}");
    }
    for path in ["/flags/f/update?enabled=true", "/api/v1/feature-flags/sync?environment=development"] {
        let page =
            [("host", "localhost"), ("origin", "https://evil.example"), ("content-type", "text/plain")];
        assert_eq!(ask("POST", path, &page).await.unwrap().status(), StatusCode::FORBIDDEN, "{path}");
        let program = ask("POST", path, &[("host", "localhost")]).await.unwrap();
        assert_ne!(program.status(), StatusCode::FORBIDDEN, "{path}");
    }
    assert!(publishing.join());
}

#[tokio::test]
async fn callers_without_a_token_get_so_many_answers_in_a_second() {
    let rate = [("FLAGSTREAM_AUTH__ANONYMOUS_ANSWERS_PER_SECOND", "10")];
    let (api, router, publishing) = scene_of(&rate, true);
    api.store.replace(crate::flag::Snapshot::default());
    let names = |count: usize| {
        let names: Vec<_> = (0..count).map(|number| format!("f{number}")).collect();
        serde_json::to_string(&names).unwrap()
    };
    let ask = |from: [u8; 4], count: usize| {
        let request = Request::post("/api/v1/feature-flags/evaluate/batch")
            .header(CONTENT_TYPE, "application/json")
            .extension(caller::Peer(from.into()));
        router.clone().oneshot(request.body(Body::from(names(count))).unwrap())
    };
    assert_eq!(ask([10, 0, 0, 1], 8).await.unwrap().status(), StatusCode::OK);
    let refused = ask([10, 0, 0, 1], 8).await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.headers().contains_key(RETRY_AFTER));
    assert_eq!(ask([10, 0, 0, 2], 8).await.unwrap().status(), StatusCode::OK);
    // A request above the limit is never answered. Clients on the same machine are not limited.
    assert_eq!(ask([10, 0, 0, 3], 11).await.unwrap().status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(ask([127, 0, 0, 1], 11).await.unwrap().status(), StatusCode::OK);
    assert!(publishing.join());
}

#[tokio::test]
async fn who_guesses_tokens_is_slowed_down() {
    let settings = [("FLAGSTREAM_UNLEASH__WEBHOOK_SECRET", "a-secret-of-the-webhook")];
    let (_api, router, publishing) = scene_of(&settings, true);
    let guess = |path: &'static str, method: &str, from: [u8; 4], token: &str| {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {token}"))
            .header(CONTENT_TYPE, "application/json")
            .extension(caller::Peer(from.into()));
        router.clone().oneshot(request.body(Body::from("{}")).unwrap())
    };
    for (path, method, from) in
        [("/flags", "GET", [10, 0, 0, 1]), ("/api/v1/unleash/webhook", "POST", [10, 0, 0, 2])]
    {
        let mut refused = 0;
        for _ in 0..200 {
            let status = guess(path, method, from, "wrong").await.unwrap().status();
            assert!([StatusCode::UNAUTHORIZED, StatusCode::TOO_MANY_REQUESTS].contains(&status), "{status}");
            refused += usize::from(status == StatusCode::TOO_MANY_REQUESTS);
        }
        assert!(refused > 0, "{path}");
    }
    assert!(publishing.join());
}
