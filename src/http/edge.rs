//! The edge API: whether a flag is on for a user, its state, and the list of flags, cached in Redis for a short time.
//!
//! An answer from Redis counts as an evaluation and is written as an event. Without Redis, or while Redis is
//! unreachable or slow, everything is answered from memory.

mod body;
mod cache;
mod update;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{delete, get, post};

use crate::message::request::{Ask, Subject};
use crate::outbox::EventBatch;
use crate::redis_cache::CachedOutcome;
use crate::redis_cache::edge::{EdgeRequest, Found, Layer};

use super::Problem;
use super::api::Api;
use super::cached::Kept;
use super::call::Call;
use super::caller::{Authorized, Caller, scope};
use super::counts::Path;
use super::evaluate::environment_of;
use super::input::{Input, NoBody, evaluation_place, json_answer};
use super::manage::{FlagName, FlagPath};
use super::openapi::calls::{EdgeProblems, EdgeQuery, EvaluationHeaders};
use super::openapi::edge::{EdgeCheck, EdgeFlag, EdgeList};

use body::EdgeAnswer;

pub(super) use cache::{__path_clear, __path_stats};
pub(super) use update::__path_update;

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/flags", get(list))
        .route("/flags/{name}", get(flag))
        .route("/flags/{name}/check", get(check))
        .route("/flags/{name}/update", post(update::update))
        .route("/flags/{name}/cache", delete(cache::clear))
        .route("/cache/stats", get(cache::stats))
}

/// Evaluates whether a flag is on for a user.
#[utoipa::path(
    get,
    path = "/flags/{name}/check",
    operation_id = "edgeCheckFlag",
    tag = "edge",
    params(
        FlagPath,
        ("user_id" = Option<String>, Query, description = "The targeting key"),
        EdgeQuery,
        EvaluationHeaders
    ),
    responses((status = 200, description = "Evaluated", body = EdgeCheck), EdgeProblems)
)]
pub(super) async fn check(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Evaluate>,
    name: FlagName,
    NoBody(input): NoBody,
) -> Result<Response, Problem> {
    let environment = environment_of(&api, &input, None);
    caller.check_environment(&environment)?;
    let name = name.evaluable(&api, &caller, &environment)?;
    api.authenticator.answers(&caller, 1)?;
    evaluate(&api, &caller, Layer::Check, &environment, name, &input).await
}

/// Returns the state of a flag, and evaluates whether it is on for a user.
#[utoipa::path(
    get,
    path = "/flags/{name}",
    operation_id = "edgeGetFlag",
    tag = "edge",
    params(
        FlagPath,
        ("user_id" = Option<String>, Query, description = "The targeting key"),
        EdgeQuery,
        EvaluationHeaders
    ),
    responses((status = 200, description = "Evaluated", body = EdgeFlag), EdgeProblems)
)]
pub(super) async fn flag(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Read>,
    name: FlagName,
    NoBody(input): NoBody,
) -> Result<Response, Problem> {
    let environment = environment_of(&api, &input, None);
    caller.check_environment(&environment)?;
    let name = name.evaluable(&api, &caller, &environment)?;
    api.authenticator.answers(&caller, 1)?;
    evaluate(&api, &caller, Layer::Endpoint, &environment, name, &input).await
}

/// Lists all flags of the environment.
#[utoipa::path(
    get,
    path = "/flags",
    operation_id = "edgeListFlags",
    tag = "edge",
    params(EdgeQuery, EvaluationHeaders),
    responses((status = 200, description = "By name", body = EdgeList), EdgeProblems)
)]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Read>,
    NoBody(input): NoBody,
) -> Result<Response, Problem> {
    let environment = environment_of(&api, &input, None).into_owned();
    caller.check_environment(&environment)?;
    let min_version = input.min_version()?;
    let _place = evaluation_place(&api, min_version).await?;
    let asked = EdgeRequest { layer: Layer::List, environment, flag: String::new(), user: None };
    // The cached list contains all flags, so it is neither served to a restricted caller nor written for one.
    let within = caller.restrictions();
    let found = if within.is_empty() { look(&api, &asked, min_version).await } else { Found::default() };
    if let Some((body, version)) = found.value.as_deref().and_then(|kept| body::kept_list(kept, &asked)) {
        return Ok(json_answer(body, version));
    }
    if !api.store.is_ready() {
        let detail = "the flags are not loaded yet";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1));
    }
    let (body, version) = {
        let snapshot = api.store.load();
        (body::list(&snapshot, &asked, within), snapshot.version())
    };
    if within.is_empty() {
        keep(&api, asked, false).await;
    }
    Ok(json_answer(body, version))
}

