//! Impressions that frontend SDKs report: what a browser has shown becomes exposure events.
//!
//! ```text
//!  report ─► evaluated here with the flags in force ─┬─ same result: event with the flag's version
//!                                                    └─ another result: event with what was reported, without a version
//!  both ─► repeats, which evaluations for frontend SDKs share ─► outbox
//! ```

use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Router};

use crate::auth::Restrictions;
use crate::config::RecordedEvents;
use crate::flag::value::{Lookup, OutcomeParts, natural_answer};
use crate::flag::{Answer, CompiledFlag, Outcome};
use crate::http::Problem;
use crate::http::api::Api;
use crate::http::call::{Call, CallSubject, EventSink, Reported};
use crate::http::caller::Peer;
use crate::http::counts::Path;
use crate::http::openapi::unleash::{SdkImpression, SdkReportProblems};
use crate::http::places::Pool;
use crate::message::event::EventSource;
use crate::message::request::{Ask, Subject, context as read_context, generated_session};
use crate::outbox::EventBatch;
use crate::unleash_api::flag_sets::Selected;
use crate::unleash_api::impressions::{self, Asked, ImpressionError, ReportedImpression};
use crate::unleash_api::repeats::{Admission, Impression, Repeats};

use super::frontend::Unrecorded;
use super::report::FRONTEND_PATHS;
use super::{FrontendCaller, Sdk, SdkCaller, address};

pub(super) fn routes() -> Router<Arc<Api>> {
    FRONTEND_PATHS.into_iter().fold(Router::new(), |routes, path| {
        routes.route(&format!("{path}/client/events"), post(report_impressions))
    })
}

/// Takes impression events of a frontend SDK: what a browser has shown. They become exposure events.
///
/// The body is a list of up to 1,000 events, or a single event.
#[utoipa::path(
    post,
    path = "/api/frontend/client/events",
    operation_id = "sdkReportImpressions",
    tag = "unleash",
    request_body = Vec<SdkImpression>,
    responses((status = 202, description = "Accepted"), SdkReportProblems)
)]
pub(super) async fn report_impressions(
    State(api): State<Arc<Api>>,
    FrontendCaller(caller): FrontendCaller,
    peer: Option<Extension<Peer>>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let body = api.bodies.read(body).await?;
    let _place = api.places.take(Pool::Evaluation)?;
    let address = address(&api, &parts.headers, peer.map(|Extension(peer)| peer));
    let recorded = record(&api, &caller, &parts.headers, address, impressions::read(&body)?)?;
    let Recorded { event_batch, admitted } = recorded;
    if let Err(error) = api.publisher.publish_surely(event_batch).await {
        // The SDK may send the report again.
        admitted.into_iter().for_each(|admission| caller.unleash.repeats.forget(admission));
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, error).retry_after(1));
    }
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Events of a report, and the impressions that they record.
struct Recorded {
    event_batch: EventBatch,
    admitted: Vec<Admission>,
}

fn record(
    api: &Api,
    caller: &SdkCaller,
    headers: &HeaderMap,
    address: Option<IpAddr>,
    mut reported: Vec<ReportedImpression>,
) -> Result<Recorded, Problem> {
    let snapshot = api.store.load();
    let selection = caller.selection();
    let selected = caller.selected(api, &snapshot)?;
    let contexts = contexts(&mut reported, address)?;
    let subjects = subjects(&reported, &contexts)?;
    let (sdk, none) = (Sdk::of(headers), Restrictions::none());
    let call = Call::begin_within(api, none, &snapshot, Path::Unleash, &selection.environment);
    let recorder = Recorder {
        call: &call,
        selected: &selected,
        repeats: &caller.unleash.repeats,
        events: api.config.unleash_api.events,
    };
    Ok(api.counts.count(Path::Unleash, |tally| {
        let mut event_sink = call.event_sink(tally);
        event_sink.expect(reported.len(), 1);
        let mut admitted = Vec::new();
        for (impression, subject) in reported.iter().zip(&subjects) {
            let app = sdk.app.or(subject.context.app_name.as_deref());
            let source = EventSource::Sdk { app, connection: sdk.connection };
            let id = impression.id.as_deref();
            let call_subject = call.call_subject(subject).reported(Reported { id, source });
            admitted.extend(recorder.record(impression, &call_subject, &mut event_sink));
        }
        Recorded { event_batch: event_sink.finish(), admitted }
    }))
}

/// The contexts of all impressions as JSON. Those without user and session share one generated session, because they
/// come from one browser.
fn contexts(reported: &mut [ReportedImpression], address: Option<IpAddr>) -> Result<Vec<String>, Problem> {
    let session = generated_session(rand::random());
    let json = |impression: &mut ReportedImpression| {
        let context = std::mem::take(&mut impression.context).at(address);
        let json = context.identified_by(|| session.clone()).into_json();
        json.map_err(|error| wrong_context(Problem::from(error.clone()).status, impression, error))
    };
    reported.iter_mut().map(json).collect()
}

