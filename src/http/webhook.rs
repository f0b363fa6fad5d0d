//! `POST /api/v1/unleash/webhook`: what Unleash tells becomes a hint on the changes topic.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue};
use axum::routing::post;
use rdkafka::error::KafkaError;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde::de::IgnoredAny;

use crate::feed::hint::{self, HINT_BYTES_MAX, Hint, Reading};
use crate::kafka::client;

use super::Problem;
use super::api::Api;
use super::caller::{bearer, same};
use super::input::Input;
use super::openapi::schema::ProblemDetails;

/// For Kafka to take a hint; Unleash tries again on an error.
const SEND_PATIENCE: Duration = Duration::from_secs(5);

/// The producer of hints, made when the first one comes.
#[derive(Default)]
pub(super) struct Hints(OnceLock<FutureProducer>);

impl std::fmt::Debug for Hints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hints")
    }
}

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new().route("/api/v1/unleash/webhook", post(webhook))
}

/// Takes what Unleash tells: a change made there is in force soon.
#[utoipa::path(
    post,
    path = "/api/v1/unleash/webhook",
    tag = "changes",
    params(("Authorization" = String, Header, description = "The secret, bare or after `Bearer`")),
    request_body = Map<String, Value>,
    responses(
        (status = 202, description = "Passed on"),
        (status = 400, description = "Not JSON", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 401, description = "Not the secret", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 404, description = "The webhook is off", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 413, description = "Too large", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 415, description = "Not application/json", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 503, description = "Kafka does not take it", body = ProblemDetails, content_type = "application/problem+json")
    )
)]
pub(super) async fn webhook(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    input: Input,
) -> Result<StatusCode, Problem> {
    let Some(secret) = &api.config.unleash.webhook_secret else {
        let detail = "the webhook is off: FLAGSTREAM_UNLEASH__WEBHOOK_SECRET is not set";
        return Err(Problem::new(StatusCode::NOT_FOUND, detail));
    };
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !same(bearer(given).unwrap_or(given), secret.expose()) {
        let problem =
            Problem::new(StatusCode::UNAUTHORIZED, "the header Authorization does not hold the secret");
        return Err(problem.header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"flagstream\"")));
    }
    if input.body.len() > HINT_BYTES_MAX {
        let detail = format!("the body is larger than {HINT_BYTES_MAX} bytes");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
    }
    if let Err(error) = serde_json::from_slice::<IgnoredAny>(&input.body) {
        return Err(Problem::new(StatusCode::BAD_REQUEST, format!("body: expected JSON: {error}")));
    }
    api.hints.send(&api, &input.body).await.map_err(|error| {
        tracing::warn!(%error, topic = api.config.topics.changes, "a webhook's hint could not be sent");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the hint could not be passed on").retry_after(1)
    })?;
    Ok(StatusCode::ACCEPTED)
}

impl Hints {
    async fn send(&self, api: &Api, body: &[u8]) -> Result<(), KafkaError> {
        let key = key(body);
        let record = FutureRecord::to(&api.config.topics.changes).key(&key).payload(body);
        let sent = self.producer(api)?.send(record, SEND_PATIENCE).await;
        sent.map(drop).map_err(|(error, _)| error)
    }

    fn producer(&self, api: &Api) -> Result<&FutureProducer, KafkaError> {
        if let Some(producer) = self.0.get() {
            return Ok(producer);
        }
        let mut config = client::base(&api.config.kafka, &api.config.instance, "hints");
        config.set("linger.ms", "0").set("message.timeout.ms", SEND_PATIENCE.as_millis().to_string());
        let producer = config.create()?;
        Ok(self.0.get_or_init(|| producer))
    }
}

/// As change events are keyed; what is not understood is about everything.
fn key(body: &[u8]) -> String {
    match hint::read(Some(body)) {
        Reading::Understood(Hint { environment, flag }) => {
            format!("{}/{}", environment.unwrap_or_default(), flag.unwrap_or_default())
        }
        _ => "/".to_owned(),
    }
}
