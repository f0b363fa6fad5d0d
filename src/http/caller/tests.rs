//! Authentication by header, with a token table that contains one token.
#![allow(clippy::unwrap_used)]

use std::num::NonZeroU32;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use axum::http::header::CONTENT_TYPE;
use tower::ServiceExt;

use super::*;
use crate::auth::{NewToken, table};
use crate::database::Database;
use crate::health::Reporter;
use crate::http::tests::limits::fixture;
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;

fn auth() -> AuthConfig {
    AuthConfig {
        anonymous_scopes: vec![Scope::Evaluate],
        anonymous_by_default: false,
        bootstrap_token: Some(Secret::new("a-token-of-the-admin")),
        tokens_max_age: Duration::from_secs(60),
        token_calls_per_second: None,
        anonymous_calls_per_second: None,
        anonymous_answers_per_second: None,
        user_header: None,
        trusted_proxies: Vec::new(),
    }
}

async fn identify(authenticator: &Authenticator, headers: &[&str]) -> Result<Caller, Problem> {
    let mut map = HeaderMap::new();
    for header in headers {
        map.append(AUTHORIZATION, (*header).try_into().unwrap());
    }
    authenticator.identify(&map, Some(Peer([127, 0, 0, 1].into()))).await
}

/// An authenticator with a database and a token with the scope `read` in `production`.
async fn scene(auth: &AuthConfig) -> (Authenticator, String) {
    let (token_cache, header) = tokens(auth).await;
    (Authenticator::new(auth, Some(token_cache)), header)
}

/// A table with a token with the scope `read` in `production`, and the header with this token.
async fn tokens(auth: &AuthConfig) -> (Arc<TokenCache>, String) {
    let database = Database::open(&Secret::new("sqlite::memory:"), "test").unwrap();
    database.migrate().await.unwrap();
    let order = NewToken::check("shop", &["read"], &["production"], None).unwrap();
    let (token, _) =
        table::create(&database, &order, crate::database::audited::Actor { actor: "test", reason: None })
            .await
            .unwrap();
    let token_cache = TokenCache::new(database, auth);
    let running = Arc::clone(&token_cache);
    let metrics = Metrics::new().access.clone();
    tokio::spawn(async move { running.run(Shutdown::new(), Reporter::detached(), metrics).await });
    (token_cache, format!("Bearer {}", token.text().expose()))
}

/// The caller of a request with this `Authorization` header, in a handler that requires the scope `S`.
async fn authorized<S: RequiredScope>(
    api: &Arc<Api>,
    header: Option<&str>,
) -> Result<Authorized<S>, Problem> {
    let request = Request::get("/");
    let request = header.into_iter().fold(request, |request, header| request.header(AUTHORIZATION, header));
    let (mut parts, ()) = request.body(()).unwrap().into_parts();
    Authorized::from_request_parts(&mut parts, api).await
}

fn challenge_of(problem: &Problem) -> &str {
    let found = problem.headers.iter().find(|(name, _)| name == WWW_AUTHENTICATE);
    found.map(|(_, value)| value.to_str().unwrap()).unwrap_or_default()
}

#[tokio::test]
async fn the_anonymous_may_what_the_setting_says() {
    let caller = identify(&Authenticator::new(&auth(), None), &[]).await.unwrap();
    assert_eq!(caller.may_in(Scope::Evaluate, "anywhere"), Ok(()));
    let problem = caller.may_in(Scope::Write, "anywhere").unwrap_err();
    assert_eq!(problem.status, StatusCode::UNAUTHORIZED);
    assert_eq!(challenge_of(&problem), "Bearer realm=\"flagstream\"");
    assert_eq!(caller.name(), "anonymous");
}

