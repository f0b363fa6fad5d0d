//! `/openapi.json`, made from the routes, and `/docs`, a viewer that fetches nothing from elsewhere.

pub(super) mod calls;
pub(super) mod edge;
mod everywhere;
mod local_flag;
pub(super) mod schema;

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_FRAME_OPTIONS,
};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use utoipa::OpenApi;
use utoipa_swagger_ui::Config;

use self::everywhere::Everywhere;
use super::Problem;
use super::api::Api;
use super::edge as edge_routes;
use super::{changes, evaluate, health, manage, ofrep, tokens, webhook};

const DOCUMENT: &str = "/openapi.json";
/// The viewer runs our own scripts only, and stands in nobody's frame. Its styles are partly written into elements.
const VIEWER_POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
    object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "flagstream",
        description = "Feature flags, evaluated. Every evaluation becomes an event in Kafka.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    paths(
        evaluate::one,
        evaluate::boolean,
        evaluate::bulk,
        evaluate::batch,
        manage::list,
        manage::one,
        manage::create,
        manage::update,
        manage::delete,
        manage::sync,
        manage::history,
        manage::changes,
        manage::kill::kill,
        manage::kill::restore,
        manage::past::revert,
        manage::past::cleanup,
        manage::watch::usage,
        manage::watch::stale,
        manage::preload::preload,
        manage::preview::preview,
        manage::experiment::begin,
        manage::experiment::list,
        manage::experiment::one,
        manage::experiment::results,
        manage::experiment::stop,
        manage::experiment::convert,
        local_flag::schema,
        ofrep::one,
        ofrep::all,
        edge_routes::check,
        edge_routes::flag,
        edge_routes::list,
        edge_routes::update,
        edge_routes::clear,
        edge_routes::stats,
        changes::changes,
        changes::openfeature,
        webhook::webhook,
        tokens::create,
        tokens::list,
        tokens::revoke,
        tokens::changes,
        health::overview,
        health::live,
        health::ready
    ),
    modifiers(&Everywhere),
    tags(
        (name = "evaluation", description = "Flags for a user and a context"),
        (name = "management", description = "Flags themselves: local ones are changed here, all are shown"),
        (name = "experiments", description = "What flags with variants come to: exposures, conversions, results"),
        (name = "openfeature", description = "OpenFeature's remote evaluation protocol, 0.3"),
        (name = "edge", description = "Flags for a user, kept in Redis for a short while"),
        (name = "changes", description = "What changes, as it happens"),
        (name = "tokens", description = "Who may call; needs the scope `admin`"),
        (name = "schemas", description = "What documents may say"),
        (name = "health", description = "How this process is doing")
    )
)]
struct Document;

static TEXT: LazyLock<Bytes> = LazyLock::new(|| {
    // A document of ours always serializes.
    let mut document = serde_json::to_value(Document::openapi()).unwrap_or_default();
    local_flag::describe(&mut document);
    document.to_string().into()
});

static VIEWER: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| Arc::new(Config::new([DOCUMENT])));

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route(DOCUMENT, get(document))
        .route(local_flag::PATH, get(local_flag::schema))
        .route("/docs", get(async || Redirect::permanent("/docs/")))
        .route("/docs/", get(async || viewer("")))
        .route("/docs/{*file}", get(async |Path(file): Path<String>| viewer(&file)))
}

async fn document() -> Response {
    ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-cache")], TEXT.clone()).into_response()
}

fn viewer(file: &str) -> Response {
    let found = utoipa_swagger_ui::serve(file, Arc::clone(&VIEWER)).ok().flatten();
    let Some(found) = found else {
        return Problem::new(StatusCode::NOT_FOUND, "no such file").into_response();
    };
    let mut response = Response::new(Body::from(found.bytes.into_owned()));
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(VIEWER_POLICY));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    if let Ok(content_type) = HeaderValue::try_from(found.content_type) {
        response.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    if found.gzpipped {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}
