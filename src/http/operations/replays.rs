//! `/api/v1/replays`: evaluates recorded evaluations again, in the background.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use super::doc::{ReplayBody, ReplayList, ReplayRequestBody};
use crate::database::audited::Actor;
use crate::http::Problem;
use crate::http::api::Api;
use crate::http::caller::{Authorized, Caller, scope};
use crate::http::input::Undecodable;
use crate::http::manage::doc::{ManageProblems, WriteProblems};
use crate::http::manage::params::{self, Params};
use crate::http::manage::{answer, problem, reason};
use crate::http::openapi::schema::ProblemDetails;
use crate::http::places::Pool;
use crate::manage::{ReplayRequest, ReplayView};
use crate::replay::{Proposal, RowFilter, With, proposal};

/// Maximum flags that one replay is restricted to.
const FLAGS_MAX: usize = 1_000;
const MEANINGLESS: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;

/// Starts a replay of the recorded evaluations of a period.
///
/// With `with` they are evaluated with proposed flags, with `as_of` with the versions in force at that time, and otherwise
/// with the versions in force at the time of each evaluation. Changes nothing. A token that is restricted to certain
/// flags must name the `flags`.
#[utoipa::path(
    post,
    path = "/api/v1/replays",
    operation_id = "startReplay",
    tag = "operations",
    request_body = ReplayRequestBody,
    responses(
        (status = 202, description = "Started", body = ReplayBody),
        WriteProblems
    )
)]
pub(in crate::http) async fn start(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Read>,
    unread: Undecodable,
) -> Result<Response, Problem> {
    let input = unread.read_in(&api, &caller, Pool::Management).await?;
    let members = params::members(&input.body)?;
    let request =
        Asked { caller: &caller, members: &members }.read(&api.config.unleash.default_environment)?;
    for flag in &request.filter.flags {
        for environment in &request.filter.environments {
            let checking = api.manager.check_reach(caller.restrictions(), environment, flag);
            checking.await.map_err(problem)?;
        }
    }
    let (actor, reason) = (caller.name(), reason(&input)?);
    let author = Actor { actor: &actor, reason: reason.as_deref() };
    let started = api.manager.start_replay(request, author, api.shutdown.child_token()).await;
    answer(StatusCode::ACCEPTED, &started.map_err(problem)?)
}

/// Lists the replays of the last week, newest first, without their reports.
#[utoipa::path(
    get,
    path = "/api/v1/replays",
    operation_id = "listReplays",
    tag = "operations",
    responses((status = 200, description = "The latest replays that the caller may see", body = ReplayList), ManageProblems)
)]
pub(in crate::http) async fn list(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Read>,
    _ask: Params,
) -> Result<Response, Problem> {
    let mut replays = api.manager.replays().await.map_err(problem)?;
    replays.retain(|replay| may_see(&caller, replay));
    answer(StatusCode::OK, &json!({"replays": replays}))
}

/// Shows a replay: its progress, and its report when it is done. The users of the examples are shown with the scope `audit`.
#[utoipa::path(
    get,
    path = "/api/v1/replays/{id}",
    operation_id = "getReplay",
    tag = "operations",
    params(("id" = String, Path, description = "The replay's `id`")),
    responses((status = 200, description = "The replay", body = ReplayBody), ManageProblems)
)]
pub(in crate::http) async fn one(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Read>,
    Path(id): Path<String>,
    _ask: Params,
) -> Result<Response, Problem> {
    let mut found = find(&api, &caller, &id).await?;
    if !caller.may_audit()
        && let Some(report) = &mut found.report
    {
        hide_users(report);
    }
    answer(StatusCode::OK, &found)
}

/// Cancels a replay. One that has ended stays as it is.
#[utoipa::path(
    delete,
    path = "/api/v1/replays/{id}",
    operation_id = "cancelReplay",
    tag = "operations",
    params(("id" = String, Path, description = "The replay's `id`")),
    responses(
        (status = 204, description = "Cancelled, or ended before"),
        (status = 404, description = "There is no such replay", body = ProblemDetails, content_type = "application/problem+json"),
        ManageProblems
    )
)]
pub(in crate::http) async fn cancel(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Read>,
    Path(id): Path<String>,
    ask: Params,
) -> Result<StatusCode, Problem> {
    find(&api, &caller, &id).await?;
    let (actor, reason) = (caller.name(), ask.reason()?);
    let author = Actor { actor: &actor, reason: reason.as_deref() };
    api.manager.cancel_replay(&id, author).await.map_err(problem)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn find(api: &Api, caller: &Caller, id: &str) -> Result<ReplayView, Problem> {
    let unknown = || Problem::new(StatusCode::NOT_FOUND, "there is no replay with this id");
    // Postgres cannot store a NUL character, so nothing has such an id.
    if id.contains('\0') {
        return Err(unknown());
    }
    let found = api.manager.replay(id).await.map_err(problem)?;
    found.filter(|replay| may_see(caller, replay)).ok_or_else(unknown)
}

/// Whether the caller may see all environments of a replay. A caller with a restricted token sees only its own replays.
fn may_see(caller: &Caller, replay: &ReplayView) -> bool {
    let is_own = replay.actor == caller.name();
    let environment = replay.request.get("environment").and_then(Value::as_str);
    let is_there = match environment {
        Some(environment) => caller.sees(environment),
        None => caller.environments().is_none(),
    };
    is_there && (is_own || caller.restrictions().is_empty())
}

fn hide_users(report: &mut Value) {
    let flags = report.get_mut("flags").and_then(Value::as_array_mut);
    for flag in flags.into_iter().flatten() {
        let examples = flag.get_mut("examples").and_then(Value::as_array_mut);
        for example in examples.into_iter().flatten().filter_map(Value::as_object_mut) {
            for name in ["user_id", "request_id", "context"] {
                example.insert(name.to_owned(), Value::Null);
            }
        }
    }
}

/// Body of a request that starts a replay.
struct Asked<'a> {
    caller: &'a Authorized<scope::Read>,
    members: &'a Map<String, Value>,
}

