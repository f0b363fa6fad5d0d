//! The stream of definitions for server SDKs, as server-sent events.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use futures_util::stream;
use tokio::time::{Instant, sleep_until};

use crate::config::StreamingMode;
use crate::http::Problem;
use crate::http::api::Api;
use crate::http::caller::Peer;
use crate::http::listeners::{ListenerPlace, disable_buffering};
use crate::http::openapi::unleash::SdkStream;
use crate::metrics::DropLabels;
use crate::unleash_api::streams::{Listener, poll_instead};

use super::{BackendCaller, not_loaded};

/// Interval of comments on a stream without changes. SDKs reconnect after 60 s without data.
const HEARTBEAT: Duration = Duration::from_secs(15);

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new().route("/api/client/streaming", get(streaming))
}

/// State of one open stream.
struct Stream {
    api: Arc<Api>,
    listener: Listener,
    /// Frame that is sent first.
    first: Option<Bytes>,
    /// Completes when the caller's token is no longer valid.
    void: Pin<Box<dyn Future<Output = ()> + Send>>,
    heartbeat_at: Instant,
    _place: ListenerPlace,
}

/// Streams the definitions of all flags, and then every change, for server SDKs.
///
/// Events: `unleash-connected` with all definitions, `unleash-updated` for changes, and `fetch-mode`.
#[utoipa::path(
    get,
    path = "/api/client/streaming",
    operation_id = "sdkFollowFeatures",
    tag = "unleash",
    responses(SdkStream)
)]
pub(super) async fn streaming(
    State(api): State<Arc<Api>>,
    BackendCaller(caller): BackendCaller,
    peer: Option<Extension<Peer>>,
) -> Result<Response, Problem> {
    if api.config.unleash_api.streaming == StreamingMode::Off {
        return Ok(response(Body::from(poll_instead())));
    }
    let place = api.listeners.take(peer.map(|Extension(peer)| peer), &api.metrics.http.listeners)?;
    let unavailable = || not_loaded(&api, &caller.selection().environment);
    if !api.store.is_ready() {
        return Err(unavailable());
    }
    let set = caller.unleash.flag_sets.of(caller.selection());
    let (first, listener) = caller.unleash.streams.listen(&set).ok_or_else(unavailable)?;
    let void = Box::pin(caller.until_void());
    let heartbeat_at = Instant::now() + HEARTBEAT;
    let stream = Stream { api, listener, first: Some(first), void, heartbeat_at, _place: place };
    Ok(response(Body::from_stream(stream::unfold(stream, Stream::next))))
}

impl Stream {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        let Self { api, listener, first, void, heartbeat_at, .. } = &mut self;
        let frame = match first.take() {
            Some(first) => first,
            None => tokio::select! {
                () = api.shutdown.cancelled() => return None,
                () = void => return None,
                received = listener.frames.recv() => match received {
                    Ok(frame) => frame,
                    // The SDK reconnects and receives all definitions.
                    Err(_) => {
                        let labels = DropLabels { what: "listener", reason: "slow" };
                        api.metrics.dropped.get_or_create(&labels).inc();
                        return None;
                    }
                },
                () = sleep_until(*heartbeat_at) => Bytes::from_static(b":\n\n"),
            },
        };
        self.heartbeat_at = Instant::now() + HEARTBEAT;
        Some((Ok(frame), self))
    }
}

fn response(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    disable_buffering(&mut response);
    response
}
