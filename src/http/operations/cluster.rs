//! `/api/v1/cluster` and the propagation of changes.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::doc::{ClusterBody, PropagationBody, PropagationList, PropagationQuery};
use crate::http::Problem;
use crate::http::api::Api;
use crate::http::caller::{Authorized, Caller, scope};
use crate::http::manage::answer;
use crate::http::manage::doc::ManageProblems;
use crate::http::manage::params::Params;
use crate::message::change::Change;

const CHANGES_DEFAULT: u32 = 50;
/// Maximum changes in one answer.
const CHANGES_MAX: u32 = 500;

/// Shows all instances: roles, version in force, lag, rates, the leader, and what they depend on.
///
/// The details of parts are shown to tokens that are not restricted to certain flags or environments.
#[utoipa::path(
    get,
    path = "/api/v1/cluster",
    operation_id = "getCluster",
    tag = "operations",
    responses((status = 200, description = "All instances that have reported within 30 s", body = ClusterBody))
)]
pub(in crate::http) async fn cluster(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Read>,
    _ask: Params,
) -> Result<Response, Problem> {
    let mut view = api.cluster.view();
    // Details contain names of flags and environments.
    if !caller.restrictions().is_empty() || caller.environments().is_some() {
        view.hide_details();
    }
    answer(StatusCode::OK, &view)
}

/// Lists the latest changes of flags, each with the path that it took.
#[utoipa::path(
    get,
    path = "/api/v1/propagation",
    operation_id = "listPropagation",
    tag = "operations",
    params(PropagationQuery),
    responses(
        (status = 200, description = "Changes of the last day, newest first, and the durations of all of them", body = PropagationList),
        ManageProblems
    )
)]
pub(in crate::http) async fn propagations(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Read>,
    ask: Params,
) -> Result<Response, Problem> {
    let environment = ask.any_environment()?;
    if let Some(environment) = &environment {
        caller.check_environment(environment)?;
    }
    let limit = ask.limit(CHANGES_DEFAULT, CHANGES_MAX)?;
    let wanted =
        |change: &Change| environment.as_ref().is_none_or(|environment| *environment == change.environment);
    let may_see = |change: &Change| wanted(change) && may_see(&api, &caller, change);
    let (changes, statistics) = api.cluster.propagations(limit as usize, may_see);
    answer(StatusCode::OK, &json!({"changes": changes, "statistics": statistics}))
}

/// Shows how far one change has spread: seen at its source, written, in force on each instance, cached values invalidated.
#[utoipa::path(
    get,
    path = "/api/v1/changes/{version}/propagation",
    operation_id = "getPropagation",
    tag = "operations",
    params(("version" = u64, Path, description = "Version of the change")),
    responses(
        (status = 200, description = "The path of the change", body = PropagationBody),
        ManageProblems
    )
)]
pub(in crate::http) async fn propagation(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Read>,
    Path(version): Path<String>,
    _ask: Params,
) -> Result<Response, Problem> {
    let unknown =
        || Problem::new(StatusCode::NOT_FOUND, "there was no change with this version in the last day");
    let version = version.parse::<u64>().map_err(|_| {
        Problem::of_field(StatusCode::BAD_REQUEST, "version", "expected a whole number from 0")
    })?;
    let found = api.cluster.propagation(version).ok_or_else(unknown)?;
    let flags = api.store.load_full();
    let flags = flags.environment(&found.environment).map(|flags| &**flags);
    caller.check_environment(&found.environment)?;
    caller.restrictions().check_in_force(flags, &found.flag_name)?;
    answer(StatusCode::OK, &found)
}

fn may_see(api: &Api, caller: &Caller, change: &Change) -> bool {
    let snapshot = api.store.load();
    let flags = snapshot.environment(&change.environment).map(|flags| &**flags);
    caller.sees(&change.environment) && caller.restrictions().may_show(flags, &change.flag_name)
}
