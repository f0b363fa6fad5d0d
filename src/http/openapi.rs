//! `/openapi.json`, generated from the routes, and `/docs`, a viewer that loads nothing from other hosts.

pub(super) mod calls;
mod common_responses;
pub(super) mod edge;
mod local_flag;
pub(super) mod ofrep_bodies;
pub(super) mod schema;
pub(super) mod unleash;

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_FRAME_OPTIONS,
};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use utoipa::OpenApi;
use utoipa_swagger_ui::Config;

use crate::asyncapi;

use self::common_responses::CommonResponses;
use super::Problem;
use super::api::Api;
use super::edge as edge_routes;
use super::unleash as sdk_routes;
use super::{changes, evaluate, health, manage, ofrep, operations, tokens, webhook};

const DOCUMENT: &str = "/openapi.json";
const ASYNCAPI_DOCUMENT: &str = "/asyncapi.json";
/// Allows the viewer only its own scripts, and no embedding in frames. Inline styles are allowed because the viewer
/// sets some on elements.
const VIEWER_POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
    object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "flagstream",
        description = "flagstream evaluates feature flags and publishes every evaluation as an event in Kafka.\n\n\
            **Tokens.** Send an API token as `Authorization: Bearer TOKEN`. Without a token a request has the scopes of \
            `FLAGSTREAM_AUTH__ANONYMOUS_SCOPES`. A token has scopes (`evaluate`, `read`, `audit`, `track`, `write`, \
            `delete`, `admin`) and environments, and may be restricted to flags by project, name or owner.\n\n\
            **Environments.** An evaluation names its environment in the body, in the query or in the header \
            `Flags-Environment`; otherwise the default environment is used. An environment that is not served is \
            answered with reason `ERROR` and code `PROVIDER_NOT_READY`.\n\n\
            Details are in docs/api.md of the repository.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    servers((url = "/", description = "The service that serves this document")),
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
        manage::revert::revert,
        manage::revert::cleanup,
        manage::usage::usage,
        manage::usage::stale,
        manage::preload::preload,
        manage::preview::preview,
        manage::experiment::begin,
        manage::experiment::list,
        manage::experiment::one,
        manage::experiment::results,
        manage::experiment::history,
        manage::experiment::stop,
        manage::experiment::convert,
        local_flag::schema,
        ofrep::one,
        ofrep::all,
        ofrep::track::track,
        edge_routes::check,
        edge_routes::flag,
        edge_routes::list,
        edge_routes::update,
        edge_routes::clear,
        edge_routes::stats,
        changes::changes,
        changes::openfeature,
        sdk_routes::features,
        sdk_routes::features_by_post,
        sdk_routes::feature,
        sdk_routes::streaming,
        sdk_routes::enabled,
        sdk_routes::enabled_by_post,
        sdk_routes::all,
        sdk_routes::all_by_post,
        sdk_routes::one,
        sdk_routes::one_by_post,
        sdk_routes::register,
        sdk_routes::metrics,
        sdk_routes::bulk,
        sdk_routes::edge,
        sdk_routes::frontend_register,
        sdk_routes::frontend_metrics,
        sdk_routes::report_impressions,
        sdk_routes::validate,
        webhook::webhook,
        tokens::create,
        tokens::list,
        tokens::revoke,
        tokens::changes,
        operations::me::me,
        operations::cluster::cluster,
        operations::cluster::propagations,
        operations::cluster::propagation,
        operations::evaluations::search,
        operations::live::stream,
        operations::explain::explain,
        operations::dead_letters::list,
        operations::dead_letters::one,
        operations::dead_letters::replay,
        operations::replays::start,
        operations::replays::list,
        operations::replays::one,
        operations::replays::cancel,
        operations::activity::activity,
        operations::erasures::erase,
        operations::attributes::one,
        operations::attributes::put,
        operations::attributes::delete,
        health::overview,
        health::live,
        health::ready
    ),
    modifiers(&CommonResponses),
    tags(
        (name = "evaluation", description = "Evaluate flags for a user and a context"),
        (name = "management", description = "List all flags; create, change, delete and kill them"),
        (name = "experiments", description = "Experiments on flags with variants: exposures, conversions, results"),
        (name = "openfeature", description = "OpenFeature's remote evaluation protocol (OFREP), version 0.3"),
        (name = "edge", description = "Evaluate flags for a user, with results cached in Redis for 30 or 60 seconds"),
        (name = "operations", description = "Instances, recorded evaluations, dead letters, replays, changes: what the console shows"),
        (name = "unleash", description = "The API for Unleash's SDKs; needs `FLAGSTREAM_UNLEASH_API__ENABLED`, and a token of Unleash or of this service"),
        (name = "unleash-open", description = "The part of the API for Unleash's SDKs that needs no token"),
        (name = "changes", description = "Streams of changes, as server-sent events"),
        (name = "tokens", description = "API tokens; needs the scope `admin`"),
        (name = "schemas", description = "JSON schemas of documents"),
        (name = "health", description = "Health of this process and of the systems that it depends on")
    )
)]
struct Document;

static TEXT: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());

