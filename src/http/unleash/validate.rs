//! Validation of tokens, for other proxies, and the state of this API, for operators.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde_json::{Value, json};

use crate::config::{Scope, TokenKind};
use crate::http::Problem;
use crate::http::api::Api;
use crate::http::caller::{Caller, Peer};
use crate::http::openapi::unleash::{SdkTokens, SdkValidTokens, SdkValidateProblems};
use crate::unleash_api::UnleashApi;
use crate::unleash_api::tokens::{Access, Found};

use super::TOKEN_RETRY_SECONDS;

/// Maximum tokens of one call.
pub const MAX_VALIDATED_TOKENS: usize = 100;
/// Digits of a token's hash that operators see.
const SHOWN_HASH_DIGITS: usize = 12;

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new().route("/edge/validate", post(validate))
}

/// Returns those of the tokens that are valid, with what they permit. It needs no token itself, like Unleash's.
#[utoipa::path(
    post,
    path = "/edge/validate",
    operation_id = "sdkValidateTokens",
    tag = "unleash-open",
    request_body = SdkTokens,
    responses((status = 200, description = "The valid ones", body = SdkValidTokens), SdkValidateProblems)
)]
pub(super) async fn validate(
    State(api): State<Arc<Api>>,
    peer: Option<Extension<Peer>>,
    request: Request,
) -> Result<Response, Problem> {
    let Some(unleash) = &api.unleash else {
        return Err(Problem::new(StatusCode::NOT_FOUND, "the API for Unleash's SDKs is not enabled"));
    };
    let body = api.bodies.read(request.into_body()).await?;
    let body: Value = serde_json::from_slice(&body)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("the body is not JSON: {error}")))?;
    let texts =
        body["tokens"].as_array().map(|tokens| tokens.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
    let Some(Some(texts)) = texts else {
        return Err(Problem::of_field(StatusCode::BAD_REQUEST, "tokens", "expected a list of strings"));
    };
    if texts.len() > MAX_VALIDATED_TOKENS {
        let message = format!("expected at most {MAX_VALIDATED_TOKENS} tokens, got {}", texts.len());
        return Err(Problem::of_field(StatusCode::PAYLOAD_TOO_LARGE, "tokens", message));
    }
    let mut valid = Vec::new();
    for text in texts {
        if let Some(access) = access(&api, unleash, text, peer.map(|Extension(peer)| peer)).await? {
            valid.push(described(&access, text));
        }
    }
    Ok(([(CACHE_CONTROL, "no-store")], Json(json!({ "tokens": valid }))).into_response())
}

/// Permissions of a token; `None` if it is not valid.
async fn access(
    api: &Arc<Api>,
    unleash: &UnleashApi,
    text: &str,
    peer: Option<Peer>,
) -> Result<Option<Arc<Access>>, Problem> {
    if api.authenticator.is_own(text) {
        let caller = match api.authenticator.identify_token(text, peer).await {
            Ok(caller) => caller,
            Err(problem) if problem.status == StatusCode::UNAUTHORIZED => return Ok(None),
            Err(problem) => return Err(problem),
        };
        if caller.may(Scope::Evaluate).is_err() {
            return Ok(None);
        }
        return Ok(super::own_access(api, &caller, &axum::http::HeaderMap::new()).ok().map(Arc::new));
    }
    match unleash.tokens.find(text).await {
        Found::Pretrusted(access) => Ok(Some(access)),
        Found::Valid(known) => Ok(Some(Arc::new(known.access.clone()))),
        Found::Invalid => Ok(None),
        Found::Undetermined(why) => {
            let problem =
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, format!("a token cannot be checked: {why}"));
            Err(problem.retry_after(TOKEN_RETRY_SECONDS))
        }
    }
}

fn described(access: &Access, text: &str) -> Value {
    let kind = match access.kind {
        Some(TokenKind::Frontend) => "frontend",
        Some(TokenKind::Backend) | None => "client",
    };
    json!({"token": text, "type": kind, "projects": access.selection.project_names(),
        "environment": &*access.selection.environment})
}

/// Builds the routes for operators, in the paths of Unleash Edge.
pub(in crate::http) fn backstage(api: Arc<Api>) -> Router {
    Router::new()
        .route("/internal-backstage/health", get(async || Json(json!({"status": "OK"}))))
        .route("/internal-backstage/ready", get(ready))
        .route("/internal-backstage/info", get(info))
        .route("/internal-backstage/metrics", get(metrics))
        .route("/internal-backstage/features", get(features))
        .route("/internal-backstage/tokens", get(tokens))
        .with_state(api)
}

async fn metrics(State(api): State<Arc<Api>>) -> Response {
    api.flush_counts();
    crate::http::encoded(&api.metrics)
}

async fn ready(State(api): State<Arc<Api>>) -> Response {
    match api.store.is_ready() {
        true => Json(json!({"status": "READY"})).into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "NOT_READY"}))).into_response(),
    }
}

async fn info(State(api): State<Arc<Api>>) -> Json<Value> {
    Json(json!({"name": "flagstream", "version": env!("CARGO_PKG_VERSION"), "instance": api.config.instance}))
}

/// Refuses callers of the main listener that may not read flags. The operators' listener requires no scope, so that these
/// routes have no fixed one.
fn check_operator(api: &Api, caller: Result<Caller, Problem>) -> Result<(), Problem> {
    match api.config.http.admin_listen {
        Some(_) => Ok(()),
        None => caller?.may(Scope::Read),
    }
}

/// The prepared selections, and the flags that server SDKs do not receive.
async fn features(
    State(api): State<Arc<Api>>,
    caller: Result<Caller, Problem>,
) -> Result<Json<Value>, Problem> {
    check_operator(&api, caller)?;
    let Some(unleash) = &api.unleash else { return Ok(Json(json!([]))) };
    let (snapshot, now_ms) = (api.store.load_full(), chrono::Utc::now().timestamp_millis());
    let described = unleash.flag_sets.all().into_iter().filter_map(|set| {
        let features = unleash.flag_sets.features(&set, &snapshot, now_ms)?;
        let names: Vec<&str> = features.items.iter().map(|item| &*item.flag.name).collect();
        let omitted: serde_json::Map<String, Value> =
            features.omitted.iter().map(|(name, reason)| (name.to_string(), (*reason).into())).collect();
        Some(json!({"environment": &*set.selection.environment, "projects": set.selection.project_names(),
            "features": names, "omitted": omitted}))
    });
    Ok(Json(described.collect()))
}

/// The tokens that this process knows: parts of their hashes, and what they permit.
async fn tokens(
    State(api): State<Arc<Api>>,
    caller: Result<Caller, Problem>,
) -> Result<Json<Value>, Problem> {
    check_operator(&api, caller)?;
    let Some(unleash) = &api.unleash else { return Ok(Json(json!({}))) };
    let shown = |access: &Access| {
        json!({"type": access.kind.map(TokenKind::name), "environment": &*access.selection.environment,
            "projects": access.selection.project_names()})
    };
    let known = unleash.tokens.known().into_iter().map(|known| {
        let mut token = shown(&known.access);
        let hash = hex::encode(known.hash);
        token["sha256"] = hash.get(..SHOWN_HASH_DIGITS).unwrap_or_default().into();
        token["validated_at"] = chrono::DateTime::from_timestamp_millis(known.validated_ms())
            .map(crate::unleash_api::client_metrics::time_text)
            .into();
        token
    });
    let pretrusted: Vec<Value> = unleash.tokens.pretrusted().map(|access| shown(access)).collect();
    Ok(Json(json!({"validated": known.collect::<Vec<_>>(), "pretrusted": pretrusted})))
}
