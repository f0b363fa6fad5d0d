//! `/api/v1/experiments`: starts, lists, shows and stops experiments, accepts conversions and returns results.

use std::borrow::Cow;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use chrono::Utc;
use futures_util::future::try_join_all;
use serde_json::json;
use uuid::Uuid;

use super::doc::EnvironmentQuery;
use super::doc::experiments::{
    AcceptedConversions, ConversionBody, ExperimentList, ExperimentPath, ExperimentProblems, NewExperiment,
    StopBody,
};
use super::params::{self, ExperimentName, Params, encoded};
use super::refusal::invalid_fields;
use super::{answer, problem};
use crate::database::audited::Actor;
use crate::experiment::conversion::check_metric;
use crate::experiment::records::History;
use crate::experiment::{CreateRequest, Ending, ExperimentError, Experiments, Results, StoredExperiment};
use crate::flag::local::Invalid;
use crate::http::Problem;
use crate::http::api::Api;
use crate::http::caller::{Authorized, scope};
use crate::http::input::Undecodable;
use crate::http::places::Pool;
use crate::log_limit::limited;
use crate::manage::ManageError;
use crate::message::conversion::Conversion;
use crate::message::json::{Kind, Scanner, Span};

/// Maximum conversions of one request.
const CONVERSIONS_MAX: usize = 1_000;
/// Maximum nesting depth of a conversion's JSON.
const MAX_DEPTH_LEVELS: usize = 32;

/// Starts an experiment on a flag of type `experiment` with variants, wherever it is managed.
#[utoipa::path(
    post,
    path = "/api/v1/experiments",
    operation_id = "createExperiment",
    tag = "experiments",
    request_body = NewExperiment,
    responses(
        (status = 201, description = "Started: users of evaluations since `started_at` are counted as exposed", body = StoredExperiment),
        ExperimentProblems
    )
)]
pub(in crate::http) async fn begin(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Write>,
    unread: Undecodable,
) -> Result<Response, Problem> {
    let input = unread.read_in(&api, &caller, Pool::Management).await?;
    let wanted = CreateRequest::read(&input.body).map_err(|wrong| invalid_fields(&wrong))?;
    caller.check_environment(&wanted.environment)?;
    let checking = api.manager.check_reach(caller.restrictions(), &wanted.environment, wanted.flag_name());
    checking.await.map_err(problem)?;
    let (actor, reason) = (caller.name(), params::reason(&input)?);
    let author = Actor { actor: &actor, reason: reason.as_deref() };
    let begun = experiments(&api)?.begin(wanted, author).await.map_err(refused)?;
    let place = format!(
        "/api/v1/experiments/{}?environment={}",
        encoded(&begun.experiment.design.name),
        encoded(&begun.experiment.design.environment)
    );
    let mut response = answer(StatusCode::CREATED, &begun)?;
    if let Ok(place) = HeaderValue::try_from(place) {
        response.headers_mut().insert(LOCATION, place);
    }
    Ok(response)
}

/// Lists experiments, ordered by environment and name.
#[utoipa::path(
    get,
    path = "/api/v1/experiments",
    operation_id = "listExperiments",
    tag = "experiments",
    params(("environment" = Option<String>, Query, description = "Only experiments of this environment")),
    responses((status = 200, description = "All experiments that the caller may see", body = ExperimentList), ExperimentProblems)
)]
pub(in crate::http) async fn list(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Read>,
    ask: Params,
) -> Result<Response, Problem> {
    let environment = ask.any_environment()?;
    let seen = params::allowed_among(&caller, environment.as_deref())?;
    let mut experiments = experiments(&api)?.list().await.map_err(refused)?;
    let is_seen = |kept: &StoredExperiment| match &seen {
        Some(environments) => environments.contains(&kept.experiment.design.environment.as_str()),
        None => true,
    };
    experiments.retain(is_seen);
    let mut shown = Vec::new();
    for kept in experiments {
        let design = &kept.experiment.design;
        let checking = api.manager.check_reach(caller.restrictions(), &design.environment, &design.flag_name);
        match checking.await {
            Ok(()) => shown.push(kept),
            Err(ManageError::Outside(_)) => {}
            Err(error) => return Err(problem(error)),
        }
    }
    answer(StatusCode::OK, &json!({"experiments": shown}))
}

