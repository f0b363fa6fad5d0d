//! Liveness, readiness and the health of the process's components.

use axum::extract::State;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde_json::json;

use crate::config::Scope;
use crate::health::PartHealth;

use super::HttpState;
use super::caller::Peer;

/// Replaces the details that the caller may not see.
const DETAILS_HINT: &str = "shown to callers with a token that has the scope read, and on the listener of \
    FLAGSTREAM_HTTP__ADMIN_LISTEN";

pub(super) fn routes() -> Router<HttpState> {
    Router::new()
        .route("/health", get(overview))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
}

/// Reports that the process can answer. Does not depend on any other system.
#[utoipa::path(get, path = "/health/live", operation_id = "getLiveness", tag = "health", responses((status = 200, description = "The process is running", body = Map<String, Value>)))]
pub(super) async fn live() -> Response {
    fresh(StatusCode::OK, json!({"status": "up"}))
}

/// Reports whether this process should receive traffic.
#[utoipa::path(get, path = "/health/ready", operation_id = "getReadiness", tag = "health", responses((status = 200, description = "Ready", body = Map<String, Value>), (status = 503, description = "Not ready", body = Map<String, Value>)))]
pub(super) async fn ready(
    State(http_state): State<HttpState>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
) -> Response {
    match http_state.health.is_ready() {
        true => fresh(StatusCode::OK, json!({"status": "ready"})),
        false => {
            let overview = http_state.health.overview();
            let waits = overview.parts.iter().filter(|(_, part)| part.required_for_ready);
            let details = sees_details(&http_state, peer, &headers).await;
            let told = |part: &PartHealth| match details {
                true => json!(part.report),
                false => json!({"state": part.report.state}),
            };
            let parts: serde_json::Map<_, _> =
                waits.map(|(name, part)| ((*name).to_owned(), told(part))).collect();
            fresh(StatusCode::SERVICE_UNAVAILABLE, json!({"status": "not ready", "parts": parts}))
        }
    }
}

/// Reports the health of each component.
///
/// Addresses, causes and numbers are shown to callers with the scope `read`, and to all callers of the operators'
/// listener. Other callers see only the states.
#[utoipa::path(get, path = "/health", operation_id = "getHealth", tag = "health", responses((status = 200, description = "Ready", body = Map<String, Value>), (status = 503, description = "Not ready", body = Map<String, Value>)))]
pub(super) async fn overview(
    State(http_state): State<HttpState>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
) -> Response {
    let overview = http_state.health.overview();
    let status = if overview.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if sees_details(&http_state, peer, &headers).await {
        return fresh(status, json!(overview));
    }
    let states = overview.parts.iter().map(|(name, part)| {
        let PartHealth { report, required_for_ready, .. } = part;
        let told = json!({"state": report.state, "required_for_ready": required_for_ready});
        ((*name).to_owned(), told)
    });
    let parts: serde_json::Map<_, _> = states.collect();
    fresh(
        status,
        json!({"status": overview.status, "ready": overview.ready, "parts": parts, "details": DETAILS_HINT}),
    )
}

/// Whether the caller may see more than states. An unknown token is treated like no token.
async fn sees_details(http_state: &HttpState, peer: Option<Extension<Peer>>, headers: &HeaderMap) -> bool {
    let Some(authenticator) = &http_state.authenticator else { return true };
    let authenticator = http_state.api.as_ref().map_or(&**authenticator, |api| &api.authenticator);
    let peer = peer.map(|Extension(peer)| peer);
    authenticator.may_without_token(Scope::Read)
        || (headers.contains_key(AUTHORIZATION)
            && authenticator.identify(headers, peer).await.is_ok_and(|caller| {
                // Details contain names of flags.
                caller.may(Scope::Read).is_ok() && caller.restrictions().is_empty()
            }))
}

fn fresh(status: StatusCode, body: serde_json::Value) -> Response {
    (status, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}
