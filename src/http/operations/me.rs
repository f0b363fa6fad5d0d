//! `GET /api/v1/me`: what the caller may do.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::doc::Me;
use crate::http::Problem;
use crate::http::api::Api;
use crate::http::caller::Caller;
use crate::http::manage::answer;

/// Shows who the caller is, and what the caller may do.
///
/// A caller without any scope learns that, and nothing about the service.
// It needs no scope, because what it shows depends on the scopes that the caller has.
#[utoipa::path(
    get,
    path = "/api/v1/me",
    operation_id = "getCaller",
    tag = "operations",
    responses((status = 200, description = "Name, scopes and environments of the caller", body = Me))
)]
pub(in crate::http) async fn me(State(api): State<Arc<Api>>, caller: Caller) -> Result<Response, Problem> {
    let snapshot = api.store.load();
    let served = snapshot.environments().map(|(name, _)| name.to_string());
    let scopes = caller.scopes();
    let may_anything = !scopes.is_empty();
    let environments: Vec<String> = served.filter(|name| may_anything && caller.sees(name)).collect();
    let within = caller.restrictions();
    let restrictions: serde_json::Map<_, _> =
        within.fields().into_iter().map(|(field, names)| (field.to_owned(), json!(names))).collect();
    let config = &api.config;
    let body = json!({
        "actor": caller.name(), "person": caller.person(), "has_token": caller.has_token(),
        "scopes": scopes, "environments": environments,
        "all_environments": caller.environments().is_none(),
        "default_environment": may_anything.then_some(&config.unleash.default_environment),
        "restrictions": restrictions,
        "has_database": may_anything && config.database.url.is_some(),
        "has_redis": may_anything && config.redis.url.is_some(),
        "instance": may_anything.then_some(&config.instance),
        "version": may_anything.then_some(env!("CARGO_PKG_VERSION")),
    });
    answer(StatusCode::OK, &body)
}
