//! Accepts connections, serves them within timeouts, and lets open responses finish at shutdown.
//!
//! ```text
//!  accept ─► slot (connections.rs) ─► TLS handshake ─► first request within 10 s ─► requests ─► idle: closed
//! ```

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use axum::routing::future::RouteFuture;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_io_timeout::TimeoutStream;
use tokio_util::task::TaskTracker;

use crate::config::TlsConfig;
use crate::log_limit::LogLimit;
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;

use super::caller::Peer;
pub use super::connections::ConnectionLimits;
use super::connections::{CALL_CONNECTIONS, CallUnderWay, ConnectionGuard, Connections, Use};
use super::fd_limit;
use super::tls::Tls;

/// Timeout from accepting a connection to its first complete request header, including the TLS handshake.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout for a request header to arrive; over HTTP/1 also for the next request of a keep-alive connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection without a request in progress is closed after this time, over any protocol.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Grace period for the peer of an idle connection to react to a graceful close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval of the pings on an HTTP/2 connection.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);
/// Time for the answer of an HTTP/2 ping, after which the connection is closed.
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Upper bound of the headers of a request, in bytes.
const MAX_HEADER_BYTES: usize = 64 << 10;
/// Timeout of a call, after which it is answered with status 504.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Timeout for a peer to read a part of what it is sent. A peer that reads nothing would otherwise hold its connection
/// forever.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Grace period at shutdown for open responses.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Delay after an error of the listener, for example when file descriptors run out. An immediate retry would loop
/// without effect.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// TCP stream that fails when its peer reads nothing for too long.
pub(super) type Stream = Pin<Box<TimeoutStream<TcpStream>>>;

/// Timeouts of a connection; tests shorten them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    pub(super) first_request: Duration,
    pub(super) idle: Duration,
    pub(super) write: Duration,
}

/// A bound listener.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    tls: Option<Tls>,
    metrics: Option<Arc<Metrics>>,
    pub(super) limits: ConnectionLimits,
    pub(super) timeouts: Timeouts,
}

impl Server {
    /// Binds `address`. An error contains the address and the name of the setting.
    pub async fn bind(setting: &str, address: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("cannot listen on {address} ({setting})"))?;
        let limits = ConnectionLimits { max: CALL_CONNECTIONS, max_per_address: CALL_CONNECTIONS };
        let timeouts =
            Timeouts { first_request: FIRST_REQUEST_TIMEOUT, idle: IDLE_TIMEOUT, write: WRITE_TIMEOUT };
        Ok(Self { listener, tls: None, metrics: None, limits, timeouts })
    }

    /// Serves TLS only on this listener.
    pub fn encrypt(&mut self, config: &TlsConfig) -> anyhow::Result<()> {
        self.tls = Some(Tls::load(config)?);
        Ok(())
    }

    /// TLS of this listener, `None` if it serves plain HTTP.
    pub fn tls(&self) -> Option<Tls> {
        self.tls.clone()
    }

    /// Sets the limits of open connections, and counts connections that are closed or refused because of them.
    pub fn limit(&mut self, limits: ConnectionLimits, metrics: Arc<Metrics>) {
        self.limits = limits;
        self.metrics = Some(metrics);
    }

    /// The bound address, with the port that the system chose for port 0.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves `router` until `shutdown`, then lets open responses finish.
    pub async fn run(self, router: Router, shutdown: Shutdown) -> anyhow::Result<()> {
        let limits = ConnectionLimits { max: fd_limit::raise_for(self.limits.max), ..self.limits };
        let (tasks, builder) = (TaskTracker::new(), Arc::new(builder()));
        let connections = Connections::new(limits, self.metrics);
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = accept(&self.listener) => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    // If no slot is free, the socket is closed at once, so that the peer notices and can retry.
                    let Some(place) = connections.admit(peer.ip()) else { continue };
                    let connection = Connection {
                        peer: Peer(peer.ip()),
                        builder: Arc::clone(&builder),
                        router: router.clone(),
                        timeouts: self.timeouts,
                        shutdown: shutdown.clone(),
                        place: Arc::new(place),
                    };
                    let mut stream = TimeoutStream::new(stream);
                    stream.set_write_timeout(Some(self.timeouts.write));
                    tasks.spawn(connection.serve(Box::pin(stream), self.tls.clone()));
                }
                Err(error) => {
                    static LIMIT: LogLimit = LogLimit::new();
                    if let Some(suppressed) = LIMIT.admit() {
                        tracing::warn!(%error, suppressed, "cannot accept a connection; retrying");
                    }
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
        drop(self.listener);
        tasks.close();
        if timeout(DRAIN_TIMEOUT, tasks.wait()).await.is_err() {
            // Not limited: once at the end of a listener.
            tracing::warn!("shutdown: open responses were aborted after {} s", DRAIN_TIMEOUT.as_secs());
        }
        Ok(())
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(HTTP2_PING_TIMEOUT)
        .max_header_list_size(MAX_HEADER_BYTES as u32);
    builder
}