/// Shows one experiment: its design and its state.
#[utoipa::path(
    get,
    path = "/api/v1/experiments/{name}",
    operation_id = "getExperiment",
    tag = "experiments",
    params(ExperimentPath, EnvironmentQuery),
    responses((status = 200, description = "The experiment", body = StoredExperiment), ExperimentProblems)
)]
pub(in crate::http) async fn one(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Read>,
    name: ExperimentName,
    ask: Params,
) -> Result<Response, Problem> {
    let environment = params::allowed(&caller, ask.parameter("environment"))?;
    let name = name.reachable(&api, &caller, &environment).await?;
    let found = experiments(&api)?.find(&environment, &name).await;
    answer(StatusCode::OK, &found.map_err(refused)?)
}

/// Returns the results of an experiment so far, computed from counts that are at most a few seconds old.
#[utoipa::path(
    get,
    path = "/api/v1/experiments/{name}/results",
    operation_id = "getExperimentResults",
    tag = "experiments",
    params(ExperimentPath, EnvironmentQuery),
    responses((status = 200, description = "Results of each phase", body = Results), ExperimentProblems)
)]
pub(in crate::http) async fn results(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Read>,
    name: ExperimentName,
    ask: Params,
) -> Result<Response, Problem> {
    let environment = params::allowed(&caller, ask.parameter("environment"))?;
    let name = name.reachable(&api, &caller, &environment).await?;
    let results = experiments(&api)?.results(&environment, &name).await;
    answer(StatusCode::OK, &results.map_err(refused)?)
}

/// Returns the results of an experiment over time: a point for each day, and for each time that the number of users has
/// grown by a twentieth.
#[utoipa::path(
    get,
    path = "/api/v1/experiments/{name}/history",
    operation_id = "getExperimentHistory",
    tag = "experiments",
    params(ExperimentPath, EnvironmentQuery),
    responses((status = 200, description = "Results over time, oldest first", body = History), ExperimentProblems)
)]
pub(in crate::http) async fn history(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Read>,
    name: ExperimentName,
    ask: Params,
) -> Result<Response, Problem> {
    let environment = params::allowed(&caller, ask.parameter("environment"))?;
    let name = name.reachable(&api, &caller, &environment).await?;
    let history = experiments(&api)?.history(&environment, &name).await;
    answer(StatusCode::OK, &history.map_err(refused)?)
}

/// Stops an experiment. Later evaluations expose no users; conversions still count until their window ends.
#[utoipa::path(
    post,
    path = "/api/v1/experiments/{name}/stop",
    operation_id = "stopExperiment",
    tag = "experiments",
    params(ExperimentPath, EnvironmentQuery),
    request_body = StopBody,
    responses((status = 200, description = "Stopped", body = StoredExperiment), ExperimentProblems)
)]
pub(in crate::http) async fn stop(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Write>,
    name: ExperimentName,
    unread: Undecodable,
) -> Result<Response, Problem> {
    let input = unread.read_in(&api, &caller, Pool::Management).await?;
    let environment = params::allowed(&caller, input.parameter("environment"))?;
    let name = name.reachable(&api, &caller, &environment).await?;
    let Ending { reason, winner } = Ending::read(&input.body).map_err(|wrong| invalid_fields(&wrong))?;
    let (actor, header) = (caller.name(), params::reason(&input)?);
    let author = Actor { actor: &actor, reason: header.as_deref().or(reason.as_deref()) };
    let experiments = experiments(&api)?;
    let stopped = experiments.stop(&environment, &name, winner.as_deref(), author).await;
    answer(StatusCode::OK, &stopped.map_err(refused)?)
}

/// Accepts one conversion or a list of them. A response with status 202 means that they are stored in Kafka.
///
/// A request that failed can be repeated without counting anything twice if its conversions have an `event_id`.
#[utoipa::path(
    post,
    path = "/api/v1/experiments/{name}/conversions",
    operation_id = "reportConversions",
    tag = "experiments",
    params(ExperimentPath, EnvironmentQuery),
    request_body = ConversionBody,
    responses((status = 202, description = "In Kafka", body = AcceptedConversions), ExperimentProblems)
)]
pub(in crate::http) async fn convert(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Track>,
    name: ExperimentName,
    unread: Undecodable,
) -> Result<Response, Problem> {
    let input = unread.read_in(&api, &caller, Pool::Evaluation).await?;
    let environment = params::allowed(&caller, input.parameter("environment"))?;
    let name = name.reachable(&api, &caller, &environment).await?;
    let experiments = experiments(&api)?;
    let design = experiments.design(&environment, &name).await.map_err(refused)?;
    let accepted = api.config.accepted_conversions(Utc::now());
    let (mut conversions, mut wrong) = (Vec::new(), Vec::new());
    for (place, text) in texts(&input.body)? {
        let read = Conversion::read(text, Some(&name), &accepted);
        let checked =
            read.and_then(|conversion| match check_metric(&design, &conversion.metric, conversion.value) {
                Ok(()) => Ok(conversion),
                Err(invalid) => Err(vec![invalid]),
            });
        match checked {
            Ok(conversion) => conversions.push(conversion),
            Err(invalid) => wrong.extend(invalid.into_iter().map(|invalid| placed(&place, invalid))),
        }
    }
    if !wrong.is_empty() {
        return Err(invalid_fields(&wrong));
    }
    report(&api, experiments, &environment, &mut conversions).await?;
    let ids: Vec<_> = conversions.iter().map(|conversion| &conversion.event_id).collect();
    answer(StatusCode::ACCEPTED, &json!({"accepted": ids.len(), "event_ids": ids}))
}

