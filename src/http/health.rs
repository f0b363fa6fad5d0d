//! Whether this process lives, should get traffic, and how its parts are.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use super::Surface;

pub(super) fn routes() -> Router<Surface> {
    Router::new()
        .route("/health", get(overview))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
}

/// Answers as long as the process can; never depends on anything outside.
#[utoipa::path(get, path = "/health/live", tag = "health", responses((status = 200, description = "Well", body = Map<String, Value>)))]
pub(super) async fn live() -> Response {
    fresh(StatusCode::OK, json!({"status": "up"}))
}

/// Whether this process should get traffic.
#[utoipa::path(get, path = "/health/ready", tag = "health", responses((status = 200, description = "Well", body = Map<String, Value>), (status = 503, description = "Not ready", body = Map<String, Value>)))]
pub(super) async fn ready(State(surface): State<Surface>) -> Response {
    match surface.health.is_ready() {
        true => fresh(StatusCode::OK, json!({"status": "ready"})),
        false => {
            let overview = surface.health.overview();
            let waits = overview.parts.iter().filter(|(_, part)| part.required_for_ready);
            let parts: serde_json::Map<_, _> =
                waits.map(|(name, part)| ((*name).to_owned(), json!(part.report))).collect();
            fresh(StatusCode::SERVICE_UNAVAILABLE, json!({"status": "not ready", "parts": parts}))
        }
    }
}

/// How each part is doing.
#[utoipa::path(get, path = "/health", tag = "health", responses((status = 200, description = "Well", body = Map<String, Value>), (status = 503, description = "Not ready", body = Map<String, Value>)))]
pub(super) async fn overview(State(surface): State<Surface>) -> Response {
    let overview = surface.health.overview();
    let status = if overview.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    fresh(status, json!(overview))
}

fn fresh(status: StatusCode, body: serde_json::Value) -> Response {
    (status, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}
