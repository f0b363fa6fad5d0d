//! `/api/v1/feature-flags`: lists, shows, creates, changes and deletes flags, and syncs with Unleash.

pub(super) mod doc;
pub(super) mod experiment;
pub(super) mod kill;
pub(super) mod params;
pub(super) mod preload;
pub(super) mod preview;
pub(super) mod refusal;
pub(super) mod revert;
pub(super) mod usage;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, ETAG, LINK, LOCATION};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::{get, post};
use serde::Serialize;

use crate::flag::local;
use crate::manage::{
    AuthorizedActor, ChangeResult, FlagFilter, FlagRef, FlagView, HistoryFilter, ManageError, Sort,
};

use super::Problem;
use super::api::Api;
use super::caller::{Authorized, scope};
use super::input::Undecodable;
use super::places::Pool;

pub(super) use params::reason;
pub use params::segment;
pub(super) use refusal::problem;

use doc::{
    AcceptedFlag, ChangeHeaders, ChangeList, DeleteQuery, EnvironmentQuery, FlagBody, FlagList, FlagUpdate,
    History, LimitQuery, ListQuery, ManageProblems, SyncAnswer,
};
pub(super) use doc::{FlagPath, WriteProblems};
pub(super) use params::FlagName;
use params::Params;

const FLAGS: &str = "/api/v1/feature-flags";
const ONE: &str = "/api/v1/feature-flags/{name}";

const LIST_DEFAULT: u32 = 50;
/// Maximum number of flags on a page.
const LIST_MAX: u32 = 100;
const HISTORY_DEFAULT: u32 = 100;
/// Maximum number of entries of a history or a change log in one answer.
const HISTORY_MAX: u32 = 1_000;

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route(FLAGS, get(list).post(create))
        .route(ONE, get(one).put(update).delete(delete))
        .route("/api/v1/feature-flags/{name}/history", get(history))
        .route("/api/v1/feature-flags/{name}/changes", get(changes))
        .route("/api/v1/feature-flags/{name}/kill", post(kill::kill))
        .route("/api/v1/feature-flags/{name}/restore", post(kill::restore))
        .route("/api/v1/feature-flags/{name}/revert", post(revert::revert))
        .route("/api/v1/feature-flags/{name}/preview", post(preview::preview))
        .route("/api/v1/feature-flags/{name}/usage", get(usage::usage))
        .route("/api/v1/feature-flags/stale", get(usage::stale))
        .route("/api/v1/feature-flags/cleanup", post(revert::cleanup))
        .route("/api/v1/feature-flags/preload", post(preload::preload))
        .route("/api/v1/feature-flags/sync", post(sync))
        .route("/api/v1/experiments", get(experiment::list).post(experiment::begin))
        .route("/api/v1/experiments/{name}", get(experiment::one))
        .route("/api/v1/experiments/{name}/results", get(experiment::results))
        .route("/api/v1/experiments/{name}/history", get(experiment::history))
        .route("/api/v1/experiments/{name}/stop", post(experiment::stop))
        .route("/api/v1/experiments/{name}/conversions", post(experiment::convert))
}

/// Lists flags, from Unleash, from files and local.
#[utoipa::path(
    get,
    path = "/api/v1/feature-flags",
    operation_id = "listFlags",
    tag = "management",
    params(ListQuery),
    responses((status = 200, description = "A page of flags, by name or by last evaluation", body = FlagList), ManageProblems)
)]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Read>,
    ask: Params,
) -> Result<Response, Problem> {
    let environment = ask.any_environment()?;
    let environments = params::allowed_among(&caller, environment.as_deref())?;
    let (limit, offset) = ask.page(LIST_DEFAULT, LIST_MAX)?;
    let sort = match ask.parameter("sort").as_deref() {
        None | Some("name") => Sort::Name,
        Some("last_evaluated_at") => Sort::LastEvaluatedAt,
        Some(_) => {
            let expected = "expected name or last_evaluated_at";
            return Err(Problem::of_field(StatusCode::UNPROCESSABLE_ENTITY, "sort", expected));
        }
    };
    let unused_days = match ask.parameter("unused_days") {
        Some(_) => Some(ask.whole("unused_days", 1, 1, usage::UNUSED_DAYS_MAX)?),
        None => None,
    };
    let asked = FlagFilter {
        environments: environments.as_deref(),
        within: caller.restrictions(),
        unused_days,
        sort,
        limit,
        offset,
    };
    let page = api.manager.list(asked).await.map_err(problem)?;
    answer(StatusCode::OK, &page)
}

