//! `/{name}/revert` restores an earlier state of a local flag; `/cleanup` removes archived flags.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::Value;

use super::doc::{
    AcceptedFlag, CleanedBody, CleanupBody, CleanupQuery, EnvironmentQuery, ExpectedHeaders, FlagBody,
    FlagPath, ReasonHeader, RevertBody, WriteProblems,
};
use super::params::{self, FlagName};
use super::{answer, finish, problem};
use crate::http::Problem;
use crate::http::api::Api;
use crate::http::caller::{Authorized, scope};
use crate::http::input::Undecodable;
use crate::http::places::Pool;
use crate::manage::{AuthorizedActor, FlagRef, Target};

/// Default of `older_than_days`.
const OLDER_THAN_DAYS: u32 = 90;
/// Largest `older_than_days`.
const OLDER_THAN_DAYS_MAX: u64 = 36_500;

/// Restores a local flag to its state after an earlier change, or to an earlier version. A deleted flag is created
/// again.
#[utoipa::path(
    post,
    path = "/api/v1/feature-flags/{name}/revert",
    operation_id = "revertFlag",
    tag = "management",
    params(FlagPath, EnvironmentQuery, ExpectedHeaders),
    request_body = RevertBody,
    responses(
        (status = 200, description = "Restored to the earlier state, announced, and in force on this instance", body = FlagBody),
        AcceptedFlag,
        WriteProblems
    )
)]
pub(in crate::http) async fn revert(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Write>,
    name: FlagName,
    unread: Undecodable,
) -> Result<Response, Problem> {
    let input = unread.read_in(&api, &caller, Pool::Management).await?;
    let environment = params::allowed(&caller, input.parameter("environment"))?;
    let name = name.reachable(&api, &caller, &environment).await?;
    let (expected, reason) = (params::expected(input.header("if-match"))?, params::reason(&input)?);
    let target = target(&input.body)?;
    let asked = FlagRef { environment: &environment, name: &name, expected: &expected };
    let actor = caller.name();
    let by = AuthorizedActor { actor: &actor, reason: reason.as_deref(), within: caller.restrictions() };
    let done = api.manager.revert(asked, target, by).await.map_err(problem)?;
    finish(&api, &done, StatusCode::OK).await
}

/// Removes local flags that were archived long ago, and lists them. By default it only lists them.
#[utoipa::path(
    post,
    path = "/api/v1/feature-flags/cleanup",
    operation_id = "cleanUpFlags",
    tag = "management",
    params(CleanupQuery, ReasonHeader),
    request_body = CleanupBody,
    responses(
        (status = 200, description = "Flags that were removed, or would be removed", body = CleanedBody),
        WriteProblems
    )
)]
pub(in crate::http) async fn cleanup(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Delete>,
    unread: Undecodable,
) -> Result<Response, Problem> {
    let input = unread.read_in(&api, &caller, Pool::Management).await?;
    let environment =
        input.parameter("environment").map(|name| params::environment(Some(name))).transpose()?;
    let environments = params::allowed_among(&caller, environment.as_deref())?;
    let reason = params::reason(&input)?;
    let (mut older_than_days, mut dry_run) = (OLDER_THAN_DAYS, true);
    for (name, value) in params::members(&input.body)? {
        match (name.as_str(), value) {
            ("dry_run", Value::Bool(given)) => dry_run = given,
            ("older_than_days", Value::Number(days)) => {
                let days = days.as_u64().filter(|days| *days <= OLDER_THAN_DAYS_MAX);
                let days = days.and_then(|days| u32::try_from(days).ok());
                let message = format!("expected a whole number from 0 to {OLDER_THAN_DAYS_MAX}");
                older_than_days = days.ok_or_else(|| Problem::of_field(MEANINGLESS, &name, message))?;
            }
            ("dry_run", _) => {
                return Err(Problem::of_field(StatusCode::BAD_REQUEST, &name, "expected true or false"));
            }
            ("older_than_days", _) => {
                return Err(Problem::of_field(StatusCode::BAD_REQUEST, &name, "expected a number"));
            }
            _ => return Err(Problem::of_field(MEANINGLESS, &name, "unknown field")),
        }
    }
    let actor = caller.name();
    let reason = reason.unwrap_or_else(|| format!("archived for more than {older_than_days} days"));
    let by = AuthorizedActor { actor: &actor, reason: Some(&reason), within: caller.restrictions() };
    let cleaning = api.manager.cleanup(environments.as_deref(), older_than_days, dry_run, by);
    answer(StatusCode::OK, &cleaning.await.map_err(problem)?)
}

const MEANINGLESS: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;

fn target(body: &[u8]) -> Result<Target, Problem> {
    let members = params::members(body)?;
    params::refuse_unknown(&members, &["revision", "version"])?;
    let number = |name: &str| match members.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) if number.is_i64() => Ok(number.as_i64()),
        Some(_) => Err(Problem::of_field(StatusCode::BAD_REQUEST, name, "expected a whole number")),
    };
    match (number("revision")?, number("version")?) {
        (Some(revision), None) => Ok(Target::Revision(revision)),
        (None, Some(version)) => Ok(Target::Version(version)),
        (None, None) => {
            Err(Problem::of_field(MEANINGLESS, "revision", "`revision` or `version` is required"))
        }
        (Some(_), Some(_)) => Err(Problem::of_field(
            MEANINGLESS,
            "version",
            "expected either `revision` or `version`, got both",
        )),
    }
}
