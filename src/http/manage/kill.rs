//! `/api/v1/feature-flags/{name}/kill` and `/restore`: any flag off for everybody, and back again.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::ask::{self, FlagName, MAX_REASON_BYTES};
use super::doc::{EnvironmentQuery, FlagPath, ReasonHeader};
use super::{answer, problem};
use crate::config::Scope;
use crate::http::Problem;
use crate::http::api::Api;
use crate::http::caller::Caller;
use crate::http::input::Input;
use crate::http::openapi::calls::EvaluationProblems;
use crate::http::openapi::schema::ProblemDetails;
use crate::http::problem::FieldError;
use crate::kill::Turn;
use crate::manage::Turned;

use super::doc::{KillBody, RestoreBody, TurnedBody};

/// What a call asks for.
#[derive(Debug)]
struct Order {
    reason: String,
    expires_at: Option<DateTime<Utc>>,
}

/// Kills a flag, wherever it is managed: off for everybody, until it is restored or until `expires_at`.
///
/// Of a flag that is killed already, it changes why and until when. Needs neither Unleash nor the database.
#[utoipa::path(
    post,
    path = "/api/v1/feature-flags/{name}/kill",
    tag = "management",
    params(FlagPath, EnvironmentQuery, ReasonHeader),
    request_body = KillBody,
    responses(
        (status = 200, description = "Killed, announced, and off here", body = TurnedBody),
        (status = 202, description = "Killed, and not known yet to be off here: it will be", body = TurnedBody),
        (status = 404, description = "There is no such flag", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 409, description = "The flag is not killed, or too many are", body = ProblemDetails, content_type = "application/problem+json"),
        EvaluationProblems
    )
)]
pub(in crate::http) async fn kill(
    State(api): State<Arc<Api>>,
    caller: Caller,
    FlagName(name): FlagName,
    input: Input,
) -> Result<Response, Problem> {
    caller.may(Scope::Write)?;
    let environment = ask::environment(input.parameter("environment"))?;
    caller.may_in(Scope::Write, &environment)?;
    let order = order(&input, true)?;
    let actor = caller.name();
    let turn = Turn { environment: &environment, flag: &name, actor: &actor, reason: &order.reason };
    let turned = api.manager.kill(turn, order.expires_at).await.map_err(problem)?;
    tracing::warn!(environment, flag = name, actor = &*actor, reason = order.reason, "a flag was killed");
    show(&turned)
}

/// Brings a killed flag back: what its definition says is in force again.
#[utoipa::path(
    post,
    path = "/api/v1/feature-flags/{name}/restore",
    tag = "management",
    params(FlagPath, EnvironmentQuery, ReasonHeader),
    request_body = RestoreBody,
    responses(
        (status = 200, description = "Restored, announced, and in force here", body = TurnedBody),
        (status = 202, description = "Restored, and not known yet to be in force here: it will be", body = TurnedBody),
        (status = 404, description = "There is no such flag", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 409, description = "The flag is not killed, or too many are", body = ProblemDetails, content_type = "application/problem+json"),
        EvaluationProblems
    )
)]
pub(in crate::http) async fn restore(
    State(api): State<Arc<Api>>,
    caller: Caller,
    FlagName(name): FlagName,
    input: Input,
) -> Result<Response, Problem> {
    caller.may(Scope::Write)?;
    let environment = ask::environment(input.parameter("environment"))?;
    caller.may_in(Scope::Write, &environment)?;
    let order = order(&input, false)?;
    let actor = caller.name();
    let turn = Turn { environment: &environment, flag: &name, actor: &actor, reason: &order.reason };
    let turned = api.manager.restore(turn).await.map_err(problem)?;
    tracing::warn!(environment, flag = name, actor = &*actor, reason = order.reason, "a flag was restored");
    show(&turned)
}

fn show(turned: &Turned) -> Result<Response, Problem> {
    answer(if turned.in_force { StatusCode::OK } else { StatusCode::ACCEPTED }, turned)
}

/// The header's reason goes before the body's.
fn order(input: &Input, may_expire: bool) -> Result<Order, Problem> {
    let header = ask::reason(input)?;
    let members = members(&input.body)?;
    let known = |name: &str| name == "reason" || (may_expire && name == "expires_at");
    if let Some(unknown) = members.keys().find(|name| !known(name)) {
        return Err(refuse(StatusCode::UNPROCESSABLE_ENTITY, unknown, "is not known here"));
    }
    let text = |name: &str| match members.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(refuse(StatusCode::BAD_REQUEST, name, "expected a text")),
    };
    let in_body = text("reason")?.map(str::trim).filter(|reason| !reason.is_empty());
    if in_body.is_some_and(|reason| reason.len() > MAX_REASON_BYTES) {
        let message = format!("expected at most {MAX_REASON_BYTES} bytes");
        return Err(refuse(StatusCode::UNPROCESSABLE_ENTITY, "reason", message));
    }
    let reason = header.or_else(|| in_body.map(str::to_owned));
    let required = "is required, here or in X-Change-Reason";
    let reason = reason.ok_or_else(|| refuse(StatusCode::UNPROCESSABLE_ENTITY, "reason", required))?;
    let expires_at = text("expires_at")?.map(moment).transpose()?;
    Ok(Order { reason, expires_at })
}

pub(super) fn members(body: &[u8]) -> Result<Map<String, Value>, Problem> {
    if body.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(refuse(StatusCode::BAD_REQUEST, "body", "expected an object")),
        Err(error) => Err(refuse(StatusCode::BAD_REQUEST, "body", format!("not JSON: {error}"))),
    }
}

fn moment(text: &str) -> Result<DateTime<Utc>, Problem> {
    let status = StatusCode::UNPROCESSABLE_ENTITY;
    let moment = DateTime::parse_from_rfc3339(text).map_err(|_| {
        refuse(status, "expires_at", "expected a time of RFC 3339, such as 2026-01-15T10:30:00Z")
    })?;
    // A switch that expires at once would be an accident.
    if moment <= Utc::now() {
        return Err(refuse(status, "expires_at", "expected a time to come"));
    }
    Ok(moment.to_utc())
}

pub(super) fn refuse(status: StatusCode, field: &str, message: impl Into<String>) -> Problem {
    Problem::of_fields(status, vec![FieldError::new(field, message)])
}
