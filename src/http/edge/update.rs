//! `POST /flags/{name}/update`: switches a local flag and sets its rollout percentage.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value};

use crate::http::Problem;
use crate::http::api::Api;
use crate::http::caller::{Authorized, scope};
use crate::http::evaluate::environment_of;
use crate::http::input::{Input, NoBody, json_answer};
use crate::http::manage::{self, FlagName, FlagPath};
use crate::http::openapi::calls::EdgeQuery;
use crate::http::openapi::edge::EdgeUpdated;
use crate::http::places::Pool;
use crate::manage::{AuthorizedActor, Expected, FlagRef, ManageError};

use super::body;

/// Changes a local flag. After a response with status 200, no older cached value is served.
#[utoipa::path(
    post,
    path = "/flags/{name}/update",
    operation_id = "edgeUpdateFlag",
    tag = "edge",
    params(
        FlagPath,
        ("enabled" = Option<bool>, Query, description = "Whether the flag is enabled"),
        ("rollout_percentage" = Option<f64>, Query, description = "Percentage of all users, 0 to 100"),
        EdgeQuery
    ),
    responses(
        (status = 200, description = "Changed, announced, and in force on this instance", body = EdgeUpdated),
        (status = 202, description = "Changed and announced, but not yet in force on this instance", body = EdgeUpdated),
        manage::WriteProblems
    )
)]
pub(in crate::http) async fn update(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Write>,
    name: FlagName,
    NoBody(input): NoBody,
) -> Result<Response, Problem> {
    let environment = environment_of(&api, &input, None).into_owned();
    caller.check_environment(&environment)?;
    let name = name.reachable(&api, &caller, &environment).await?;
    let _place = api.places.take(Pool::Management)?;
    let change = change(&input)?;
    let asked = FlagRef { environment: &environment, name: &name, expected: &Expected::Any };
    let actor = caller.name();
    let by = AuthorizedActor { actor: &actor, reason: None, within: caller.restrictions() };
    let done = api.manager.update(asked, change.to_string().as_bytes(), by).await;
    let done = done.map_err(|error| match error {
        ManageError::Unknown => Problem::new(
            StatusCode::NOT_FOUND,
            format!(
                "environment {environment} has no flag {name}: create it with POST /api/v1/feature-flags"
            ),
        ),
        error => manage::problem(error),
    })?;
    let body = {
        let snapshot = api.store.load();
        let flags = snapshot.environment(&environment);
        body::updated(flags.and_then(|flags| flags.get(&name)), &name, &environment)
    };
    let status = if done.in_force { StatusCode::OK } else { StatusCode::ACCEPTED };
    let mut answer = json_answer(body, api.store.version());
    *answer.status_mut() = status;
    Ok(answer)
}

/// Builds the body for the management API, which validates the percentage.
fn change(input: &Input) -> Result<Value, Problem> {
    let mut change = Map::new();
    match input.parameter("enabled").as_deref() {
        None => {}
        Some("true") => drop(change.insert("is_enabled".to_owned(), true.into())),
        Some("false") => drop(change.insert("is_enabled".to_owned(), false.into())),
        Some(_) => {
            return Err(Problem::of_field(StatusCode::BAD_REQUEST, "enabled", "expected true or false"));
        }
    }
    if let Some(percentage) = input.parameter("rollout_percentage") {
        change.insert("rollout_percentage".to_owned(), Value::String(percentage.into_owned()));
    }
    if change.is_empty() {
        let message = "`enabled` or `rollout_percentage` is required";
        return Err(Problem::of_field(StatusCode::UNPROCESSABLE_ENTITY, "enabled", message));
    }
    Ok(Value::Object(change))
}
