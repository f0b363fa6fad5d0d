//! Routes for operators and analysts, which the console uses: instances, evaluations, dead letters, replays, changes.

pub(super) mod activity;
pub(super) mod attributes;
pub(super) mod cluster;
pub(super) mod dead_letters;
mod doc;
pub(super) mod erasures;
pub(super) mod evaluations;
pub(super) mod explain;
pub(super) mod live;
pub(super) mod me;
pub(super) mod replays;

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use chrono::{DateTime, Utc};

use super::Problem;
use super::api::Api;
use super::caller::Caller;
use super::manage::params::{self, Params};

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/api/v1/me", get(me::me))
        .route("/api/v1/cluster", get(cluster::cluster))
        .route("/api/v1/propagation", get(cluster::propagations))
        .route("/api/v1/changes/{version}/propagation", get(cluster::propagation))
        .route("/api/v1/evaluations", get(evaluations::search))
        .route("/api/v1/evaluations/stream", get(live::stream))
        .route("/api/v1/feature-flags/{name}/explain", post(explain::explain))
        .route("/api/v1/dead-letters", get(dead_letters::list))
        .route("/api/v1/dead-letters/replay", post(dead_letters::replay))
        .route("/api/v1/dead-letters/{position}", get(dead_letters::one))
        .route("/api/v1/replays", get(replays::list).post(replays::start))
        .route("/api/v1/replays/{id}", get(replays::one).delete(replays::cancel))
        .route("/api/v1/activity", get(activity::activity))
        .route("/api/v1/erasures", post(erasures::erase))
        .route(
            "/api/v1/attributes/{key}",
            get(attributes::one).put(attributes::put).delete(attributes::delete),
        )
}

/// Parses an optional time in RFC 3339 format.
fn time(ask: &Params, name: &str) -> Result<Option<DateTime<Utc>>, Problem> {
    ask.parameter(name).map(|text| params::moment(name, &text)).transpose()
}

/// Refuses a caller whose token is restricted to certain flags or environments, for data that belong to neither.
fn must_see_everything(caller: &Caller, what: &str) -> Result<(), Problem> {
    if caller.restrictions().is_empty() && caller.environments().is_none() {
        return Ok(());
    }
    let detail = format!("{what} belong to no flag and no environment, so the token must not be restricted");
    Err(Problem::new(StatusCode::FORBIDDEN, detail))
}

/// Requires a reason for a change that cannot be undone.
fn required_reason(reason: Option<String>) -> Result<String, Problem> {
    reason
        .ok_or_else(|| Problem::of_field(StatusCode::UNPROCESSABLE_ENTITY, "X-Change-Reason", "is required"))
}
