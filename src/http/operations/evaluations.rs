//! `GET /api/v1/evaluations`: search in the recorded evaluations.

use std::borrow::Cow;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::doc::{EvaluationList, SearchQuery};
use super::time;
use crate::config::Scope;
use crate::http::Problem;
use crate::http::api::Api;
use crate::http::caller::{Authorized, scope};
use crate::http::manage::doc::ManageProblems;
use crate::http::manage::params::{self, Params};
use crate::http::manage::{answer, problem};
use crate::manage::{EvaluationSelection, SearchFilter};
use crate::message::request::MAX_ID_BYTES;

const FOUND_DEFAULT: u32 = 100;
/// Maximum evaluations in one answer.
const FOUND_MAX: u32 = 1_000;

/// Searches the recorded evaluations of all flags, newest first.
///
/// A search by user, flag or request id uses an index. Any other one reads rows in the order of their time, and is ended
/// after five seconds. An answer ends after 16 MiB. Users, sessions, request ids and contexts are shown with the scope
/// `audit`, which a search by user or request id needs too.
#[utoipa::path(
    get,
    path = "/api/v1/evaluations",
    operation_id = "searchEvaluations",
    tag = "operations",
    params(SearchQuery),
    responses(
        (status = 200, description = "A page of evaluations", body = EvaluationList),
        ManageProblems
    )
)]
pub(in crate::http) async fn search(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Read>,
    ask: Params,
) -> Result<Response, Problem> {
    let filter = filter(&caller, &ask)?;
    let found = api.manager.search(&filter, caller.restrictions()).await.map_err(problem)?;
    answer(StatusCode::OK, &found)
}

fn filter(caller: &Authorized<scope::Read>, ask: &Params) -> Result<SearchFilter, Problem> {
    let after = ask.parameter("after").map(|text| text.parse()).transpose();
    let after = after.map_err(|_| {
        Problem::of_field(StatusCode::BAD_REQUEST, "after", "expected `next` of the previous page")
    })?;
    let selection = selection(caller, ask)?;
    let (from, to) = (time(ask, "from")?, time(ask, "to")?);
    if let (Some(from), Some(to)) = (from, to)
        && from >= to
    {
        let message = "expected a time before `to`";
        return Err(Problem::of_field(StatusCode::UNPROCESSABLE_ENTITY, "from", message));
    }
    Ok(SearchFilter {
        selection,
        from,
        to,
        limit: ask.limit(FOUND_DEFAULT, FOUND_MAX)?,
        after,
        with_users: caller.may_audit(),
    })
}

/// Reads the selection, and checks that the caller may select by it.
pub(super) fn selection(
    caller: &Authorized<scope::Read>,
    ask: &Params,
) -> Result<EvaluationSelection, Problem> {
    let text = |name: &str| match ask.parameter(name).map(Cow::into_owned) {
        // Postgres cannot store a NUL character, so nothing has such a value.
        Some(text) if text.len() > MAX_ID_BYTES || text.contains('\0') => {
            let message = format!("expected at most {MAX_ID_BYTES} bytes without NUL");
            Err(Problem::of_field(StatusCode::UNPROCESSABLE_ENTITY, name, message))
        }
        text => Ok(text),
    };
    let (user_id, request_id) = (text("user_id")?, text("request_id")?);
    if user_id.is_some() || request_id.is_some() {
        // Otherwise a caller could find out whether a user is known.
        caller.may(Scope::Audit)?;
    }
    let environment = ask.any_environment()?;
    let environments = params::allowed_among(caller, environment.as_deref())?;
    let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
    Ok(EvaluationSelection {
        user_id,
        request_id,
        flag_name: text("flag_name")?,
        environments: environments.map(owned),
        reason: text("reason")?,
        variant: text("variant")?,
    })
}