/// The document as JSON.
pub fn document() -> serde_json::Value {
    // Serializing the built-in document does not fail.
    let mut document = serde_json::to_value(Document::openapi()).unwrap_or_default();
    local_flag::describe(&mut document);
    document
}

static VIEWER: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| Arc::new(Config::new([DOCUMENT])));

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route(DOCUMENT, get(serve_document))
        .route(ASYNCAPI_DOCUMENT, get(asyncapi_document))
        .route(local_flag::PATH, get(local_flag::schema))
        .route("/", get(async || Redirect::temporary("/docs/")))
        .route("/docs", get(async || Redirect::permanent("/docs/")))
        .route("/docs/", get(async || viewer("")))
        .route("/docs/{*file}", get(async |Path(file): Path<String>| viewer(&file)))
}

async fn serve_document() -> Response {
    ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-cache")], TEXT.clone()).into_response()
}

/// The AsyncAPI document of the topics of this deployment.
async fn asyncapi_document(State(api): State<Arc<Api>>) -> Response {
    ([(CACHE_CONTROL, "no-cache")], axum::Json(asyncapi::document(&api.config))).into_response()
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    fn operations() -> Vec<(String, Value)> {
        let document: Value = serde_json::from_slice(&TEXT).unwrap();
        let paths = document["paths"].as_object().unwrap().clone();
        let of_path = |(path, item): (String, Value)| {
            let item = item.as_object().unwrap().clone();
            item.into_iter().map(move |(method, operation)| (format!("{method} {path}"), operation))
        };
        paths.into_iter().flat_map(of_path).collect()
    }

    #[test]
    fn operation_ids_are_unique_names_of_functions() {
        let mut seen = BTreeSet::new();
        for (place, operation) in operations() {
            let id = operation["operationId"].as_str().unwrap().to_owned();
            assert!(id.chars().all(|c| c.is_ascii_alphanumeric()) && id.len() > 6, "{place}: {id}");
            assert!(seen.insert(id.clone()), "{place}: {id} is the id of two operations");
        }
        assert!(seen.contains("evaluateFlag") && seen.contains("edgeUpdateFlag"));
    }

    /// The blocks of JSON below a heading of docs/api.md. scripts/deploy-check validates those that are messages.
    fn examples(heading: &str) -> Vec<Value> {
        let text = include_str!("../../docs/api.md");
        let section = text.split_once(&format!("\n{heading}\n")).unwrap().1;
        let section = section.split("\n### ").next().unwrap();
        let blocks = section.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap());
        blocks.map(|block| serde_json::from_str(block).unwrap()).collect()
    }

    #[test]
    fn examples_of_calls_satisfy_the_document() {
        let experiments = examples("### Experiments");
        let counted = experiments.iter().find(|example| example.get("age_seconds").is_some()).unwrap();
        let health = examples("### Health");
        let free = serde_json::json!({"type": "object"});
        for (name, example) in [
            (Some("NewExperiment"), &experiments[0]),
            (Some("ExperimentCounted"), counted),
            (None, &health[0]),
        ] {
            let schema = name.map_or_else(
                || free.clone(),
                |name| {
                    let mut schema = document();
                    schema["$ref"] = format!("#/components/schemas/{name}").into();
                    schema
                },
            );
            let errors: Vec<_> = jsonschema::validator_for(&schema)
                .unwrap()
                .iter_errors(example)
                .map(|e| e.to_string())
                .collect();
            assert!(errors.is_empty(), "{name:?}: {errors:?}");
        }
    }

    #[test]
    fn the_document_lists_every_scope() {
        let document: Value = serde_json::from_slice(&TEXT).unwrap();
        let names: Vec<_> = crate::config::Scope::NAMES.iter().map(|(name, _)| *name).collect();
        let listed = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let description = document["info"]["description"].as_str().unwrap();
        assert!(description.contains(&format!("has scopes ({listed})")), "{description}");
        assert_eq!(document["components"]["schemas"]["ScopeName"]["enum"], serde_json::json!(names));
    }

    #[test]
    fn every_reference_leads_to_a_schema() {
        fn check(value: &Value, document: &Value) {
            if let Some(target) = value.get("$ref").and_then(Value::as_str) {
                assert!(document.pointer(target.trim_start_matches('#')).is_some(), "{target}");
            }
            match value {
                Value::Object(members) => members.values().for_each(|member| check(member, document)),
                Value::Array(items) => items.iter().for_each(|item| check(item, document)),
                _ => {}
            }
        }
        let document: Value = serde_json::from_slice(&TEXT).unwrap();
        check(&document, &document);
    }

    #[test]
    fn every_operation_is_described_and_says_who_may_call() {
        for (place, operation) in operations() {
            assert!(operation["summary"].as_str().is_some_and(|summary| summary.len() > 8), "{place}");
            assert!(operation["security"].is_array(), "{place}");
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.keys().any(|status| status.starts_with('4')), "{place}");
        }
        let document: Value = serde_json::from_slice(&TEXT).unwrap();
        assert_eq!(document["servers"][0]["url"], "/");
    }
}
