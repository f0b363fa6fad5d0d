//! `POST /api/v1/erasures`: removes or anonymises the data stored about a user.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::doc::{ErasureBody, ErasureRequestBody};
use super::{must_see_everything, required_reason};
use crate::audit::erase::{Erasure, ErasureReport};
use crate::database::audited::Actor;
use crate::http::Problem;
use crate::http::api::Api;
use crate::http::caller::{Authorized, scope};
use crate::http::input::Undecodable;
use crate::http::manage::doc::{ReasonHeader, WriteProblems};
use crate::http::manage::params;
use crate::http::manage::{answer, problem, reason};
use crate::http::places::Pool;
use crate::log_limit::limited;
use crate::manage::{ErasureError, kept, written_as};
use crate::message::request::MAX_ID_BYTES;

/// Evaluations of a user that a dry run counts at most.
const COUNTED_ROWS: u32 = 100_000;

/// Removes or anonymises everything that is stored about a user. Cannot be undone.
///
/// `dry_run` counts the user's evaluations and changes nothing. Otherwise a reason in the header `X-Change-Reason` is
/// required; it must not name the user. The answer lists places that may still contain data about the user.
#[utoipa::path(
    post,
    path = "/api/v1/erasures",
    operation_id = "eraseUser",
    tag = "operations",
    params(ReasonHeader),
    request_body = ErasureRequestBody,
    responses((status = 200, description = "Erased, or counted", body = ErasureBody), WriteProblems)
)]
pub(in crate::http) async fn erase(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Admin>,
    unread: Undecodable,
) -> Result<Response, Problem> {
    let input = unread.read_in(&api, &caller, Pool::Management).await?;
    must_see_everything(&caller, "the data of a user")?;
    let (user, anonymise, dry_run) = order(&input.body)?;
    if dry_run {
        let users = written_as(&api.config, &user);
        let rows = api.manager.count_evaluations(&users, COUNTED_ROWS).await.map_err(problem)?;
        let kept = kept(&api.config, &ErasureReport::default());
        let body = json!({"dry_run": true, "erasure_id": null, "rows": rows, "changes": 0, "versions": 0,
            "flags_in_force": [], "keys": 0, "attributes": 0, "kept": kept});
        return answer(StatusCode::OK, &body);
    }
    let reason = required_reason(reason(&input)?)?;
    let how = if anonymise { Erasure::Anonymise } else { Erasure::Remove };
    let (task_api, actor) = (Arc::clone(&api), caller.name());
    // In a task of its own, because it can take longer than a caller waits.
    let erasing = tokio::spawn(async move {
        let author = Actor { actor: &actor, reason: Some(&reason) };
        task_api.manager.erase_user(&user, how, author).await
    });
    let erased = erasing.await.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error))?;
    let erased = erased.map_err(|error| match error {
        ErasureError::Database(error) => problem(error.into()),
        ErasureError::Attributes(error) => {
            limited!(warn, %error, "the attributes of a user could not be removed");
            let detail = "nothing was erased, because Kafka is unreachable; repeat the request";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(5)
        }
        ErasureError::Redis(error) => {
            limited!(warn, %error, "a user could not be erased from Redis");
            let detail =
                "the user was erased from the database, but Redis is unreachable; repeat the request";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(5)
        }
    })?;
    let mut body = serde_json::to_value(&erased).unwrap_or_default();
    if let Some(members) = body.as_object_mut() {
        members.insert("dry_run".to_owned(), false.into());
    }
    answer(StatusCode::OK, &body)
}

fn order(body: &[u8]) -> Result<(String, bool, bool), Problem> {
    let members = params::members(body)?;
    let wrong = |name: &str, expected: &str| Problem::of_field(StatusCode::BAD_REQUEST, name, expected);
    params::refuse_unknown(&members, &["user_id", "anonymise", "dry_run"])?;
    let switch = |name: &str| params::member_switch(&members, name);
    match members.get("user_id") {
        Some(Value::String(user)) if (1..=MAX_ID_BYTES).contains(&user.len()) => {
            Ok((user.clone(), switch("anonymise")?, switch("dry_run")?))
        }
        Some(Value::String(_)) => {
            let message = format!("expected 1 to {MAX_ID_BYTES} bytes");
            Err(Problem::of_field(StatusCode::UNPROCESSABLE_ENTITY, "user_id", message))
        }
        _ => Err(wrong("user_id", "expected a string")),
    }
}