fn subjects<'j>(
    reported: &[ReportedImpression],
    contexts: &'j [String],
) -> Result<Vec<Subject<'j>>, Problem> {
    let subject = |(impression, json): (&ReportedImpression, &'j String)| match read_context(json) {
        Ok(context) => Ok(Subject { context, context_json: json.as_str().into() }),
        Err(error) => Err(wrong_context(StatusCode::BAD_REQUEST, impression, error)),
    };
    reported.iter().zip(contexts).map(subject).collect()
}

fn wrong_context(status: StatusCode, impression: &ReportedImpression, error: impl Display) -> Problem {
    Problem::of_field(status, &format!("{}context", impression.at), error.to_string())
}

/// Decides which reported impressions become events.
struct Recorder<'r, 'c> {
    call: &'r Call<'c>,
    selected: &'c Selected,
    repeats: &'r Repeats,
    events: RecordedEvents,
}

impl<'c> Recorder<'_, 'c> {
    /// Counts an impression, and writes its event if it is to be recorded.
    fn record(
        &self,
        reported: &ReportedImpression,
        call_subject: &CallSubject<'_>,
        event_sink: &mut EventSink<'_>,
    ) -> Option<Admission> {
        let Some(flag) = self.find(&reported.flag) else {
            self.call.count_answer(&natural_answer(&reported.flag, Lookup::NotFound), event_sink);
            event_sink.unrecorded(Unrecorded::UnknownFlag);
            return None;
        };
        let context = call_subject.context();
        let joined = self.call.join(call_subject, &flag.name);
        let completed = joined.as_ref().map(|joined| self.call.complete(call_subject, joined));
        let seen = call_subject.seen(completed.as_ref());
        let outcome = self.selected.environment.evaluate_flag(flag, seen.context, &self.call.moment());
        let is_in_force = is_result(reported, &outcome);
        let answer = match is_in_force {
            true => natural_answer(&flag.name, Lookup::Found(outcome)),
            false => as_reported(reported, flag),
        };
        self.call.count_answer(&answer, event_sink);
        let impression = Impression {
            environment: self.call.environment,
            subject: context.user_id.as_deref().or(context.session_id.as_deref()).unwrap_or_default(),
            flag: &flag.name,
            version: answer.flag_version.unwrap_or_default(),
            enabled: answer.enabled,
            variant: answer.variant,
        };
        match self.admit(&impression, is_in_force) {
            Ok(admission) => {
                let ask = Ask::new(flag.name.as_ref().into(), None, None);
                self.call.write_event(call_subject, seen, &ask, &answer, None, event_sink);
                Some(admission)
            }
            Err(reason) => {
                event_sink.unrecorded(reason);
                None
            }
        }
    }

    /// Decides whether an impression becomes an event. It does so whether or not its flag has impression data, because
    /// the application has chosen to report it.
    fn admit(&self, impression: &Impression<'_>, is_in_force: bool) -> Result<Admission, Unrecorded> {
        match self.events {
            RecordedEvents::None => Err(Unrecorded::Off),
            // The evaluation that gave the SDK this result is an event already.
            RecordedEvents::All if is_in_force => Err(Unrecorded::Repeated),
            RecordedEvents::All | RecordedEvents::Impressions => {
                self.repeats.admit(impression).ok_or(Unrecorded::Repeated)
            }
        }
    }

    fn find(&self, name: &str) -> Option<&'c Arc<CompiledFlag>> {
        let found = self.selected.flags.binary_search_by(|flag| (*flag.name).cmp(name)).ok()?;
        self.selected.flags.get(found)
    }
}

/// Whether the report has the result of the flags in force. SDKs have no variant of a flag that is off.
fn is_result(reported: &ReportedImpression, outcome: &Outcome<'_>) -> bool {
    let shown = outcome.variant.filter(|_| outcome.enabled).map(|(_, variant)| &*variant.name);
    reported.enabled == outcome.enabled
        && match &reported.asked {
            Asked::Enabled => true,
            Asked::Variant(name) => name.as_deref() == shown,
        }
}

/// Answer with what the SDK has shown, which is not the result of the flags in force: they have changed since, or the SDK
/// was started with other flags.
fn as_reported<'a>(reported: &'a ReportedImpression, flag: &'a CompiledFlag) -> Answer<'a> {
    let name = match &reported.asked {
        Asked::Variant(Some(name)) if reported.enabled => Some(name.as_str()),
        _ => None,
    };
    let payload = |name: &str| {
        let variant = flag.variants().iter().find(|variant| *variant.name == *name);
        variant.and_then(|variant| variant.payload.as_ref())
    };
    let parts = OutcomeParts {
        enabled: reported.enabled,
        killed: false,
        variant: name.map(|name| (name, payload(name))),
        unmet: None,
        flag_version: 0,
        assignment: None,
    };
    let answer = natural_answer(&flag.name, Lookup::OutcomeParts(parts));
    Answer { flag_version: None, ..answer }
}

impl From<ImpressionError> for Problem {
    fn from(error: ImpressionError) -> Self {
        match error {
            ImpressionError::Field { field, message } => {
                Self::of_field(StatusCode::BAD_REQUEST, &field, message)
            }
            ImpressionError::Form(_) => Self::of_field(StatusCode::BAD_REQUEST, "body", error.to_string()),
            ImpressionError::TooMany(_) => {
                Self::of_field(StatusCode::PAYLOAD_TOO_LARGE, "body", error.to_string())
            }
        }
    }
}