impl Asked<'_> {
    fn read(&self, default_environment: &str) -> Result<ReplayRequest, Problem> {
        params::refuse_unknown(self.members, &["from", "to", "as_of", "with", "environment", "flags"])?;
        let now = Utc::now();
        let to = self.time("to")?.unwrap_or(now + TimeDelta::seconds(1));
        let from = self.time("from")?.unwrap_or(now - TimeDelta::days(1));
        if from >= to {
            return Err(Problem::of_field(MEANINGLESS, "from", "expected a time before `to`"));
        }
        let environment = self.environment()?;
        let proposals = self.proposals(environment.as_deref().unwrap_or(default_environment), from)?;
        let with = match (self.time("as_of")?, proposals.is_empty()) {
            (Some(_), false) => {
                return Err(Problem::of_field(MEANINGLESS, "as_of", "cannot be given together with `with`"));
            }
            (Some(moment), true) => With::AsOf(moment),
            (None, false) => With::Proposed,
            (None, true) => With::Then,
        };
        let flags = self.flags()?;
        let filter =
            RowFilter { from, to, environments: environment.into_iter().collect(), flags, last: None };
        let document = json!({
            "from": filter.from, "to": filter.to, "environment": filter.environments.first(), "flags": filter.flags,
            "as_of": self.members.get("as_of"), "with": self.members.get("with"),
        });
        Ok(ReplayRequest { filter, with, proposals, document })
    }

    /// Environment of the replay. `None`: all, which the caller must be allowed to see.
    fn environment(&self) -> Result<Option<String>, Problem> {
        let environment = self.text("environment")?.map(|name| params::environment(Some(name.into())));
        match environment.transpose()? {
            Some(environment) => {
                self.caller.check_environment(&environment)?;
                Ok(Some(environment))
            }
            None if self.caller.environments().is_none() && self.caller.restrictions().is_empty() => Ok(None),
            None => {
                let message = "is required, because the token does not permit all environments and flags";
                Err(Problem::of_field(MEANINGLESS, "environment", message))
            }
        }
    }

    fn flags(&self) -> Result<Vec<String>, Problem> {
        let wrong = |message: &str| Err(Problem::of_field(MEANINGLESS, "flags", message));
        let flags = match self.members.get("flags") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(names)) if names.len() <= FLAGS_MAX => {
                let names: Option<Vec<String>> =
                    names.iter().map(|name| name.as_str().map(str::to_owned)).collect();
                match names {
                    Some(names) => names,
                    None => return wrong("expected names of flags"),
                }
            }
            Some(_) => return wrong("expected a list of at most 1,000 names of flags"),
        };
        if flags.is_empty() && !self.caller.restrictions().is_empty() {
            return wrong("are required, because the token is restricted to certain flags");
        }
        Ok(flags)
    }

    /// Proposed flags: in the format of Unleash's client API, or one local flag or a list of them.
    fn proposals(&self, environment: &str, from: DateTime<Utc>) -> Result<Vec<Proposal>, Problem> {
        let with = match self.members.get("with") {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(with @ (Value::Object(_) | Value::Array(_))) => with.to_string(),
            Some(_) => {
                return Err(Problem::of_field(
                    StatusCode::BAD_REQUEST,
                    "with",
                    "expected an object or a list",
                ));
            }
        };
        let read = proposal::read(&with, environment, from);
        let proposals = read.map_err(|message| Problem::of_field(MEANINGLESS, "with", message))?;
        for proposal in &proposals {
            self.caller.check_environment(&proposal.environment)?;
        }
        Ok(proposals)
    }

    fn text(&self, name: &str) -> Result<Option<String>, Problem> {
        match self.members.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(Problem::of_field(StatusCode::BAD_REQUEST, name, "expected a string")),
        }
    }

    fn time(&self, name: &str) -> Result<Option<DateTime<Utc>>, Problem> {
        self.text(name)?.map(|text| params::moment(name, &text)).transpose()
    }
}
