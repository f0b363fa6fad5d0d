//! Middleware around every route: allowed host names and origins, response timeout, response headers, and the problem
//! form for errors that the router itself produces. It is one layer because each layer costs every request a few
//! allocations.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::Response;

use crate::metrics::{Metrics, RefusedLabels};
use crate::traces;

use super::api::Api;
use super::measured::Measured;
use super::{HttpState, Problem, ofrep, origin, server};

/// Limits of a group of routes.
#[derive(Debug, Clone)]
pub struct Limits {
    pub(super) time: Duration,
    /// Host names accepted in the `Host` header. `None`: any.
    pub(super) allowed_hosts: Option<Arc<[String]>>,
    /// Set for the routes of the `api` role, whose refused requests are counted.
    pub(super) api: Option<Arc<Api>>,
    pub(super) metrics: Arc<Metrics>,
}

impl Limits {
    pub fn of(http_state: &HttpState, api: Option<Arc<Api>>) -> Self {
        Self {
            time: server::ANSWER_TIMEOUT,
            allowed_hosts: http_state.allowed_hosts.clone(),
            api,
            metrics: Arc::clone(&http_state.metrics),
        }
    }

    /// Wraps the routes in these limits.
    pub fn around<S: Clone + Send + Sync + 'static>(self, routes: Router<S>) -> Router<S> {
        routes.layer(middleware::from_fn_with_state(self, limited))
    }
}

async fn limited(State(limits): State<Limits>, mut request: Request, next: Next) -> Response {
    let measured = Measured::begin(&request);
    let span = traces::serve(&mut request, measured.method(), measured.route());
    let path = request.uri().path();
    let ofrep_path = ofrep::is_path(path).then(|| path.to_owned());
    let answered = match origin::check(limits.allowed_hosts.as_deref(), &request) {
        Ok(()) => match &span {
            Some(span) => span.around(answered(limits.time, request, next)).await,
            None => answered(limits.time, request, next).await,
        },
        Err(problem) => Err(problem),
    };
    let mut response = answered
        .unwrap_or_else(|problem| ofrep::error_response(problem, ofrep_path.as_deref().unwrap_or_default()));
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Responses can contain data about a user, so they are not cacheable unless the route says otherwise.
    if limits.api.is_some() && !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    // Counts refusals because of the caller, the rate, or the load.
    if let Some(api) = &limits.api
        && let Some(labels) = RefusedLabels::of(response.status().as_u16())
    {
        api.metrics.http.refused.get_or_create(&labels).inc();
    }
    measured.end(&limits.metrics, response.status());
    if let Some(span) = span {
        span.end(response.status());
    }
    response
}

/// Runs the route. The error is 504 if it takes longer than `limit`, or an error of the router itself.
async fn answered(limit: Duration, request: Request, next: Next) -> Result<Response, Problem> {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => match problem_of_router(&response) {
            Some(problem) => Err(problem),
            None => Ok(response),
        },
        Err(_) => {
            let detail = format!("the request was not completed within {} s", limit.as_secs());
            Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, detail))
        }
    }
}

/// Problem for an error of the router itself, such as a path that is not UTF-8; `None` for all other responses.
fn problem_of_router(response: &Response) -> Option<Problem> {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return None;
    }
    let kind = response.headers().get(CONTENT_TYPE)?;
    if !kind.as_bytes().starts_with(b"text/plain") {
        return None;
    }
    let detail = if status.is_client_error() {
        "the path or a query parameter cannot be parsed"
    } else {
        "the request failed with an internal error"
    };
    Some(Problem::new(status, detail))
}
