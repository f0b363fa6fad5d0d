//! Definitions for server SDKs.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::get;
use chrono::Utc;

use crate::config::StreamingMode;
use crate::http::Problem;
use crate::http::api::Api;
use crate::http::openapi::unleash::{Feature, FeaturesQuery, SdkFeatures, SdkProblems};
use crate::http::places::Pool;
use crate::unleash_api::features::{Features, Prepared};

use super::{BackendCaller, SdkCaller, not_loaded, tags};

/// Header by which polling SDKs are asked to open a stream.
const FETCH_MODE: HeaderName = HeaderName::from_static("fetch-mode");

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/api/client/features", get(features).post(features_by_post))
        .route("/api/client/features/{*name}", get(feature))
        .route("/api/client/delta", get(delta))
}

/// Returns the definitions of all flags, for server SDKs.
#[utoipa::path(
    get,
    path = "/api/client/features",
    operation_id = "sdkListFeatures",
    tag = "unleash",
    params(FeaturesQuery),
    responses(
        (status = 200, description = "In the format of Unleash's client API", body = SdkFeatures, headers(("ETag" = String))),
        (status = 304, description = "Unchanged since the response with this `ETag`"),
        SdkProblems
    )
)]
pub(super) async fn features(
    State(api): State<Arc<Api>>,
    BackendCaller(caller): BackendCaller,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let _place = api.places.take(Pool::Evaluation)?;
    let features = in_force(&api, &caller)?;
    let (prefix, projects) = filter(query.as_deref());
    let filtered: Prepared;
    let prepared = match (&prefix, projects.is_empty()) {
        (None, true) => features.body(caller.selection()),
        _ => {
            filtered = features.filtered(caller.selection(), prefix.as_deref(), &projects);
            &filtered
        }
    };
    let mut response = answer(&headers, prepared);
    if api.config.unleash_api.streaming == StreamingMode::Prefer {
        response.headers_mut().insert(FETCH_MODE, HeaderValue::from_static("streaming"));
    }
    Ok(response)
}

/// Returns the definitions of all flags, like the call by GET. The body is ignored.
#[utoipa::path(
    post,
    path = "/api/client/features",
    operation_id = "sdkListFeaturesByPost",
    tag = "unleash",
    params(FeaturesQuery),
    responses(
        (status = 200, description = "In the format of Unleash's client API", body = SdkFeatures, headers(("ETag" = String))),
        (status = 304, description = "Unchanged since the response with this `ETag`"),
        SdkProblems
    )
)]
pub(super) async fn features_by_post(
    api: State<Arc<Api>>,
    caller: BackendCaller,
    query: RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    features(api, caller, query, headers).await
}

/// Returns the definition of one flag, for server SDKs.
#[utoipa::path(
    get,
    path = "/api/client/features/{name}",
    operation_id = "sdkGetFeature",
    tag = "unleash",
    params(("name" = String, Path, description = "The flag", min_length = 1)),
    responses(
        (status = 200, description = "In the format of Unleash's client API", body = Feature),
        (status = 404, description = "The token's projects have no such flag", content_type = "application/problem+json", body = crate::http::openapi::schema::ProblemDetails),
        SdkProblems
    )
)]
pub(super) async fn feature(
    State(api): State<Arc<Api>>,
    BackendCaller(caller): BackendCaller,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let _place = api.places.take(Pool::Evaluation)?;
    let features = in_force(&api, &caller)?;
    let Some(item) = features.find(&name) else {
        let reason = features.omitted.iter().find(|(omitted, _)| **omitted == *name);
        let detail = match reason {
            Some((_, reason)) => format!("flag {name} cannot be expressed in Unleash's format: {reason}"),
            None => format!("the token's projects have no flag {name}"),
        };
        return Err(Problem::new(StatusCode::NOT_FOUND, detail));
    };
    let mut response = Response::new(item.text.to_string().into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Refuses: differences are sent by the stream only, as by the open-source Unleash. Not in the OpenAPI document, because
/// no call of it succeeds.
async fn delta(_caller: BackendCaller) -> Problem {
    let detail = "this service has no delta API; use /api/client/features, or /api/client/streaming";
    Problem::new(StatusCode::NOT_FOUND, detail)
}

/// The caller's definitions in force.
pub(super) fn in_force(api: &Api, caller: &SdkCaller) -> Result<Arc<Features>, Problem> {
    let (selection, sets) = (caller.selection(), &caller.unleash.flag_sets);
    let unavailable = || not_loaded(api, &selection.environment);
    if !api.store.is_ready() {
        return Err(unavailable());
    }
    let now_ms = Utc::now().timestamp_millis();
    sets.features(&sets.of(selection), &api.store.load(), now_ms).ok_or_else(unavailable)
}

/// The filter of a query: a prefix of names, and projects.
fn filter(query: Option<&str>) -> (Option<String>, Vec<String>) {
    let (mut prefix, mut projects) = (None, Vec::new());
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match &*name {
            "namePrefix" if !value.is_empty() => prefix = Some(value.into_owned()),
            "project" | "project[]" if !value.is_empty() && value != "*" => projects.push(value.into_owned()),
            _ => {}
        }
    }
    (prefix, projects)
}

fn answer(headers: &HeaderMap, prepared: &Prepared) -> Response {
    let mut response = if tags::is_known(headers, &prepared.etag) {
        tags::not_modified(&prepared.etag)
    } else if accepts_gzip(headers) {
        let mut response = tags::json(prepared.gzip.clone(), &prepared.etag);
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response
    } else {
        tags::json(prepared.plain.clone(), &prepared.etag)
    };
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept-encoding"));
    response
}

/// Whether the client accepts gzip: it is named without a weight of 0.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|coding| {
        let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
        let weight =
            parameters.trim().strip_prefix("q=").and_then(|weight| weight.trim().parse::<f32>().ok());
        name.trim().eq_ignore_ascii_case("gzip") && weight.is_none_or(|weight| weight > 0.0)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_sent_only_to_clients_that_accept_it() {
        let accepts =
            |value: &str| accepts_gzip(&HeaderMap::from_iter([(ACCEPT_ENCODING, value.parse().unwrap())]));
        assert!(accepts("gzip, deflate") && accepts("br;q=1.0, gzip;q=0.8"));
        assert!(!accepts("br") && !accepts("gzip;q=0") && !accepts_gzip(&HeaderMap::new()));
    }

    #[test]
    fn a_query_filters_by_prefix_and_projects() {
        assert_eq!(filter(None), (None, Vec::new()));
        let both = (Some("new-".to_owned()), vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(filter(Some("namePrefix=new-&project=a&project=b&tag=x:y")), both);
        assert_eq!(filter(Some("project=*&namePrefix=")), (None, Vec::new()));
    }
}
