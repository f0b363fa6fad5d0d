//! Listening, with limits: how many connections, how long a header, an idle connection and a stop may take.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt;

use crate::config::TlsConfig;
use crate::log_limit::LogLimit;
use crate::shutdown::Shutdown;

use super::caller::Peer;
use super::handles;
use super::tls::Tls;

/// Connections beyond this wait in the system's queue.
const MAX_CONNECTIONS: usize = 10_000;
/// For a request's header to arrive, and for the next request of a kept connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_HEADER_BYTES: usize = 64 << 10;
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// For a peer to take something of what it is sent: who reads nothing would hold its connection for ever.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// At shutdown, for answers under way.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// After an error of the listener (out of file handles, say): trying at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection that ends when its peer reads nothing for too long.
pub(super) type Stream = Pin<Box<TimeoutStream<TcpStream>>>;

/// A bound listener.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    tls: Option<Tls>,
    pub(super) write_timeout: Duration,
}

impl Server {
    /// Binds `address`; the error names it and the setting it came from.
    pub async fn bind(setting: &str, address: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("cannot listen on {address} ({setting})"))?;
        Ok(Self { listener, tls: None, write_timeout: WRITE_TIMEOUT })
    }

    /// From now on TLS only.
    pub fn encrypt(&mut self, config: &TlsConfig) -> anyhow::Result<()> {
        self.tls = Some(Tls::load(config)?);
        Ok(())
    }

    /// The certificate in use, if this listener has one.
    pub fn tls(&self) -> Option<Tls> {
        self.tls.clone()
    }

    /// The address in use, with the port that the system chose for port 0.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves `router` until `shutdown`, then lets answers under way finish.
    pub async fn run(self, router: Router, shutdown: Shutdown) -> anyhow::Result<()> {
        let max_connections = handles::raise_for(MAX_CONNECTIONS);
        let (graceful, builder) = (GracefulShutdown::new(), Arc::new(builder()));
        let connections = Arc::new(Semaphore::new(max_connections));
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = accept(&self.listener, &connections) => accepted,
            };
            match accepted {
                Ok((stream, peer, permit)) => {
                    let connection = Connection {
                        peer: Peer(peer),
                        builder: Arc::clone(&builder),
                        watcher: graceful.watcher(),
                        router: router.clone(),
                        _permit: permit,
                    };
                    let mut stream = TimeoutStream::new(stream);
                    stream.set_write_timeout(Some(self.write_timeout));
                    tokio::spawn(connection.serve(Box::pin(stream), self.tls.clone()));
                }
                Err(error) => {
                    static LIMIT: LogLimit = LogLimit::new();
                    if let Some(suppressed) = LIMIT.admit() {
                        tracing::warn!(%error, suppressed, "a connection could not be accepted");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.listener);
        if timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
            tracing::warn!("answers under way were given up");
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

async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> io::Result<(TcpStream, IpAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(connections).acquire_owned().await;
    let permit = permit.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    // Small answers must not wait for an acknowledgement of the ones before.
    stream.set_nodelay(true)?;
    Ok((stream, peer.ip(), permit))
}

/// What serving one connection takes.
struct Connection {
    builder: Arc<auto::Builder<TokioExecutor>>,
    watcher: Watcher,
    peer: Peer,
    router: Router,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    async fn serve(self, stream: Stream, tls: Option<Tls>) {
        let Some(tls) = tls else { return self.serve_on(stream).await };
        match timeout(HEADER_TIMEOUT, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.serve_on(stream).await,
            Ok(Err(error)) => tracing::debug!("a TLS handshake failed: {error:#}"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        }
    }

    async fn serve_on(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let peer = self.peer;
        let service = self.router.map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            request
        });
        let service = TowerToHyperService::new(service);
        let connection = self.builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        if let Err(error) = self.watcher.watch(connection).await {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}
