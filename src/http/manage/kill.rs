//! `/api/v1/feature-flags/{name}/kill` and `/restore`: turn any flag off for every user, and on again.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde_json::Value;

use super::doc::{EnvironmentQuery, FlagPath, ReasonHeader};
use super::params::{self, FlagName, MAX_REASON_BYTES};
use super::{answer, problem};
use crate::http::Problem;
use crate::http::api::Api;
use crate::http::caller::{Authorized, scope};
use crate::http::input::{Input, Undecodable};
use crate::http::openapi::calls::EvaluationProblems;
use crate::http::openapi::schema::ProblemDetails;
use crate::http::places::Pool;
use crate::kill::Turn;

use super::doc::{KillBody, RestoreBody, TurnedBody};

/// Whether a kill switch is set or cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Kill,
    Restore,
}

impl Direction {
    fn done(self) -> &'static str {
        match self {
            Self::Kill => "killed",
            Self::Restore => "restored",
        }
    }
}

/// Parsed request.
#[derive(Debug)]
struct TurnRequest {
    reason: String,
    expires_at: Option<DateTime<Utc>>,
}

/// Kills a flag, wherever it is managed: it is off for every user until it is restored or until `expires_at`.
///
/// If the flag is already killed, its reason and expiry are replaced. Needs neither Unleash nor the database.
#[utoipa::path(
    post,
    path = "/api/v1/feature-flags/{name}/kill",
    operation_id = "killFlag",
    tag = "management",
    params(FlagPath, EnvironmentQuery, ReasonHeader),
    request_body = KillBody,
    responses(
        (status = 200, description = "Killed, announced, and off on this instance", body = TurnedBody),
        (status = 202, description = "Killed and announced, but not yet off on this instance", body = TurnedBody),
        (status = 404, description = "There is no flag of this name", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 409, description = "Too many flags are killed, or have a switch that was lifted recently", body = ProblemDetails, content_type = "application/problem+json"),
        EvaluationProblems
    )
)]
pub(in crate::http) async fn kill(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Write>,
    name: FlagName,
    unread: Undecodable,
) -> Result<Response, Problem> {
    turn(&api, &caller, name, unread, Direction::Kill).await
}

/// Restores a killed flag: its definition is in force again.
#[utoipa::path(
    post,
    path = "/api/v1/feature-flags/{name}/restore",
    operation_id = "restoreFlag",
    tag = "management",
    params(FlagPath, EnvironmentQuery, ReasonHeader),
    request_body = RestoreBody,
    responses(
        (status = 200, description = "Restored, announced, and in force on this instance", body = TurnedBody),
        (status = 202, description = "Restored and announced, but not yet in force on this instance", body = TurnedBody),
        (status = 404, description = "There is no flag of this name", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 409, description = "The flag is not killed", body = ProblemDetails, content_type = "application/problem+json"),
        EvaluationProblems
    )
)]
pub(in crate::http) async fn restore(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Write>,
    name: FlagName,
    unread: Undecodable,
) -> Result<Response, Problem> {
    turn(&api, &caller, name, unread, Direction::Restore).await
}

async fn turn(
    api: &Api,
    caller: &Authorized<scope::Write>,
    flag: FlagName,
    unread: Undecodable,
    way: Direction,
) -> Result<Response, Problem> {
    let input = &unread.read_in(api, caller, Pool::Switch).await?;
    let environment = params::allowed(caller, input.parameter("environment"))?;
    let flag = &flag.reachable(api, caller, &environment).await?;
    let TurnRequest { reason, expires_at } = order(input, way == Direction::Kill)?;
    let actor = caller.name();
    let turn = Turn { environment: &environment, flag, actor: &actor, reason: &reason };
    let turned = match way {
        Direction::Kill => api.manager.kill(turn, expires_at).await,
        Direction::Restore => api.manager.restore(turn).await,
    };
    let turned = turned.map_err(problem)?;
    // Not limited: each change of a kill switch is recorded.
    tracing::warn!(environment, flag, actor, reason, "a flag was {}", way.done());
    answer(if turned.in_force { StatusCode::OK } else { StatusCode::ACCEPTED }, &turned)
}

/// Parses the request. The reason in the header takes precedence over the one in the body.
fn order(input: &Input, may_expire: bool) -> Result<TurnRequest, Problem> {
    let header = params::reason(input)?;
    let members = params::members(&input.body)?;
    params::refuse_unknown(&members, if may_expire { &["reason", "expires_at"] } else { &["reason"] })?;
    let text = |name: &str| match members.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(Problem::of_field(StatusCode::BAD_REQUEST, name, "expected a string")),
    };
    let in_body = text("reason")?.map(str::trim).filter(|reason| !reason.is_empty());
    if in_body.is_some_and(|reason| reason.len() > MAX_REASON_BYTES) {
        let message = format!("expected at most {MAX_REASON_BYTES} bytes");
        return Err(Problem::of_field(StatusCode::UNPROCESSABLE_ENTITY, "reason", message));
    }
    let reason = header.or_else(|| in_body.map(str::to_owned));
    let required = "is required, in the body or in the header X-Change-Reason";
    let reason =
        reason.ok_or_else(|| Problem::of_field(StatusCode::UNPROCESSABLE_ENTITY, "reason", required))?;
    let expires_at = text("expires_at")?.map(moment).transpose()?;
    Ok(TurnRequest { reason, expires_at })
}

fn moment(text: &str) -> Result<DateTime<Utc>, Problem> {
    let moment = params::moment("expires_at", text)?;
    // An expiry in the past would clear the switch at once, which cannot be intended.
    if moment <= Utc::now() {
        return Err(Problem::of_field(
            StatusCode::UNPROCESSABLE_ENTITY,
            "expires_at",
            "expected a time in the future",
        ));
    }
    Ok(moment)
}