#[tokio::test]
async fn the_bootstrap_token_may_everything_and_any_other_nothing() {
    let authenticator = Authenticator::new(&auth(), None);
    for header in ["Bearer a-token-of-the-admin", "bearer  a-token-of-the-admin "] {
        let caller = identify(&authenticator, &[header]).await.unwrap();
        assert_eq!(caller.may_in_all(Scope::Delete, &Environments::All), Ok(()));
    }
    let token = format!("Bearer {}", Token::generate().text().expose());
    for header in [
        "Bearer a-token-of-the-admi",
        "Bearer ",
        "a-token-of-the-admin",
        "Basic YTpi",
        "Bearer \u{e9}",
        &token,
    ] {
        let problem = identify(&authenticator, &[header]).await.unwrap_err();
        assert_eq!(problem.status, StatusCode::UNAUTHORIZED, "{header}");
        assert!(challenge_of(&problem).contains("invalid_token"), "{header}");
    }
    let twice = ["Bearer a-token-of-the-admin", "Bearer a-token-of-the-admin"];
    assert_eq!(identify(&authenticator, &twice).await.unwrap_err().status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_token_may_what_it_is_for_where_it_is_for() {
    let (authenticator, header) = scene(&auth()).await;
    let caller = identify(&authenticator, &[&header]).await.unwrap();
    assert_eq!(caller.may_in(Scope::Read, "production"), Ok(()));
    let elsewhere = caller.may_in(Scope::Read, "development").unwrap_err();
    assert_eq!(elsewhere.status, StatusCode::FORBIDDEN);
    assert!(elsewhere.detail.contains("development"), "{elsewhere:?}");
    assert!(caller.sees("production") && !caller.sees("development"));
    // A scope that the token lacks is refused, even if callers without a token have it.
    let problem = caller.may_in(Scope::Evaluate, "production").unwrap_err();
    assert_eq!(problem.status, StatusCode::FORBIDDEN);
    assert!(challenge_of(&problem).contains("insufficient_scope"), "{problem:?}");
    let one = Environments::of_names(["production"]).unwrap();
    assert_eq!(caller.may_in_all(Scope::Read, &one), Ok(()));
    for more in [&["production", "staging"][..], &["*"]] {
        let more = Environments::of_names(more.iter().copied()).unwrap();
        assert_eq!(caller.may_in_all(Scope::Read, &more).unwrap_err().status, StatusCode::FORBIDDEN);
    }
    assert!(caller.name().ends_with(":shop"));
    assert_eq!(
        identify(&authenticator, &[&header.to_uppercase()]).await.unwrap_err().status,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn who_calls_too_often_is_told_when_to_come_again() {
    let rate = NonZeroU32::new(1);
    let auth = AuthConfig { token_calls_per_second: rate, anonymous_calls_per_second: rate, ..auth() };
    let (authenticator, header) = scene(&auth).await;
    for headers in [&[header.as_str()][..], &[]] {
        assert!(identify(&authenticator, headers).await.is_ok());
        let problem = identify(&authenticator, headers).await.unwrap_err();
        assert_eq!(problem.status, StatusCode::TOO_MANY_REQUESTS);
        assert!(
            problem.headers.iter().any(|(name, value)| name == "retry-after" && value == "1"),
            "{problem:?}"
        );
    }
    for _ in 0..3 {
        assert!(identify(&authenticator, &["Bearer a-token-of-the-admin"]).await.is_ok());
    }
}

#[tokio::test]
async fn a_handler_gets_only_callers_with_its_scope() {
    let (token_cache, header) = tokens(&auth()).await;
    let settings = [("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate")];
    let (api, _router, publishing) = fixture(&settings, true, Some(token_cache));
    let without_token = authorized::<scope::Read>(&api, None).await.unwrap_err();
    assert_eq!(without_token.status, StatusCode::UNAUTHORIZED);
    assert_eq!(challenge_of(&without_token), "Bearer realm=\"flagstream\"");
    let without_scope = authorized::<scope::Write>(&api, Some(&header)).await.unwrap_err();
    assert_eq!(without_scope.status, StatusCode::FORBIDDEN);
    assert!(challenge_of(&without_scope).contains("scope=\"write\""), "{without_scope:?}");
    let unknown = authorized::<scope::Evaluate>(&api, Some("Bearer unknown")).await.unwrap_err();
    assert!(challenge_of(&unknown).contains("invalid_token"), "{unknown:?}");
    assert!(authorized::<scope::Evaluate>(&api, None).await.is_ok());
    let caller = authorized::<scope::Read>(&api, Some(&header)).await.unwrap();
    assert!(caller.name().ends_with(":shop"));
    assert_eq!(caller.check_environment("production"), Ok(()));
    let elsewhere = caller.check_environment("development").unwrap_err();
    assert_eq!(Err(elsewhere), caller.may_in(Scope::Read, "development"));
    assert!(publishing.join());
}

#[tokio::test]
async fn a_caller_without_the_scope_is_refused_before_its_request_is_read() {
    let settings = [("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "none")];
    let (_api, router, publishing) = fixture(&settings, true, None);
    for (method, path) in [
        ("GET", "/api/v1/feature-flags/%FF?environment=development"),
        ("GET", "/api/v1/feature-flags/a%00b"),
        ("PUT", "/api/v1/feature-flags/a%00b"),
        ("POST", "/api/v1/feature-flags/%FF/kill"),
        ("POST", "/api/v1/feature-flags"),
        ("POST", "/api/v1/feature-flags/evaluate"),
        ("GET", "/api/v1/evaluations?after=x"),
        ("GET", "/api/v1/experiments/%FF/results"),
        ("GET", "/flags/%FF"),
        ("DELETE", "/flags/a%00b/cache"),
        ("GET", "/api/v1/changes?environment=nowhere"),
        ("POST", "/api/v1/tokens"),
    ] {
        let request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, "text/plain");
        let answer = router.clone().oneshot(request.body(Body::from("{")).unwrap()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{method} {path}");
    }
    assert!(publishing.join());
}

#[tokio::test]
async fn a_refused_call_counts_against_the_rate_limit() {
    let settings =
        [("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "none"), ("FLAGSTREAM_AUTH__ANONYMOUS_CALLS_PER_SECOND", "1")];
    let (api, _router, publishing) = fixture(&settings, true, None);
    assert_eq!(authorized::<scope::Read>(&api, None).await.unwrap_err().status, StatusCode::UNAUTHORIZED);
    assert_eq!(
        authorized::<scope::Read>(&api, None).await.unwrap_err().status,
        StatusCode::TOO_MANY_REQUESTS
    );
    assert!(publishing.join());
}
