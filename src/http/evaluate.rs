//! `/api/v1/feature-flags/evaluate…`: one flag, one flag as a boolean, many flags for one or many contexts, and a plain
//! list of flags.

mod body;

use std::borrow::Cow;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::post;

use crate::config::Scope;
use crate::flag::ValueType;
use crate::manage::{ExplainRequest, Explained, ManageError};
use crate::message::request::{Ask, Asked, Query, Subject, Subjects, flag_names};
use crate::message::result_size::{Repeated, result_bytes};
use crate::outbox::EventBatch;

use super::Problem;
use super::api::Api;
use super::cached::{Kept, When, kept};
use super::call::{Call, EventSink};
use super::caller::{Authorized, Caller, scope};
use super::counts::Path;
use super::input::{Input, Undecodable, evaluation_place, json_answer, refused};
use super::openapi::calls::{EvaluationHeaders, EvaluationProblems, EvaluationQuery, ExplainQuery};
use super::openapi::schema::{BulkAnswer, BulkRequest, EvaluateAnswer, EvaluateRequest, EvaluationResult};

/// Header that names the environment, for clients that can set neither body nor query, such as OpenFeature providers.
pub(super) const ENVIRONMENT_HEADER: &str = "flags-environment";
/// Maximum answers (flags times contexts) of one request.
pub const MAX_ANSWERS: usize = 20_000;
/// Maximum bytes of request data (contexts, ids, environment, defaults) that the events and the response of one request
/// repeat.
const MAX_ECHO_BYTES: usize = 16 << 20;
/// Maximum bytes of the events and the response of one request: repeated request data plus the flags' values.
const MAX_RESULT_BYTES: usize = 64 << 20;

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/api/v1/feature-flags/evaluate", post(one))
        .route("/api/v1/feature-flags/evaluate/boolean", post(boolean))
        .route("/api/v1/feature-flags/evaluate/bulk", post(bulk))
        .route("/api/v1/feature-flags/evaluate/batch", post(batch))
}

/// Evaluates one flag.
#[utoipa::path(
    post,
    path = "/api/v1/feature-flags/evaluate",
    operation_id = "evaluateFlag",
    tag = "evaluation",
    params(
        EvaluationQuery,
        ExplainQuery,
        EvaluationHeaders
    ),
    request_body = EvaluateRequest,
    responses(
        (status = 200, description = "Evaluated", body = EvaluateAnswer),
        EvaluationProblems
    )
)]
pub(super) async fn one(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Evaluate>,
    unread: Undecodable,
) -> Result<Response, Problem> {
    single(&api, &caller, unread, None).await
}

/// Evaluates one flag as a boolean.
#[utoipa::path(
    post,
    path = "/api/v1/feature-flags/evaluate/boolean",
    operation_id = "evaluateBooleanFlag",
    tag = "evaluation",
    params(
        EvaluationQuery,
        ExplainQuery,
        EvaluationHeaders
    ),
    request_body = EvaluateRequest,
    responses(
        (status = 200, description = "Evaluated", body = EvaluateAnswer),
        EvaluationProblems
    )
)]
pub(super) async fn boolean(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Evaluate>,
    unread: Undecodable,
) -> Result<Response, Problem> {
    single(&api, &caller, unread, Some(ValueType::Boolean)).await
}

async fn single(
    api: &Arc<Api>,
    caller: &Authorized<scope::Evaluate>,
    unread: Undecodable,
    of: Option<ValueType>,
) -> Result<Response, Problem> {
    let input = unread.read_for(api, caller).await?;
    let query = Query::one(&input.body, of).map_err(refused)?;
    let environment = environment_of(api, &input, query.environment.as_deref());
    caller.check_environment(&environment)?;
    let min_version = query.min_version.max(input.min_version()?);
    let _place = evaluation_place(api, min_version).await?;
    api.authenticator.answers(caller, 1)?;
    let explained = explanation(api, caller, &input, &environment, &query).await?;
    let (mut body, event_batch, version) =
        answered(api, caller, &environment, &query, min_version, |call, event_sink| {
            let (Asked::These(asks), Subjects::One(subject)) = (&query.asked, &query.subjects) else {
                let several = "expected no contexts on this route; use evaluate/bulk for several contexts";
                return Err(Problem::of_field(StatusCode::UNPROCESSABLE_ENTITY, "contexts", several));
            };
            let (call_subject, mut body) = (call.call_subject(subject), Vec::with_capacity(body::ONE_BYTES));
            call.check_size(asks.as_slice(), query.subjects.as_slice())?;
            for ask in asks.as_slice() {
                call.check_permitted(&ask.flag)?;
                body::write_one(&mut body, call, ask, &call.answer(&call_subject, ask, event_sink));
            }
            Ok(body)
        })
        .await?;
    if let Some(explained) = explained {
        body::add_explanation(&mut body, explained.as_ref());
    }
    finish(api, &input, body, event_batch, version).await
}