/// Sends conversions to Kafka, with the environment, an event id, and user ids and metadata as the privacy settings
/// require.
pub(in crate::http) async fn report<'c>(
    api: &Api,
    experiments: &Experiments,
    environment: &'c str,
    conversions: &mut [Conversion<'c>],
) -> Result<(), Problem> {
    for conversion in conversions.iter_mut() {
        conversion.environment = Some(Cow::Borrowed(environment));
        conversion.event_id.get_or_insert_with(|| Cow::Owned(Uuid::now_v7().to_string()));
        if let Some(privacy) = &api.privacy {
            conversion.user_id = privacy.user(std::mem::take(&mut conversion.user_id));
            let shown = conversion.metadata.as_deref().map(|metadata| privacy.context(metadata).into_owned());
            conversion.metadata = shown.map(Cow::Owned);
        }
    }
    let sent = conversions.iter().map(|conversion| experiments.report(conversion, api.privacy.is_some()));
    try_join_all(sent).await.map_err(refused)?;
    Ok(())
}

/// Splits the body into conversions. Each has the prefix of its fields' names in error messages, such as `[3].`.
fn texts(body: &[u8]) -> Result<Vec<(String, &str)>, Problem> {
    let refuse = |status, message: String| Problem::of_field(status, "body", message);
    let broken = |message: String| refuse(StatusCode::BAD_REQUEST, message);
    let text = std::str::from_utf8(body).map_err(|_| broken("expected UTF-8".to_owned()))?;
    let syntax = |error| broken(format!("not JSON: {error}"));
    let whole = Span::parse(text, MAX_DEPTH_LEVELS).map_err(syntax)?;
    match whole.kind {
        Kind::Object => return Ok(vec![(String::new(), whole.text)]),
        Kind::Array => {}
        _ => return Err(broken("expected a conversion, or a list of conversions".to_owned())),
    }
    let (mut scanner, mut first) = (Scanner::new(whole.text, MAX_DEPTH_LEVELS), true);
    scanner.begin_array().map_err(syntax)?;
    let mut texts = Vec::new();
    while scanner.next_element(&mut first).map_err(syntax)? {
        texts.push((format!("[{}].", texts.len()), scanner.value().map_err(syntax)?.text));
    }
    if (1..=CONVERSIONS_MAX).contains(&texts.len()) {
        return Ok(texts);
    }
    let message = format!("expected 1 to {CONVERSIONS_MAX} conversions, got {}", texts.len());
    Err(refuse(StatusCode::UNPROCESSABLE_ENTITY, message))
}

fn placed(place: &str, invalid: Invalid) -> Invalid {
    Invalid { field: format!("{place}{}", invalid.field), ..invalid }
}

pub(in crate::http) fn experiments(api: &Api) -> Result<&Experiments, Problem> {
    api.manager.experiments().map_err(problem)
}

pub(in crate::http) fn refused(error: ExperimentError) -> Problem {
    let status = match error {
        ExperimentError::Invalid(invalid) => return invalid_fields(&invalid),
        ExperimentError::TooLong => {
            return Problem::of_field(StatusCode::UNPROCESSABLE_ENTITY, "started_at", error.to_string());
        }
        ExperimentError::Unknown => StatusCode::NOT_FOUND,
        ExperimentError::Exists | ExperimentError::Stopped | ExperimentError::TooMany => StatusCode::CONFLICT,
        ExperimentError::NotYet | ExperimentError::Starting | ExperimentError::Busy => {
            return Problem::new(StatusCode::SERVICE_UNAVAILABLE, error).retry_after(1);
        }
        ExperimentError::Database(error) => return problem(error.into()),
        ExperimentError::Kafka(error) => {
            limited!(warn, %error, "conversions could not be written to Kafka");
            let detail = "Kafka did not confirm all conversions; repeat the request (conversions with the same \
                event_id are counted once)";
            return Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1);
        }
    };
    Problem::new(status, error)
}
