//! `GET /api/v1/changes` and the equivalent for OpenFeature providers: versioned flag changes as server-sent events.
//!
//! Each stream is a position in the ring buffer that all streams share ([`crate::store::changes`]). The id of an event
//! is a version. A client that reconnects with it as `Last-Event-ID` receives the changes since then, or a reset event
//! if they are no longer in the buffer.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use futures_util::stream;
use serde::Serialize;

use crate::auth::FlagFacts;
use crate::message::change::ChangeKind;
use crate::metrics::DropLabels;
use crate::store::changes::{Belonging, Changed, Follower};

use super::Problem;
use super::api::Api;
use super::caller::{Authorized, Caller, Peer, RequiredScope, scope};
use super::input::last_parameter;
use super::listeners::{ListenerPlace, disable_buffering};
use super::ofrep::Failure;
use super::openapi::calls::{OfrepStream, OfrepStreamQuery, Stream, StreamHeaders, StreamQuery};
use super::ticket;

const HEARTBEAT: Duration = Duration::from_secs(15);
/// Delay that clients are asked to wait before they reconnect.
const RETRY: Duration = Duration::from_secs(1);

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new().route("/api/v1/changes", get(changes)).route(OFREP_STREAM, get(openfeature))
}

/// Path of the stream that asks OpenFeature providers to evaluate again.
pub(super) const OFREP_STREAM: &str = "/ofrep/v1/changes";

/// Format of the events.
#[derive(Debug, Clone, Copy)]
enum Dialect {
    Own,
    OpenFeature,
}

#[derive(Serialize)]
struct ChangeNotice<'c> {
    event_type: ChangeKind,
    flag_name: &'c str,
    environment: &'c str,
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_version: Option<u64>,
}

/// State of one open stream.
struct Listener {
    api: Arc<Api>,
    caller: Caller,
    /// Completes when the caller's token is no longer valid.
    void: Pin<Box<dyn Future<Output = ()> + Send>>,
    dialect: Dialect,
    /// Only changes of this environment are sent. `None`: changes of all environments that the caller may see.
    environment: Option<String>,
    follower: Follower,
    /// Events that are ready to be sent.
    ready: VecDeque<Event>,
    _place: ListenerPlace,
}

/// Streams changes of flags.
#[utoipa::path(
    get,
    path = "/api/v1/changes",
    operation_id = "followChanges",
    tag = "changes",
    params(StreamQuery, StreamHeaders),
    responses(Stream)
)]
pub(super) async fn changes(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Read>,
    peer: Option<Extension<Peer>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    listen(api, caller, Dialect::Own, peer, query.as_deref(), &headers)
}

/// Streams events that ask providers to evaluate again.
#[utoipa::path(
    get,
    path = "/ofrep/v1/changes",
    operation_id = "ofrepFollowChanges",
    tag = "openfeature",
    params(StreamQuery, OfrepStreamQuery, StreamHeaders),
    responses(OfrepStream)
)]
pub(super) async fn openfeature(
    State(api): State<Arc<Api>>,
    caller: Result<Caller, Problem>,
    peer: Option<Extension<Peer>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let listening = listen_as_provider(api, caller, peer, query.as_deref(), &headers);
    listening.unwrap_or_else(|problem| Failure::from(problem).into_response(None))
}

fn listen_as_provider(
    api: Arc<Api>,
    caller: Result<Caller, Problem>,
    peer: Option<Extension<Peer>>,
    query: Option<&str>,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let caller = caller?;
    // The scope is checked afterwards, because a ticket can name another caller.
    let given = |name| last_parameter(query, name);
    let caller = match given("ticket").filter(|_| !headers.contains_key(header::AUTHORIZATION)) {
        Some(ticket) => {
            ticket::redeem(&api.authenticator, &ticket, &given("environment").unwrap_or_default())?
        }
        None => caller,
    };
    let caller = Authorized::<scope::Evaluate>::check(caller)?;
    listen(api, caller, Dialect::OpenFeature, peer, query, headers)
}

