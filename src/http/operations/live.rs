//! `GET /api/v1/evaluations/stream`: evaluations as they are committed, as server-sent events.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::json;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::doc::StreamFilterQuery;
use super::evaluations::selection;
use crate::http::Problem;
use crate::http::api::Api;
use crate::http::caller::{Authorized, Peer, scope};
use crate::http::listeners::{ListenerPlace, disable_buffering};
use crate::http::manage::params::Params;
use crate::http::openapi::calls::Stream;
use crate::live::{LiveFilter, WATCHERS_MAX_COUNT, Watching};

/// Interval of the events with counts, which also show that the stream is alive.
const COUNTS_INTERVAL: Duration = Duration::from_secs(1);
const HEARTBEAT: Duration = Duration::from_secs(15);

/// State of one open stream.
struct Viewer {
    watching: Watching,
    counts: Interval,
    /// Completes when the caller's token is no longer valid.
    void: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Whether the first event, which shows that the stream is open, was sent.
    is_open: bool,
    _place: ListenerPlace,
}

/// Streams evaluations as they are committed.
///
/// The comment `open` says that every later evaluation is seen. Each event `evaluation` is one evaluation. At most 200 per second are sent. Each second an event `counts` says how many
/// evaluations `matched`, and how many of them were `left_out`. Users, sessions, request ids and contexts are sent with the
/// scope `audit`.
#[utoipa::path(
    get,
    path = "/api/v1/evaluations/stream",
    operation_id = "followEvaluations",
    tag = "operations",
    params(StreamFilterQuery),
    responses(
        Stream,
        (status = 422, description = "A parameter has an invalid value", body = crate::http::openapi::schema::ProblemDetails, content_type = "application/problem+json")
    )
)]
pub(in crate::http) async fn stream(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Read>,
    peer: Option<Extension<Peer>>,
    ask: Params,
) -> Result<Response, Problem> {
    let selection = selection(&caller, &ask)?;
    let place = api.listeners.take(peer.map(|Extension(peer)| peer), &api.metrics.http.listeners)?;
    let within = caller.restrictions();
    let filter = LiveFilter {
        selection,
        with_users: caller.may_audit(),
        within: (!within.is_empty()).then(|| (Arc::new(within.clone()), Arc::clone(&api.store))),
    };
    let watching = api.live.watch(filter).ok_or_else(|| {
        let detail =
            format!("the limit of {WATCHERS_MAX_COUNT} open streams of evaluations is reached; retry later");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(5)
    })?;
    let mut counts = interval(COUNTS_INTERVAL);
    counts.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let viewer = Viewer {
        watching,
        counts,
        void: Box::pin(caller.into_caller().until_void()),
        is_open: false,
        _place: place,
    };
    let events = stream::unfold(viewer, Viewer::next);
    let mut response =
        Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT).text("heartbeat")).into_response();
    disable_buffering(&mut response);
    Ok(response)
}

impl Viewer {
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        if !std::mem::replace(&mut self.is_open, true) {
            tokio::select! {
                () = &mut self.void => return None,
                () = self.watching.positioned() => {}
            }
            return Some((Ok(Event::default().comment("open")), self));
        }
        let event = tokio::select! {
            () = &mut self.void => return None,
            _ = self.counts.tick() => {
                let (matched, left_out) = self.watching.counts();
                let data = json!({"matched": matched, "left_out": left_out}).to_string();
                Event::default().event("counts").data(data)
            }
            event = self.watching.next() => {
                let data = serde_json::to_string(&event?).unwrap_or_default();
                Event::default().event("evaluation").data(data)
            }
        };
        Some((Ok(event), self))
    }
}