async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, peer) = listener.accept().await?;
    // Without `TCP_NODELAY`, a small response would wait for the acknowledgement of the one before.
    stream.set_nodelay(true)?;
    Ok((stream, peer))
}

/// State needed to serve one connection.
struct Connection {
    builder: Arc<auto::Builder<TokioExecutor>>,
    peer: Peer,
    router: Router,
    timeouts: Timeouts,
    shutdown: Shutdown,
    place: Arc<ConnectionGuard>,
}

impl Connection {
    /// Serves until the connection ends or must be closed in favour of a new one.
    async fn serve(self, stream: Stream, tls: Option<Tls>) {
        let place = Arc::clone(&self.place);
        tokio::select! {
            () = self.serve_from_handshake(stream, tls) => {}
            () = place.closing() => tracing::debug!("a connection was closed in favour of a new one"),
        }
    }

    async fn serve_from_handshake(self, stream: Stream, tls: Option<Tls>) {
        let deadline = Instant::now() + self.timeouts.first_request;
        let Some(tls) = tls else { return self.serve_on(stream, deadline).await };
        match timeout_at(deadline, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.serve_on(stream, deadline).await,
            Ok(Err(error)) => tracing::debug!("a TLS handshake failed: {error:#}"),
            Err(_) => {
                self.place.connections().count("handshake");
                tracing::debug!("a TLS handshake took too long");
            }
        }
    }

    /// Serves until the peer closes or a timeout expires: no request until `first_deadline`, or idle for too long.
    async fn serve_on(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        first_deadline: Instant,
    ) {
        let Self { builder, peer, router, timeouts, shutdown, place } = self;
        let calls = Calls { router, peer, place: Arc::clone(&place) };
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), calls));
        let mut check = pin!(sleep_until(first_deadline));
        let (mut stopping, mut closing) = (false, false);
        loop {
            tokio::select! {
                ended = &mut connection => {
                    if let Err(error) = ended {
                        tracing::debug!("a connection ended early: {error}");
                    }
                    return;
                }
                () = shutdown.cancelled(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = &mut check => {
                    let next = match place.in_use() {
                        Use::Silent => {
                            place.connections().count("no_request");
                            return;
                        }
                        Use::Busy => timeouts.idle,
                        Use::Idle(idle) if idle < timeouts.idle => timeouts.idle - idle,
                        // The graceful close had its time, and the peer is still connected.
                        Use::Idle(_) if closing => return,
                        Use::Idle(_) => {
                            closing = true;
                            connection.as_mut().graceful_shutdown();
                            CLOSE_TIMEOUT
                        }
                    };
                    check.as_mut().reset(Instant::now() + next);
                }
            }
        }
    }
}

/// Answers the requests of one connection and records when they begin and end.
struct Calls {
    router: Router,
    peer: Peer,
    place: Arc<ConnectionGuard>,
}

impl hyper::service::Service<Request<Incoming>> for Calls {
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, mut request: Request<Incoming>) -> Answer {
        request.extensions_mut().insert(self.peer);
        let answer = tower::Service::call(&mut self.router.clone(), request);
        Answer { answer, call: Some(self.place.call()) }
    }
}

/// Response that is being produced.
struct Answer {
    answer: RouteFuture<Infallible>,
    call: Option<CallUnderWay>,
}

impl Future for Answer {
    type Output = Result<Response<AnswerBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let answered = std::task::ready!(Pin::new(&mut self.answer).poll(context));
        let call = self.call.take();
        Poll::Ready(answered.map(|response| response.map(|body| AnswerBody { body, _call: call })))
    }
}

/// Response body. The request ends with the body, not with the header, so a change stream counts as a request in
/// progress.
#[derive(Debug)]
struct AnswerBody {
    body: Body,
    _call: Option<CallUnderWay>,
}

impl hyper::body::Body for AnswerBody {
    type Data = axum::body::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
