//! `POST /api/v1/unleash/webhook`: forwards a notification from Unleash to the changes topic as a hint.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue};
use axum::routing::post;
use axum::{Extension, Router};
use serde::de::IgnoredAny;

use crate::feed::hint::HINT_BYTES_MAX;
use crate::log_limit::limited;

use super::Problem;
use super::api::Api;
use super::caller::{Peer, bearer, same};
use super::input::Undecodable;
use super::openapi::schema::ProblemDetails;

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new().route("/api/v1/unleash/webhook", post(webhook))
}

/// Receives a notification from Unleash, so that a change made there is fetched at once.
#[utoipa::path(
    post,
    path = "/api/v1/unleash/webhook",
    operation_id = "receiveUnleashWebhook",
    tag = "changes",
    params(("Authorization" = String, Header, description = "The webhook secret, with or without the prefix `Bearer`")),
    request_body = Map<String, Value>,
    responses(
        (status = 202, description = "Accepted and forwarded"),
        (status = 400, description = "Not JSON", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 401, description = "The secret is missing or wrong", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 404, description = "The webhook is disabled", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 413, description = "Too large", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 415, description = "Not application/json", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 503, description = "The notification could not be written to Kafka; retry later", body = ProblemDetails, content_type = "application/problem+json")
    )
)]
pub(super) async fn webhook(
    State(api): State<Arc<Api>>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    unread: Undecodable,
) -> Result<StatusCode, Problem> {
    let Some(secret) = &api.config.unleash.webhook_secret else {
        let detail = "the webhook is disabled: FLAGSTREAM_UNLEASH__WEBHOOK_SECRET is not set";
        return Err(Problem::new(StatusCode::NOT_FOUND, detail));
    };
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !same(bearer(given).unwrap_or(given), secret.expose()) {
        api.authenticator.guessed(peer.map(|Extension(peer)| peer))?;
        let problem = Problem::new(
            StatusCode::UNAUTHORIZED,
            "the header Authorization does not contain the webhook secret",
        );
        return Err(problem.header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"flagstream\"")));
    }
    let input = unread.read(&api).await?;
    if input.body.len() > HINT_BYTES_MAX {
        let detail = format!("the request body is larger than {HINT_BYTES_MAX} bytes");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
    }
    if let Err(error) = serde_json::from_slice::<IgnoredAny>(&input.body) {
        return Err(Problem::new(StatusCode::BAD_REQUEST, format!("body: expected JSON: {error}")));
    }
    api.manager.hints.pass_on(&input.body).await.map_err(|error| {
        let topic = &api.config.topics.changes;
        limited!(warn, %error, topic, "a notification of the webhook could not be written to Kafka");
        let detail = "the notification could not be written to Kafka; retry later";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1)
    })?;
    Ok(StatusCode::ACCEPTED)
}
