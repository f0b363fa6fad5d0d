//! The HTTP surface: health and metrics of every process, and the routes of the `api` role.
//!
//! One file per surface; every error is a [`Problem`]. [`server`] holds what is the same for all: limits of time
//! and size, and a stop that lets answers finish.

pub mod api;
mod call;
mod caller;
mod changes;
mod counts;
mod edge;
mod evaluate;
pub mod handles;
pub mod health;
mod input;
mod kept;
mod manage;
mod ofrep;
mod openapi;
pub mod problem;
pub mod server;
mod tls;
mod tokens;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{
    AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH, RETRY_AFTER,
};
use axum::http::{Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::health::Registry;
use crate::metrics::{Metrics, RefusedLabels};

pub use api::Api;
pub use caller::Caller;
pub use manage::segment;
pub use problem::Problem;
pub use server::Server;

/// A body larger than this is refused with 413.
pub const MAX_BODY_BYTES: usize = 1 << 20;

/// For how long a browser need not ask again what it may do.
const CORS_MAX_AGE: Duration = Duration::from_secs(3_600);

const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the routes need.
#[derive(Debug, Clone)]
pub struct Surface {
    pub health: Arc<Registry>,
    pub metrics: Arc<Metrics>,
    /// The routes of the `api` role; without them only health and metrics are served.
    pub api: Option<Arc<Api>>,
}

/// The routes of the main listener; `with_metrics` where they have no listener of their own.
pub fn router(surface: Surface, with_metrics: bool) -> Router {
    let router = health::routes();
    let router = if with_metrics { router.route("/metrics", get(metrics)) } else { router };
    let Some(api) = surface.api.clone() else {
        return finish(router, surface);
    };
    let cors = cors(&api.config.api.cors_origins);
    let router = finish(router.merge(api_routes(api)), surface);
    // Around all others: what a browser asks before a call is no call of any route.
    match cors {
        Some(cors) => router.layer(cors),
        None => router,
    }
}

/// The routes of the `api` role, one file per surface.
fn api_routes<S>(api: Arc<Api>) -> Router<S> {
    Router::new()
        .merge(evaluate::routes())
        .merge(manage::routes())
        .merge(ofrep::routes())
        .merge(edge::routes())
        .merge(changes::routes())
        .merge(webhook::routes())
        .merge(tokens::routes())
        .merge(openapi::routes())
        .layer(middleware::from_fn_with_state(Arc::clone(&api), within_limits))
        .with_state(api)
}

/// What pages of these origins may do; nothing where there are none.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    let any = origins.iter().any(|origin| origin == "*");
    let listed = origins.iter().filter_map(|origin| HeaderValue::try_from(origin.as_str()).ok());
    let allowed = if any { AllowOrigin::any() } else { AllowOrigin::list(listed) };
    let sent = ["if-flags-version", "flags-environment", "last-event-id", "traceparent", "x-change-reason"];
    let seen = ["flags-version"];
    let sent = sent.map(HeaderName::from_static).into_iter();
    let seen = seen.map(HeaderName::from_static).into_iter();
    (!origins.is_empty()).then(|| {
        CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
            .allow_headers(Vec::from_iter(sent.chain([CONTENT_TYPE, AUTHORIZATION, IF_NONE_MATCH, IF_MATCH])))
            .expose_headers(Vec::from_iter(seen.chain([ETAG, RETRY_AFTER])))
            .max_age(CORS_MAX_AGE)
    })
}

/// A call beyond what can be answered at once is told to come again.
async fn within_limits(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    match api.calls.try_acquire() {
        Ok(_permit) => counted(&api, next.run(request).await),
        Err(_) => {
            let detail = format!("{} calls are being answered already", api::MAX_CALLS);
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1);
            counted(&api, problem.into_response())
        }
    }
}

/// Counts what was refused for who asked, how often, or when.
fn counted(api: &Api, response: Response) -> Response {
    if let Some(labels) = RefusedLabels::of(response.status().as_u16()) {
        api.metrics.http.refused.get_or_create(&labels).inc();
    }
    response
}

/// The routes of the listener for operators (`FLAGSTREAM_HTTP__ADMIN_LISTEN`).
pub fn admin_router(surface: Surface) -> Router {
    router(Surface { api: None, ..surface }, true)
}

fn finish(router: Router<Surface>, surface: Surface) -> Router {
    finish_within(server::ANSWER_TIMEOUT, router, surface)
}

fn finish_within(limit: Duration, router: Router<Surface>, surface: Surface) -> Router {
    router
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "no such path"))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "no such method here")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::map_response(as_problem))
        .layer(middleware::from_fn(move |request, next| within_time(limit, request, next)))
        .with_state(surface)
}

/// An error that the router itself found, such as a path that is no UTF-8, looks like all others.
async fn as_problem(response: Response) -> Response {
    let status = response.status();
    let text =
        response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if text && (status.is_client_error() || status.is_server_error()) {
        let detail =
            if status.is_client_error() { "the path or a parameter cannot be read" } else { "failed" };
        return Problem::new(status, detail).into_response();
    }
    response
}

/// An answer that takes too long is given up.
async fn within_time(limit: Duration, request: Request, next: Next) -> Response {
    let answer = tokio::time::timeout(limit, next.run(request)).await;
    answer.unwrap_or_else(|_| Problem::new(StatusCode::GATEWAY_TIMEOUT, "no answer in time").into_response())
}

async fn metrics(State(surface): State<Surface>) -> Response {
    if let Some(api) = &surface.api {
        api.flush_counts();
    }
    match surface.metrics.encode() {
        Ok(text) => ([(CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(error) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error).into_response(),
    }
}

#[cfg(test)]
mod tests;