async fn evaluate(
    api: &Arc<Api>,
    caller: &Caller,
    layer: Layer,
    environment: &str,
    flag: String,
    input: &Input,
) -> Result<Response, Problem> {
    let min_version = input.min_version()?;
    let _place = evaluation_place(api, min_version).await?;
    let environment = environment.to_owned();
    let user = input.parameter("user_id").map(String::from);
    let asked = EdgeRequest { layer, environment, flag, user };
    let found = look_within(api, caller, &asked, min_version).await;
    let (said, event_batch) = answer(api, caller, &asked, &found);
    let published = api.publisher.publish(event_batch.traced(input.trace())).await;
    published.map_err(|error| Problem::new(StatusCode::SERVICE_UNAVAILABLE, error).retry_after(1))?;
    if said.is_unknown {
        let detail = format!("environment {} has no flag {}", asked.environment, asked.flag);
        return Err(Problem::new(StatusCode::NOT_FOUND, detail));
    }
    if !said.is_hit && said.is_known {
        keep(api, asked, found.flag_data.is_none()).await;
    }
    Ok(json_answer(said.body, said.flags_version))
}

/// Answers from the cached value or by evaluation. Both are written as an event.
fn answer(api: &Arc<Api>, caller: &Caller, asked: &EdgeRequest, found: &Found) -> (EdgeAnswer, EventBatch) {
    let kept = [found.value.as_deref().and_then(CachedOutcome::read).map(Kept::of_caller)];
    let mut subject = Subject { context_json: "{}".into(), ..Subject::default() };
    subject.context.user_id = asked.user.as_deref().map(Into::into);
    let ask = Ask::new(asked.flag.as_str().into(), None, None);
    let snapshot = api.store.load();
    let call = Call::begin(api, caller, &snapshot, Path::Edge, &asked.environment).with_kept(&kept);
    api.counts.count(Path::Edge, |tally| {
        let mut event_sink = call.event_sink(tally);
        let answered = call.answer(&call.call_subject(&subject), &ask, &mut event_sink);
        (body::evaluated(&call, asked, &answered, found), event_sink.finish())
    })
}

/// Reads the cache for a caller that may be restricted. If the restrictions depend on the flag's definition, a flag that
/// is not in force is treated as not cached.
async fn look_within(api: &Api, caller: &Caller, asked: &EdgeRequest, min_version: Option<u64>) -> Found {
    let is_in_force = || {
        let snapshot = api.store.load();
        snapshot.environment(&asked.environment).is_some_and(|flags| flags.get(&asked.flag).is_some())
    };
    if caller.restrictions().need_definition() && !is_in_force() {
        return Found::default();
    }
    look(api, asked, min_version).await
}

/// Reads the cache: Redis, or this process's memory in `flagstream dev` without Redis.
async fn look(api: &Api, asked: &EdgeRequest, min_version: Option<u64>) -> Found {
    let min_version = min_version.unwrap_or_default();
    match (&api.view, &api.edge_memory) {
        (Some(view), _) => view.edge.read(asked, min_version).await,
        (None, Some(memory)) => memory.read(asked, min_version),
        (None, None) => Found::default(),
    }
}

async fn keep(api: &Api, asked: EdgeRequest, with_data: bool) {
    if let Some(view) = &api.view {
        view.edge.keep(asked, with_data).await;
    } else if let Some(memory) = &api.edge_memory {
        memory.keep(&asked, with_data);
    }
}
