//! `/preload`: writes the outcomes of flags for given contexts to Redis before they are requested.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::answer;
use super::doc::PreloadedBody;
use crate::auth::FlagFacts;
use crate::flag::{CompiledFlag, EnvironmentFlags};
use crate::http::Problem;
use crate::http::api::Api;
use crate::http::caller::{Authorized, Caller, scope};
use crate::http::input::{Undecodable, refused};
use crate::http::openapi::calls::EvaluationProblems;
use crate::http::openapi::schema::{BulkRequest, ProblemDetails};
use crate::http::places::Pool;
use crate::http::problem::FieldError;
use crate::message::request::{Asked, Query};
use crate::privacy::Shown;
use crate::redis_cache::Subject;

/// Maximum outcomes (flags times contexts) of one request.
const PRELOADED_MAX: usize = 10_000;

/// Writes the outcomes of flags for one or many contexts to Redis, as evaluations would. No events are written.
#[utoipa::path(
    post,
    path = "/api/v1/feature-flags/preload",
    operation_id = "preloadCache",
    tag = "management",
    request_body = BulkRequest,
    responses(
        (status = 200, description = "Written to Redis, except for skipped outcomes", body = PreloadedBody),
        (status = 404, description = "No Redis is configured", body = ProblemDetails, content_type = "application/problem+json"),
        EvaluationProblems
    )
)]
pub(in crate::http) async fn preload(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Write>,
    unread: Undecodable,
) -> Result<Response, Problem> {
    let input = unread.read_in(&api, &caller, Pool::Management).await?;
    let query = Query::many(&input.body).map_err(refused)?;
    let environment = query.environment.as_deref().unwrap_or(&api.config.unleash.default_environment);
    caller.check_environment(environment)?;
    let view = api.view.as_ref().ok_or_else(|| {
        Problem::new(StatusCode::NOT_FOUND, "there is no Redis cache to preload: REDIS_URL is not set")
    })?;
    let flags = flags(&api, &caller, environment, &query)?;
    let subjects = query.subjects.as_slice();
    let count = flags.len().saturating_mul(subjects.len());
    if count > PRELOADED_MAX {
        let message = format!("expected at most {PRELOADED_MAX} results (flags times contexts), got {count}");
        return Err(Problem::of_field(StatusCode::UNPROCESSABLE_ENTITY, "contexts", message));
    }
    // Private attributes are removed, as for evaluations.
    let shown: Vec<Shown<'_>> = subjects
        .iter()
        .map(|subject| match &api.privacy {
            None => Shown::of(&subject.context, &subject.context_json),
            Some(privacy) => privacy.show(&subject.context, &subject.context_json),
        })
        .collect();
    let subject = |flag, shown| -> Subject<'_> {
        let Shown { user_id, session_id, context, .. }: &Shown<'_> = shown;
        Subject { environment, flag, user: user_id.as_deref(), session: session_id.as_deref(), context }
    };
    let all: Vec<Subject<'_>> =
        shown.iter().flat_map(|shown| flags.iter().map(move |flag| subject(flag, shown))).collect();
    let complete = |index: usize, in_force: &EnvironmentFlags| {
        // The outcomes of a context follow each other, one for each flag.
        let (attributes, subject) = (api.attributes.as_deref()?, subjects.get(index / flags.len().max(1))?);
        let joiner = attributes.joiner(&subject.context, &subject.context_json);
        let joined = joiner.join(Some(in_force), all.get(index)?.flag)?;
        Some(joined.complete(&subject.context, api.privacy.as_deref()).written.into_owned())
    };
    let preloaded = view.preloader.preload(&all, complete).await.map_err(|trouble| {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("Redis did not accept the write ({}); retry later", trouble.reason()),
        )
        .retry_after(1)
    })?;
    answer(
        StatusCode::OK,
        &json!({
            "environment": environment,
            "flags": flags.len(),
            "contexts": shown.len(),
            "written": preloaded.written,
            "newer": preloaded.newer,
            "skipped": preloaded.skipped,
            "flags_version": preloaded.flags_version,
        }),
    )
}

/// Names of the requested flags, or of all. An error if one does not exist.
fn flags(api: &Api, caller: &Caller, environment: &str, query: &Query<'_>) -> Result<Vec<String>, Problem> {
    if !api.store.is_ready() {
        let detail = "the flags are not loaded yet";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1));
    }
    let snapshot = api.store.load();
    let served = snapshot.environment(environment);
    let unserved = || {
        Problem::of_field(StatusCode::UNPROCESSABLE_ENTITY, "environment", "this environment is not served")
    };
    let served = served.ok_or_else(unserved)?;
    let restrictions = caller.restrictions();
    let Asked::These(asks) = &query.asked else {
        let is_within = |flag: &&Arc<CompiledFlag>| restrictions.check(&FlagFacts::from(&***flag)).is_ok();
        let mut names: Vec<_> = served.iter().filter(is_within).map(|flag| flag.name.to_string()).collect();
        names.sort_unstable();
        return Ok(names);
    };
    let unknown = |flag: &str| FieldError::new("flag_names", format!("there is no flag {flag}"));
    let mut errors = Vec::new();
    let mut names = Vec::new();
    for ask in asks.as_slice() {
        restrictions.check_in_force(Some(served), &ask.flag)?;
        match served.get(&ask.flag) {
            Some(flag) => names.push(flag.name.to_string()),
            None => errors.push(unknown(&ask.flag)),
        }
    }
    if errors.is_empty() {
        Ok(names)
    } else {
        Err(Problem::of_fields(StatusCode::UNPROCESSABLE_ENTITY, errors))
    }
}