/// Shows a flag, wherever it is managed.
#[utoipa::path(
    get,
    path = "/api/v1/feature-flags/{name}",
    operation_id = "getFlag",
    tag = "management",
    params(FlagPath, EnvironmentQuery),
    responses(
        (status = 200, description = "The flag; the `ETag` of a local flag is its revision", body = FlagBody),
        ManageProblems
    )
)]
pub(super) async fn one(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Read>,
    name: FlagName,
    ask: Params,
) -> Result<Response, Problem> {
    let environment = params::allowed(&caller, ask.parameter("environment"))?;
    let name = name.reachable(&api, &caller, &environment).await?;
    let shown = api.manager.get(&environment, &name).await.map_err(problem)?;
    show(StatusCode::OK, &shown)
}

/// Creates a local flag.
#[utoipa::path(
    post,
    path = "/api/v1/feature-flags",
    operation_id = "createFlag",
    tag = "management",
    params(ChangeHeaders),
    request_body = doc::NewFlag,
    responses(
        (status = 201, description = "Created, announced, and in force on this instance", body = FlagBody),
        AcceptedFlag,
        WriteProblems
    )
)]
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Write>,
    unread: Undecodable,
) -> Result<Response, Problem> {
    let input = unread.read_in(&api, &caller, Pool::Management).await?;
    let reason = reason(&input)?;
    let new = local::created(&input.body).map_err(|invalid| problem(ManageError::Invalid(invalid)))?;
    let (name, environment, flag) = new;
    caller.check_environment(&environment)?;
    let actor = caller.name();
    let by = AuthorizedActor { actor: &actor, reason: reason.as_deref(), within: caller.restrictions() };
    let done = api.manager.create(&environment, &name, flag, by).await.map_err(problem)?;
    let mut response = finish(&api, &done, StatusCode::CREATED).await?;
    let (name, environment) = (segment(&done.name), params::encoded(&done.environment));
    if let Ok(location) = HeaderValue::try_from(format!("{FLAGS}/{name}?environment={environment}")) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// Changes the given fields of a local flag.
#[utoipa::path(
    put,
    path = "/api/v1/feature-flags/{name}",
    operation_id = "updateFlag",
    tag = "management",
    params(FlagPath, EnvironmentQuery, doc::ExpectedHeaders),
    request_body = FlagUpdate,
    responses(
        (status = 200, description = "Changed, announced, and in force on this instance", body = FlagBody),
        AcceptedFlag,
        WriteProblems
    )
)]
pub(super) async fn update(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Write>,
    name: FlagName,
    unread: Undecodable,
) -> Result<Response, Problem> {
    let input = unread.read_in(&api, &caller, Pool::Management).await?;
    let environment = params::allowed(&caller, input.parameter("environment"))?;
    let name = name.reachable(&api, &caller, &environment).await?;
    let (expected, reason) = (params::expected(input.header("if-match"))?, reason(&input)?);
    let asked = FlagRef { environment: &environment, name: &name, expected: &expected };
    let actor = caller.name();
    let by = AuthorizedActor { actor: &actor, reason: reason.as_deref(), within: caller.restrictions() };
    let updating = api.manager.update(asked, &input.body, by);
    let done = updating.await.map_err(problem)?;
    finish(&api, &done, StatusCode::OK).await
}

/// Deletes a local flag. Its evaluations and its change log are kept.
#[utoipa::path(
    delete,
    path = "/api/v1/feature-flags/{name}",
    operation_id = "deleteFlag",
    tag = "management",
    params(FlagPath, DeleteQuery, doc::ExpectedHeaders),
    responses(
        (status = 204, description = "Deleted, announced, and no longer in force on this instance"),
        (status = 202, description = "Deleted and announced, but still in force on this instance"),
        WriteProblems
    )
)]
pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Delete>,
    name: FlagName,
    ask: Params,
) -> Result<StatusCode, Problem> {
    let environment = params::allowed(&caller, ask.parameter("environment"))?;
    let name = name.reachable(&api, &caller, &environment).await?;
    let (expected, reason) = (params::expected(ask.header("if-match"))?, ask.reason()?);
    let shadowed = ask.switch("shadowed")?;
    let asked = FlagRef { environment: &environment, name: &name, expected: &expected };
    let actor = caller.name();
    let by = AuthorizedActor { actor: &actor, reason: reason.as_deref(), within: caller.restrictions() };
    let deleting = api.manager.delete(asked, shadowed, by);
    let done = deleting.await.map_err(problem)?;
    Ok(if done.in_force { StatusCode::NO_CONTENT } else { StatusCode::ACCEPTED })
}

