//! `POST /api/v1/feature-flags/{name}/explain`: why a flag is on or off for a context.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value};

use super::doc::{ExplainBody, ExplainedBody};
use crate::http::Problem;
use crate::http::api::Api;
use crate::http::caller::{Authorized, scope};
use crate::http::input::Undecodable;
use crate::http::manage::doc::{EnvironmentQuery, FlagPath, ManageProblems};
use crate::http::manage::params::{self, FlagName};
use crate::http::manage::{answer, problem};
use crate::http::openapi::schema::ProblemDetails;
use crate::http::places::Pool;
use crate::manage::ExplainRequest;

/// Explains why a flag is on or off for a context, with the flag in force or with a recorded version.
///
/// Names the strategy that decided, and the constraint of each other strategy that failed. Writes nothing.
#[utoipa::path(
    post,
    path = "/api/v1/feature-flags/{name}/explain",
    operation_id = "explainFlag",
    tag = "operations",
    params(FlagPath, EnvironmentQuery),
    request_body = ExplainBody,
    responses(
        (status = 200, description = "The explanation, and the definition that it is about", body = ExplainedBody),
        (status = 413, description = "Too large", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 415, description = "Not application/json", body = ProblemDetails, content_type = "application/problem+json"),
        ManageProblems
    )
)]
pub(in crate::http) async fn explain(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Read>,
    name: FlagName,
    unread: Undecodable,
) -> Result<Response, Problem> {
    let input = unread.read_in(&api, &caller, Pool::Management).await?;
    let environment = params::allowed(&caller, input.parameter("environment"))?;
    let flag_name = name.reachable(&api, &caller, &environment).await?;
    let request = request(environment, flag_name, &params::members(&input.body)?)?;
    answer(StatusCode::OK, &api.manager.explain(api.completed(request)).await.map_err(problem)?)
}

fn request(
    environment: String,
    flag_name: String,
    members: &Map<String, Value>,
) -> Result<ExplainRequest, Problem> {
    let known = ["user_id", "session_id", "context", "flag_version", "flags_version", "evaluated_at"];
    params::refuse_unknown(members, &known)?;
    let wrong = |name: &str, expected: &str| Problem::of_field(StatusCode::BAD_REQUEST, name, expected);
    let text = |name: &str| match members.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        Some(_) => Err(wrong(name, "expected a string")),
    };
    let version = |name: &str| match members.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or_else(|| wrong(name, "expected a whole number from 0")),
    };
    let context = match members.get("context") {
        None | Some(Value::Null) => "{}".to_owned(),
        Some(context @ Value::Object(_)) => context.to_string(),
        Some(_) => return Err(wrong("context", "expected an object")),
    };
    let (flag_version, flags_version) = (version("flag_version")?, version("flags_version")?);
    let evaluated_at = text("evaluated_at")?.map(|text| params::moment("evaluated_at", &text)).transpose()?;
    Ok(ExplainRequest {
        user_id: text("user_id")?,
        session_id: text("session_id")?,
        context,
        versions: flag_version.map(|version| (version, flags_version.unwrap_or(version))),
        evaluated_at,
        environment,
        flag_name,
    })
}
