//! `/{name}/preview`: the effect of a proposed definition.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::Value;

use super::doc::{EnvironmentQuery, FlagPath, ManageProblems, PreviewAsk, PreviewBody};
use super::params::{self, FlagName};
use super::{answer, problem};
use crate::http::Problem;
use crate::http::api::Api;
use crate::http::caller::{Authorized, scope};
use crate::http::input::Undecodable;
use crate::http::openapi::schema::ProblemDetails;
use crate::http::places::Pool;
use crate::manage::Proposed;

const LAST_DEFAULT: u32 = 10_000;
/// Maximum number of evaluations in a preview.
const LAST_MAX: u32 = 100_000;
const MEANINGLESS: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;

/// Evaluates the latest recorded evaluations of a flag again with a proposed definition.
///
/// Reports how many evaluations, requests and users would get a different result, by variant and reason, with examples.
/// Changes nothing. The users of the examples are shown with the scope `audit`.
#[utoipa::path(
    post,
    path = "/api/v1/feature-flags/{name}/preview",
    operation_id = "previewFlag",
    tag = "management",
    params(FlagPath, EnvironmentQuery),
    request_body = PreviewAsk,
    responses(
        (status = 200, description = "Results that the definition would change", body = PreviewBody),
        (status = 413, description = "Too large", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 415, description = "Not application/json", body = ProblemDetails, content_type = "application/problem+json"),
        ManageProblems
    )
)]
pub(in crate::http) async fn preview(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Read>,
    name: FlagName,
    unread: Undecodable,
) -> Result<Response, Problem> {
    let input = unread.read_in(&api, &caller, Pool::Management).await?;
    let environment = params::allowed(&caller, input.parameter("environment"))?;
    let name = name.reachable(&api, &caller, &environment).await?;
    let (mut definition, mut flag, mut last) = (None, None, LAST_DEFAULT);
    for (member, value) in params::members(&input.body)? {
        let wrong = |message: String| Err(Problem::of_field(StatusCode::BAD_REQUEST, &member, message));
        match (member.as_str(), &value) {
            (_, Value::Null) => {}
            ("definition", Value::Object(_)) => definition = Some(value.to_string()),
            ("flag", Value::Object(_)) => flag = Some(value.to_string()),
            ("definition" | "flag", _) => return wrong("expected an object".to_owned()),
            ("last", Value::Number(given)) => {
                let given = given.as_u64().and_then(|given| u32::try_from(given).ok());
                let given = given.filter(|given| (1..=LAST_MAX).contains(given));
                let message = format!("expected a whole number from 1 to {LAST_MAX}");
                last = given.ok_or_else(|| Problem::of_field(MEANINGLESS, "last", message))?;
            }
            ("last", _) => return wrong("expected a number".to_owned()),
            _ => return Err(Problem::of_field(MEANINGLESS, &member, "unknown field")),
        }
    }
    let proposed = match (&definition, &flag) {
        (Some(definition), None) => Proposed::Unleash(definition),
        (None, Some(flag)) => Proposed::Local(flag),
        _ => {
            return Err(Problem::of_field(
                MEANINGLESS,
                "definition",
                "expected either `definition` or `flag`",
            ));
        }
    };
    let mut preview = api.manager.preview(&environment, &name, proposed, last).await.map_err(problem)?;
    if !caller.may_audit() {
        preview.report.hide_users();
    }
    answer(StatusCode::OK, &preview)
}