/// Reads the source of an environment's flags now, and waits until its flags are in force.
#[utoipa::path(
    post,
    path = "/api/v1/feature-flags/sync",
    operation_id = "syncFlags",
    tag = "management",
    params(EnvironmentQuery),
    responses(
        (status = 200, description = "The source's flags are in force on this instance", body = SyncAnswer),
        doc::SyncProblems
    )
)]
pub(super) async fn sync(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Write>,
    ask: Params,
) -> Result<Response, Problem> {
    let environment = params::allowed(&caller, ask.parameter("environment"))?;
    let synced = api.manager.sync(&environment).await.map_err(problem)?;
    answer(StatusCode::OK, &synced)
}

/// Lists the latest evaluations of a flag, newest first. User ids and contexts are shown with the scope `audit`.
#[utoipa::path(
    get,
    path = "/api/v1/feature-flags/{name}/history",
    operation_id = "listFlagEvaluations",
    tag = "management",
    params(FlagPath, EnvironmentQuery, doc::HistoryQuery),
    responses(
        (status = 200, description = "Evaluations from the audit trail; the header `Link` has the address of earlier ones", body = History),
        ManageProblems
    )
)]
pub(super) async fn history(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Read>,
    name: FlagName,
    ask: Params,
) -> Result<Response, Problem> {
    let (environment, limit) = (ask.environment()?, ask.limit(HISTORY_DEFAULT, HISTORY_MAX)?);
    caller.check_environment(&environment)?;
    let name = name.reachable(&api, &caller, &environment).await?;
    let before = ask.parameter("before").map(|text| text.parse()).transpose();
    let before = before.map_err(|message| Problem::of_field(StatusCode::BAD_REQUEST, "before", message))?;
    let wanted = HistoryFilter { limit, before, with_users: caller.may_audit() };
    let history = api.manager.history(&environment, &name, wanted).await.map_err(problem)?;
    let mut response = answer(StatusCode::OK, &history.evaluations)?;
    if let Some(next) = history.next {
        let (name, environment) = (segment(&name), params::encoded(&environment));
        let link = format!(
            "<{FLAGS}/{name}/history?environment={environment}&limit={limit}&before={next}>; rel=\"next\""
        );
        if let Ok(link) = HeaderValue::try_from(link) {
            response.headers_mut().insert(LINK, link);
        }
    }
    Ok(response)
}

/// Lists the latest changes of a flag and of its kill switch, newest first.
#[utoipa::path(
    get,
    path = "/api/v1/feature-flags/{name}/changes",
    operation_id = "listFlagChanges",
    tag = "management",
    params(FlagPath, EnvironmentQuery, LimitQuery),
    responses((status = 200, description = "Who changed what, when and why", body = ChangeList), ManageProblems)
)]
pub(super) async fn changes(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Read>,
    name: FlagName,
    ask: Params,
) -> Result<Response, Problem> {
    let (environment, limit) = (ask.environment()?, ask.limit(HISTORY_DEFAULT, HISTORY_MAX)?);
    caller.check_environment(&environment)?;
    let name = name.reachable(&api, &caller, &environment).await?;
    let changes = api.manager.changes(&environment, &name, limit).await.map_err(problem)?;
    answer(StatusCode::OK, &changes)
}

/// Returns the flag after a change, with status 202 if the change is not in force yet.
async fn finish(api: &Api, done: &ChangeResult, status: StatusCode) -> Result<Response, Problem> {
    let shown = api.manager.get(&done.environment, &done.name).await.map_err(problem)?;
    let status = if done.in_force { status } else { StatusCode::ACCEPTED };
    respond(status, &shown, &Changed { shown: &shown, warnings: &done.warnings })
}

/// Response body after a change: the flag, and warnings about it.
#[derive(Serialize)]
struct Changed<'c> {
    #[serde(flatten)]
    shown: &'c FlagView,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'c [String],
}

fn show(status: StatusCode, shown: &FlagView) -> Result<Response, Problem> {
    respond(status, shown, shown)
}

fn respond(status: StatusCode, shown: &FlagView, body: &impl Serialize) -> Result<Response, Problem> {
    let mut response = answer(status, body)?;
    if let Some(revision) = shown.revision
        && let Ok(tag) = HeaderValue::try_from(format!("\"{revision}\""))
    {
        response.headers_mut().insert(ETAG, tag);
    }
    Ok(response)
}

pub(super) fn answer(status: StatusCode, body: &impl Serialize) -> Result<Response, Problem> {
    let body = serde_json::to_vec(body);
    let body = body.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error))?;
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
