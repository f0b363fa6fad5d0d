//! `GET /api/v1/activity`: who changed what, when and why.

use std::borrow::Cow;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::doc::{ActivityList, ActivityQuery};
use super::time;
use crate::config::Scope;
use crate::http::Problem;
use crate::http::api::Api;
use crate::http::caller::{Authorized, scope};
use crate::http::manage::doc::ManageProblems;
use crate::http::manage::params::{self, Params};
use crate::http::manage::{answer, problem};
use crate::manage::ActivityFilter;

const CHANGES_DEFAULT: u32 = 100;
/// Maximum changes in one answer.
const CHANGES_MAX: u32 = 500;
const KINDS: [&str; 9] =
    ["flag", "kill_switch", "source", "token", "experiment", "erasure", "retention", "dead_letter", "replay"];

/// Lists the latest changes of flags, kill switches, tokens, experiments and of the audit trail, newest first.
///
/// Changes of tokens and erasures are shown with the scope `admin`.
#[utoipa::path(
    get,
    path = "/api/v1/activity",
    operation_id = "listActivity",
    tag = "operations",
    params(ActivityQuery),
    responses((status = 200, description = "Who changed what, when and why", body = ActivityList), ManageProblems)
)]
pub(in crate::http) async fn activity(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Read>,
    ask: Params,
) -> Result<Response, Problem> {
    let environment = ask.any_environment()?;
    let environments = params::allowed_among(&caller, environment.as_deref())?;
    let kind = ask.parameter("kind").map(Cow::into_owned);
    if kind.as_ref().is_some_and(|kind| !KINDS.contains(&kind.as_str())) {
        let message = format!("expected one of {}", KINDS.join(", "));
        return Err(Problem::of_field(StatusCode::UNPROCESSABLE_ENTITY, "kind", message));
    }
    let actor = ask.parameter("actor").map(Cow::into_owned);
    if actor.as_ref().is_some_and(|actor| actor.contains('\0')) {
        return Err(Problem::of_field(
            StatusCode::UNPROCESSABLE_ENTITY,
            "actor",
            "expected a text without NUL",
        ));
    }
    let filter = ActivityFilter {
        actor,
        kind,
        from: time(&ask, "from")?,
        to: time(&ask, "to")?,
        limit: ask.limit(CHANGES_DEFAULT, CHANGES_MAX)?,
        environments: environments.map(|names| names.into_iter().map(str::to_owned).collect()),
        with_administration: caller.may(Scope::Admin).is_ok(),
    };
    let changes = api.manager.activity(&filter, caller.restrictions()).await.map_err(problem)?;
    answer(StatusCode::OK, &json!({"changes": changes}))
}