/// Explains the evaluation if the request asks for it (`explain=true`), which needs the scope `read`, because an
/// explanation shows the flag's rules. `Some(None)`: there is no such flag.
async fn explanation(
    api: &Api,
    caller: &Caller,
    input: &Input,
    environment: &str,
    query: &Query<'_>,
) -> Result<Option<Option<Explained>>, Problem> {
    match input.parameter("explain").as_deref() {
        None | Some("false") => return Ok(None),
        Some("true") => {}
        Some(_) => {
            return Err(Problem::of_field(StatusCode::BAD_REQUEST, "explain", "expected true or false"));
        }
    }
    caller.may_in(Scope::Read, environment)?;
    let (Asked::These(asks), Subjects::One(subject)) = (&query.asked, &query.subjects) else {
        return Ok(None);
    };
    let Some(ask) = asks.as_slice().first() else { return Ok(None) };
    let snapshot = api.store.load_full();
    let flags = snapshot.environment(environment).map(|flags| &**flags);
    caller.restrictions().check_in_force(flags, &ask.flag)?;
    let owned = |text: &Option<Cow<'_, str>>| text.as_deref().map(str::to_owned);
    let request = ExplainRequest {
        environment: environment.to_owned(),
        flag_name: ask.flag.to_string(),
        user_id: owned(&subject.context.user_id),
        session_id: owned(&subject.context.session_id),
        context: subject.context_json.to_string(),
        versions: None,
        evaluated_at: None,
    };
    match api.manager.explain(api.completed(request)).await {
        Ok(explained) => Ok(Some(Some(explained))),
        Err(ManageError::Unknown | ManageError::NotReady) => Ok(Some(None)),
        Err(error) => Err(super::manage::problem(error)),
    }
}

/// Evaluates many flags, for one user or for many contexts, all from one snapshot.
#[utoipa::path(
    post,
    path = "/api/v1/feature-flags/evaluate/bulk",
    operation_id = "evaluateFlags",
    tag = "evaluation",
    params(
        EvaluationQuery,
        EvaluationHeaders
    ),
    request_body = BulkRequest,
    responses(
        (status = 200, description = "Evaluated", body = BulkAnswer),
        EvaluationProblems
    )
)]
pub(super) async fn bulk(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Evaluate>,
    unread: Undecodable,
) -> Result<Response, Problem> {
    let input = unread.read_for(&api, &caller).await?;
    let query = Query::many(&input.body).map_err(refused)?;
    let environment = environment_of(&api, &input, query.environment.as_deref());
    caller.check_environment(&environment)?;
    let min_version = query.min_version.max(input.min_version()?);
    let _place = evaluation_place(&api, min_version).await?;
    let (body, event_batch, version) =
        answered(&api, &caller, &environment, &query, min_version, |call, event_sink| {
            let all: Vec<Ask<'_>>;
            let asks = match &query.asked {
                Asked::These(asks) => asks.as_slice(),
                Asked::All(flags) => {
                    let names = call.permitted_names().unwrap_or_default();
                    all = names.into_iter().map(|name| flags.ask(name)).collect();
                    &all
                }
            };
            let subjects = query.subjects.as_slice();
            call.check_size(asks, subjects)?;
            api.authenticator.answers(&caller, asks.len() * subjects.len())?;
            event_sink.expect(asks.len(), subjects.len());
            Ok(match &query.subjects {
                Subjects::One(subject) => body::bulk(call, subject, asks, event_sink),
                Subjects::Many(subjects) => body::contexts(call, subjects, asks, event_sink),
            })
        })
        .await?;
    finish(&api, &input, body, event_batch, version).await
}

/// Evaluates a plain list of flags. The user and the session are given in the query.
#[utoipa::path(
    post,
    path = "/api/v1/feature-flags/evaluate/batch",
    operation_id = "evaluateFlagList",
    tag = "evaluation",
    params(
        ("user_id" = Option<String>, Query, description = "The targeting key"),
        ("session_id" = Option<String>, Query, description = "The session"),
        EvaluationQuery,
        EvaluationHeaders
    ),
    request_body = Vec<String>,
    responses(
        (status = 200, description = "Evaluated", body = BTreeMap<String, EvaluationResult>),
        EvaluationProblems
    )
)]
pub(super) async fn batch(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Evaluate>,
    unread: Undecodable,
) -> Result<Response, Problem> {
    let input = unread.read_for(&api, &caller).await?;
    let names = flag_names(&input.body).map_err(refused)?;
    let environment = environment_of(&api, &input, None);
    caller.check_environment(&environment)?;
    let min_version = input.min_version()?;
    let _place = evaluation_place(&api, min_version).await?;
    let mut subject = Subject { context_json: "{}".into(), ..Subject::default() };
    subject.context.user_id = input.parameter("user_id").filter(|user| !user.is_empty());
    subject.context.session_id = input.parameter("session_id").filter(|session| !session.is_empty());
    let asks: Vec<_> = names.into_iter().map(|name| Ask::new(name, None, None)).collect();
    let subjects = std::slice::from_ref(&subject);
    let kept = kept(&api, When::ReadPath, &environment, subjects, &asks, min_version).await;
    let answer = |call: &Call<'_>, event_sink: &mut EventSink<'_>| {
        call.check_size(&asks, subjects)?;
        api.authenticator.answers(&caller, asks.len())?;
        event_sink.expect(asks.len(), 1);
        Ok(body::batch(call, &subject, &asks, event_sink))
    };
    let (body, event_batch, version) = in_call(&api, &caller, &environment, &kept, answer)?;
    finish(&api, &input, body, event_batch, version).await
}

