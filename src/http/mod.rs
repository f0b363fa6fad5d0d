//! The HTTP surface: health and metrics of every process, and the routes of the `api` role.
//!
//! Each route group has its own file, and every error is a [`Problem`]. [`server`] implements what all listeners share:
//! timeouts, size limits, and a shutdown that lets open responses finish.

pub mod api;
mod bodies;
mod cached;
mod call;
mod caller;
mod changes;
mod completed;
mod connections;
mod console;
mod counts;
mod edge;
mod evaluate;
mod events;
pub mod fd_limit;
pub mod health;
mod input;
mod limits;
mod listeners;
mod manage;
mod measured;
mod ofrep;
mod openapi;
mod operations;
mod origin;
mod places;
pub mod problem;
pub mod server;
mod ticket;
pub mod tls;
mod tokens;
mod unleash;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH, RETRY_AFTER,
};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tower::ServiceExt;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::config::Config;
use crate::health::Registry;
use crate::metrics::Metrics;

use caller::Authenticator;
pub use input::Undecodable;
pub use limits::Limits;
use measured::Measured;

pub use api::Api;
pub use caller::{Authorized, Caller, scope};
pub use manage::segment;
pub use openapi::document as openapi_document;
pub use problem::Problem;
pub use server::Server;

/// Maximum size of a request body, in bytes. A larger body is refused with status 413.
pub const MAX_BODY_BYTES: usize = 1 << 20;

/// How long a browser may cache the result of a CORS preflight request.
const CORS_MAX_AGE: Duration = Duration::from_secs(3_600);

const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// State shared by the routes of one listener.
#[derive(Debug, Clone)]
pub struct HttpState {
    health: Arc<Registry>,
    metrics: Arc<Metrics>,
    /// The routes of the `api` role; without them only health and metrics are served.
    api: Option<Arc<Api>>,
    /// Decides who sees health details when this process has no `api` role. `None`: every caller sees them.
    authenticator: Option<Arc<Authenticator>>,
    /// Host names accepted in the `Host` header. `None`: any.
    allowed_hosts: Option<Arc<[String]>>,
}

impl HttpState {
    pub fn new(config: &Config, health: Arc<Registry>, metrics: Arc<Metrics>, api: Option<Arc<Api>>) -> Self {
        let authenticator = Some(Arc::new(Authenticator::new(&config.auth, None)));
        let allowed_hosts = config.http.allowed_hosts.as_deref().map(Arc::from);
        Self { health, metrics, api, authenticator, allowed_hosts }
    }

    pub fn api(&self) -> Option<&Arc<Api>> {
        self.api.as_ref()
    }
}

/// Builds the routes of the main listener. `with_metrics` adds `/metrics`, for when there is no separate metrics
/// listener.
pub fn router(http_state: HttpState, with_metrics: bool) -> Router {
    let own = health::routes();
    let own = if with_metrics { own.route("/metrics", get(metrics)) } else { own };
    let own = Limits::of(&http_state, None).around(own);
    let Some(api) = http_state.api.clone() else {
        return finish(own, http_state, Router::new());
    };
    let cors = cors(&api.config.api.cors_origins);
    let for_sdks = unleash::router(&http_state, &api);
    let routes = api_routes(&http_state, api);
    let router = finish(own.merge(routes), http_state, for_sdks.clone());
    // CORS is the outermost layer: a preflight request (`OPTIONS`) matches none of the routes.
    let router = match cors {
        Some(cors) => router.layer(cors),
        None => router,
    };
    // Beside that layer, because SDKs send other headers, from any origin.
    router.merge(for_sdks)
}

/// Builds the routes that show operators the state of the API for Unleash's SDKs.
pub fn backstage(api: Option<&Arc<Api>>) -> Router {
    match api.filter(|api| api.unleash.is_some()) {
        Some(api) => unleash::backstage(Arc::clone(api)),
        None => Router::new(),
    }
}

/// Merges the route groups of the `api` role.
fn api_routes<S>(http_state: &HttpState, api: Arc<Api>) -> Router<S> {
    let routes = Router::new()
        .merge(evaluate::routes())
        .merge(manage::routes())
        .merge(ofrep::routes())
        .merge(edge::routes())
        .merge(changes::routes())
        .merge(webhook::routes())
        .merge(tokens::routes())
        .merge(operations::routes())
        .merge(console::routes(&api.config.console))
        .merge(openapi::routes());
    Limits::of(http_state, Some(Arc::clone(&api))).around(routes).with_state(api)
}

/// Builds the CORS layer for the configured origins. `None` if none are configured.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    let any = origins.iter().any(|origin| origin == "*");
    let listed = origins.iter().filter_map(|origin| HeaderValue::try_from(origin.as_str()).ok());
    let allowed = if any { AllowOrigin::any() } else { AllowOrigin::list(listed) };
    let sent = [
        "if-flags-version",
        "flags-environment",
        "last-event-id",
        "traceparent",
        "x-change-reason",
        "x-api-key",
    ];
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

/// Builds the routes of the operators' listener (`FLAGSTREAM_HTTP__ADMIN_LISTEN`). It requires no token: any caller
/// that can reach it sees everything.
pub fn admin_router(http_state: HttpState) -> Router {
    router(HttpState { api: None, authenticator: None, allowed_hosts: None, ..http_state }, true)
}

/// Adds problem bodies for unknown paths (404) and methods (405), and sets the state. A path that the routes for Unleash's
/// SDKs match without its superfluous slashes is answered by them.
fn finish(router: Router<HttpState>, http_state: HttpState, for_sdks: Router) -> Router {
    router
        .fallback(async move |State(http_state): State<HttpState>, request: Request| {
            let method = request.method().clone();
            let path = match unleash::without_extra_slashes(request) {
                Ok(request) => {
                    let path = request.uri().path().to_owned();
                    let response = for_sdks.oneshot(request).await.into_response();
                    // Without a route, the answer has no content.
                    if response.headers().contains_key(CONTENT_TYPE)
                        || response.status() != StatusCode::NOT_FOUND
                    {
                        return response;
                    }
                    path
                }
                Err(path) => path,
            };
            Measured::of_no_route(&method).end(&http_state.metrics, StatusCode::NOT_FOUND);
            let detail = unleash::advice(&path)
                .unwrap_or("there is no route with this path; /openapi.json lists the routes");
            ofrep::error_response(Problem::new(StatusCode::NOT_FOUND, detail), &path)
        })
        .method_not_allowed_fallback(async |uri: Uri| {
            let detail =
                "the route does not support this method; the header Allow lists the supported methods";
            ofrep::error_response(Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail), uri.path())
        })
        .with_state(http_state)
}

async fn metrics(State(http_state): State<HttpState>) -> Response {
    if let Some(api) = &http_state.api {
        api.flush_counts();
    }
    encoded(&http_state.metrics)
}

/// All metrics in OpenMetrics text format.
fn encoded(metrics: &Metrics) -> Response {
    match metrics.encode() {
        Ok(text) => ([(CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(error) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error).into_response(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