fn listen<S: RequiredScope>(
    api: Arc<Api>,
    caller: Authorized<S>,
    dialect: Dialect,
    peer: Option<Extension<Peer>>,
    query: Option<&str>,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let peer = peer.map(|Extension(peer)| peer);
    let environment = last_parameter(query, "environment").map(Cow::into_owned);
    if let Some(environment) = &environment {
        caller.check_environment(environment)?;
    }
    let place = api.listeners.take(peer, &api.metrics.http.listeners)?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse::<u64>().ok());
    let changes = api.store.changes();
    let (follower, first) = match last.map(|version| changes.follow_after(version)) {
        Some(Ok(follower)) => (follower, None),
        Some(Err(_)) => (changes.follow(), Some(dialect.reset(api.store.version()))),
        // Carries no change, but gives the client a position to resume from if it is disconnected before the first
        // change.
        None => (changes.follow(), Some(Event::default().id(api.store.version().to_string()))),
    };
    let ready = first.map(|event| event.retry(RETRY)).into_iter().collect();
    let caller = caller.into_caller();
    let void = Box::pin(caller.clone().until_void());
    let listener = Listener { api, caller, void, dialect, environment, follower, ready, _place: place };
    let events = stream::unfold(listener, Listener::next);
    let mut response =
        Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT).text("heartbeat")).into_response();
    disable_buffering(&mut response);
    Ok(response)
}

impl Listener {
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some((Ok(event), self));
            }
            let Self { api, follower, void, .. } = &mut self;
            let found = tokio::select! {
                () = api.shutdown.cancelled() => return None,
                () = void => return None,
                found = follower.next(api.store.changes()) => found,
            };
            let Ok(found) = found else {
                // The client reconnects and then receives a reset event.
                let labels = DropLabels { what: "listener", reason: "slow" };
                self.api.metrics.dropped.get_or_create(&labels).inc();
                return None;
            };
            let mut mine = found.iter().filter(|change| self.wants(change));
            self.ready = match self.dialect {
                Dialect::Own => mine.map(|change| tell(change)).collect(),
                // One event is enough for all changes: the provider evaluates all flags again.
                Dialect::OpenFeature => {
                    mine.next_back().map(|last| refetch(last.version)).into_iter().collect()
                }
            };
        }
    }

    fn wants(&self, change: &Changed) -> bool {
        let is_there = match self.environment.as_deref() {
            Some(wanted) => wanted == &*change.environment,
            None => self.caller.sees(&change.environment),
        };
        is_there && self.may_see(change)
    }

    /// Whether the caller's restrictions allow the flag as it is after the change, or as it was before.
    fn may_see(&self, change: &Changed) -> bool {
        let within = self.caller.restrictions();
        let mut whose = [&change.before, &change.after].into_iter().flatten();
        within.is_empty()
            || whose.any(|Belonging { project, owner }| {
                let (project, owner) = (project.as_deref(), owner.as_deref());
                within.check(&FlagFacts { name: &change.flag, project, owner }).is_ok()
            })
    }
}

impl Dialect {
    /// Builds the event for a client that missed changes: any flag may differ from what it knows.
    fn reset(self, version: u64) -> Event {
        match self {
            Self::Own => {
                let data = format!(r#"{{"event_type":"RESET","version":{version}}}"#);
                Event::default().id(version.to_string()).data(data)
            }
            Self::OpenFeature => refetch(version),
        }
    }
}

fn tell(change: &Changed) -> Event {
    let told = ChangeNotice {
        event_type: change.kind,
        flag_name: &change.flag,
        environment: &change.environment,
        version: change.version,
        previous_version: change.previous_version,
    };
    let data = serde_json::to_string(&told).unwrap_or_default();
    Event::default().id(change.version.to_string()).data(data)
}

fn refetch(version: u64) -> Event {
    // Versions are timestamps in milliseconds, or slightly ahead of them.
    let seconds = version / 1_000;
    let data = format!(r#"{{"type":"refetchEvaluation","etag":"v{version}","lastModified":{seconds}}}"#);
    Event::default().id(version.to_string()).event("message").data(data)
}