async fn answered(
    api: &Arc<Api>,
    caller: &Caller,
    environment: &str,
    query: &Query<'_>,
    min_version: Option<u64>,
    answer: impl FnOnce(&Call<'_>, &mut EventSink<'_>) -> Result<Vec<u8>, Problem>,
) -> Result<(Vec<u8>, EventBatch, u64), Problem> {
    let kept = match &query.asked {
        Asked::These(asks) => {
            let subjects = query.subjects.as_slice();
            kept(api, When::ReadPath, environment, subjects, asks.as_slice(), min_version).await
        }
        // Redis cannot list the flags of an environment; only the snapshot in memory can.
        Asked::All(_) => Vec::new(),
    };
    in_call(api, caller, environment, &kept, answer)
}

/// Environment named by the body, the query or the header, in this order; else the default one.
pub(super) fn environment_of<'i>(api: &'i Api, input: &'i Input, in_body: Option<&'i str>) -> Cow<'i, str> {
    let given = in_body.map(Cow::Borrowed).or_else(|| input.parameter("environment"));
    given
        .or_else(|| input.header(ENVIRONMENT_HEADER).map(Cow::Borrowed))
        .unwrap_or(Cow::Borrowed(&api.config.unleash.default_environment))
}

/// Answers a request from one snapshot. Returns the response body, the events, and the flags version.
fn in_call(
    api: &Arc<Api>,
    caller: &Caller,
    environment: &str,
    kept: &[Option<Kept>],
    answer: impl FnOnce(&Call<'_>, &mut EventSink<'_>) -> Result<Vec<u8>, Problem>,
) -> Result<(Vec<u8>, EventBatch, u64), Problem> {
    let snapshot = api.store.load();
    let call = Call::begin(api, caller, &snapshot, Path::Rest, environment).with_kept(kept);
    let answered = api.counts.count(Path::Rest, |tally| {
        let mut event_sink = call.event_sink(tally);
        answer(&call, &mut event_sink).map(|body| (body, event_sink.finish()))
    });
    let (body, event_batch) = answered?;
    Ok((body, event_batch, call.flags_version))
}

async fn finish(
    api: &Api,
    input: &Input,
    body: Vec<u8>,
    event_batch: EventBatch,
    version: u64,
) -> Result<Response, Problem> {
    let published = api.publisher.publish(event_batch.traced(input.trace())).await;
    published.map_err(|error| Problem::new(StatusCode::SERVICE_UNAVAILABLE, error).retry_after(1))?;
    Ok(json_answer(body, version))
}

impl Call<'_> {
    /// Refuses a request whose results would be too many or too large, before any of them is computed.
    pub(super) fn check_size(&self, asks: &[Ask<'_>], subjects: &[Subject<'_>]) -> Result<(), Problem> {
        let answers = asks.len().saturating_mul(subjects.len());
        if answers > MAX_ANSWERS {
            let message =
                format!("expected at most {MAX_ANSWERS} results (flags times contexts), got {answers}");
            return Err(Problem::of_field(StatusCode::UNPROCESSABLE_ENTITY, "flag_names", message));
        }
        let repeated = Repeated {
            environment: self.environment,
            flags: self.environment_flags(),
            request_id: None,
            record_bytes: 0,
        };
        let added = self.added_bytes(asks.len(), subjects);
        let subjects = subjects.iter().map(|subject| (&subject.context, subject.context_json.as_ref()));
        let bytes = result_bytes(&repeated, asks, subjects);
        let echoed = bytes.echoed.saturating_add(added);
        let (total, limit) = match echoed > MAX_ECHO_BYTES {
            true => (echoed, MAX_ECHO_BYTES),
            false => (bytes.total().saturating_add(added), MAX_RESULT_BYTES),
        };
        if total <= limit {
            return Ok(());
        }
        let detail = format!(
            "each result repeats its context, ids, environment and default: they could take up to {total} bytes, and \
             the limit is {limit}; request fewer flags or contexts, or shorten the context"
        );
        Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail))
    }
}
