//! What every call passes, in one layer (each layer costs every call a few allocations): how many calls are answered
//! at once, how long an answer may take, and the form of errors that the router itself finds.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};

use crate::metrics::RefusedLabels;

use super::api::{Api, MAX_CALLS};
use super::{Problem, server};

/// The limits of some routes.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(super) time: Duration,
    /// Whose calls are counted; `None`: as many as come.
    pub(super) api: Option<Arc<Api>>,
}

impl Limits {
    pub(crate) fn of(api: Option<Arc<Api>>) -> Self {
        Self { time: server::ANSWER_TIMEOUT, api }
    }

    /// The routes within these limits.
    pub(crate) fn around<S: Clone + Send + Sync + 'static>(self, routes: Router<S>) -> Router<S> {
        routes.layer(middleware::from_fn_with_state(self, limited))
    }
}

async fn limited(State(limits): State<Limits>, request: Request, next: Next) -> Response {
    let Some(api) = &limits.api else {
        return answered(limits.time, request, next).await;
    };
    let response = match api.calls.try_acquire() {
        Ok(_permit) => answered(limits.time, request, next).await,
        // Told to come again, not queued.
        Err(_) => {
            let detail = format!("{MAX_CALLS} calls are being answered already");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1).into_response()
        }
    };
    // What was refused for who asked, how often, or when.
    if let Some(labels) = RefusedLabels::of(response.status().as_u16()) {
        api.metrics.http.refused.get_or_create(&labels).inc();
    }
    response
}

/// An answer that takes too long is given up.
async fn answered(limit: Duration, request: Request, next: Next) -> Response {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => as_problem(response),
        Err(_) => Problem::new(StatusCode::GATEWAY_TIMEOUT, "no answer in time").into_response(),
    }
}

/// An error that the router itself found, such as a path that is no UTF-8, looks like all others.
fn as_problem(response: Response) -> Response {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let kind = response.headers().get(CONTENT_TYPE);
    if !kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain")) {
        return response;
    }
    let detail = if status.is_client_error() { "the path or a parameter cannot be read" } else { "failed" };
    Problem::new(status, detail).into_response()
}
