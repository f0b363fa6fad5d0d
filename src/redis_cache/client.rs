//! Redis client for one server or a cluster, with or without TLS, that never blocks its callers for long.
//!
//! An error closes the connection. A new one is opened after a backoff; until then every call fails immediately. So an
//! unavailable Redis costs its callers an occasional timeout and nothing else.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::{Cmd, RedisError, Value};
use tokio::time::timeout;

use crate::kafka::backoff::Backoff;
use crate::log_limit::limited;

use super::connection::Connection;
use super::error::{CacheError, ends_connection};
use super::script::Script;

/// Timeout for connecting, authenticating and loading the scripts.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the circuit stays open after the first failure; it doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(50);
/// Longest time for which the circuit stays open.
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// Redis client. Clones share its connection.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    client: redis::Client,
    patience: Duration,
    /// Whether to use only one node, even of a cluster.
    direct: bool,
    state: Mutex<State>,
    /// Held by the caller that connects; the others fail meanwhile.
    connecting: tokio::sync::Mutex<()>,
}

struct State {
    link: Option<Handle>,
    made: u64,
    backoff: Backoff,
    not_before: Option<Instant>,
    cache_error: Option<CacheError>,
}

impl State {
    fn new() -> Self {
        let backoff = Backoff::new(MIN_BACKOFF, MAX_BACKOFF);
        Self { link: None, made: 0, backoff, not_before: None, cache_error: None }
    }
}

/// Open connection, with the hashes of the loaded scripts.
#[derive(Clone)]
pub(super) struct Handle {
    number: u64,
    way: Connection,
    hashes: Arc<[String]>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("patience", &self.patience).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Client {
    /// Creates a client for `redis://…` or `rediss://…` without connecting. `patience` is the timeout of each request.
    pub fn new(url: &str, patience: Duration) -> Result<Self, RedisError> {
        Ok(Self::of(redis::Client::open(url)?, patience, false))
    }

    fn of(client: redis::Client, patience: Duration, direct: bool) -> Self {
        let (state, connecting) = (Mutex::new(State::new()), tokio::sync::Mutex::default());
        Self { shared: Arc::new(Shared { client, patience, direct, state, connecting }) }
    }

    /// Connects if there is no connection.
    pub async fn ready(&self) -> Result<(), CacheError> {
        self.link().await.map(drop)
    }

    /// Error of the last attempt. `None` if it succeeded, or nothing was tried.
    pub fn cache_error(&self) -> Option<CacheError> {
        self.shared.state().cache_error.clone()
    }

    /// Returns the connection, and opens it if there is none.
    pub(super) async fn link(&self) -> Result<Handle, CacheError> {
        if let Some(link) = self.shared.present()? {
            return Ok(link);
        }
        let Ok(_connecting) = self.shared.connecting.try_lock() else {
            return Err(CacheError::CircuitOpen(MIN_BACKOFF));
        };
        if let Some(link) = self.shared.present()? {
            return Ok(link);
        }
        match timeout(CONNECT_TIMEOUT, Connection::open(&self.shared.client, self.shared.direct)).await {
            Ok(Ok((way, hashes))) => {
                let mut state = self.shared.state();
                state.made += 1;
                let link = Handle { number: state.made, way, hashes };
                state.link = Some(link.clone());
                Ok(link)
            }
            Ok(Err(error)) => Err(self.shared.failed(None, CacheError::of(&error))),
            Err(_) => Err(self.shared.failed(None, CacheError::Slow(CONNECT_TIMEOUT))),
        }
    }

    /// Like [`Client::link`], but waits no longer than for a request; connecting continues in the background.
    pub(super) async fn link_soon(&self) -> Result<Handle, CacheError> {
        if let Some(link) = self.shared.present()? {
            return Ok(link);
        }
        if self.shared.connecting.try_lock().is_err() {
            return Err(CacheError::CircuitOpen(MIN_BACKOFF));
        }
        let (client, patience) = (self.clone(), self.shared.patience);
        let connecting = tokio::spawn(async move { client.link().await });
        match timeout(patience, connecting).await {
            Ok(Ok(link)) => link,
            Ok(Err(error)) => Err(CacheError::Unreachable(error.to_string())),
            Err(_) => Err(CacheError::Slow(patience)),
        }
    }

    /// Sends commands and returns one reply for each, in order. An error reply that does not concern the connection is
    /// returned as a reply.
    pub(super) async fn send(&self, link: &Handle, commands: Vec<Cmd>) -> Result<Vec<Value>, CacheError> {
        let count = commands.len();
        if count == 0 {
            return Ok(Vec::new());
        }
        let patience = self.shared.patience;
        let replies = match timeout(patience, link.way.clone().send(commands)).await {
            Ok(Ok(replies)) => replies,
            Ok(Err(error)) => return Err(self.shared.failed(Some(link), CacheError::of(&error))),
            Err(_) => return Err(self.shared.failed(Some(link), CacheError::Slow(patience))),
        };
        if replies.len() != count {
            let message = format!("{} replies to {count} commands", replies.len());
            return Err(self.shared.failed(Some(link), CacheError::UnexpectedReply(message)));
        }
        if let Some(cache_error) = replies.iter().find_map(ends_connection) {
            return Err(self.shared.failed(Some(link), cache_error));
        }
        let mut state = self.shared.state();
        state.backoff.reset();
        state.cache_error = None;
        Ok(replies)
    }

    /// Closes a connection that sent an unexpected reply, and returns the error.
    pub(super) fn unexpected_reply(&self, link: &Handle, what: &str) -> CacheError {
        self.shared.failed(Some(link), CacheError::UnexpectedReply(what.to_owned()))
    }

    /// Returns one client per master of a cluster, or only this one without a cluster.
    pub(super) async fn masters(&self) -> Result<Vec<Self>, CacheError> {
        let link = self.link().await?;
        if !link.is_cluster() {
            return Ok(vec![self.clone()]);
        }
        let mut command = redis::cmd("CLUSTER");
        command.arg("NODES");
        let replies = self.send(&link, vec![command]).await?;
        let text: String = replies
            .into_iter()
            .next()
            .and_then(|reply| redis::from_redis_value(reply).ok())
            .unwrap_or_default();
        let info = self.shared.client.get_connection_info();
        let masters = text.lines().filter_map(master_address);
        let clients = masters.map(|(host, port)| {
            let address = match info.addr() {
                redis::ConnectionAddr::TcpTls { insecure, tls_params, .. } => redis::ConnectionAddr::TcpTls {
                    host,
                    port,
                    insecure: *insecure,
                    tls_params: tls_params.clone(),
                },
                _ => redis::ConnectionAddr::Tcp(host, port),
            };
            let client = redis::Client::open(info.clone().set_addr(address))
                .map_err(|error| CacheError::of(&error))?;
            Ok(Self::of(client, self.shared.patience, true))
        });
        clients.collect()
    }
}

/// Parses a line `id host:port@bus,name flags …` of `CLUSTER NODES`. `None` for a replica or an unavailable node.
fn master_address(line: &str) -> Option<(String, u16)> {
    let mut fields = line.split(' ');
    let address = fields.nth(1)?.split(['@', ',']).next()?;
    let flags = fields.next()?;
    let is_master =
        flags.split(',').any(|flag| flag == "master") && !flags.contains("fail") && !flags.contains("noaddr");
    let (host, port) = address.rsplit_once(':')?;
    is_master.then_some((host.to_owned(), port.parse().ok()?))
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the open connection, if any. An error means that the backoff has not elapsed.
    fn present(&self) -> Result<Option<Handle>, CacheError> {
        let state = self.state();
        if let Some(link) = &state.link {
            return Ok(Some(link.clone()));
        }
        let rest =
            state.not_before.map(|at| at.saturating_duration_since(Instant::now())).unwrap_or_default();
        if rest.is_zero() { Ok(None) } else { Err(CacheError::CircuitOpen(rest)) }
    }

    /// Closes the connection and starts the backoff.
    fn failed(&self, link: Option<&Handle>, cache_error: CacheError) -> CacheError {
        let mut state = self.state();
        // Only the first error of a connection counts; later ones concern a connection that is already closed.
        if link.map(|link| link.number) == state.link.as_ref().map(|link| link.number) {
            state.link = None;
            state.not_before = Some(Instant::now() + state.backoff.jittered());
            if state.cache_error.is_none() {
                limited!(warn, %cache_error, "Redis cannot be used; retrying");
            }
        }
        state.cache_error = Some(cache_error.clone());
        cache_error
    }
}

impl Handle {
    pub(super) fn is_cluster(&self) -> bool {
        self.way.is_cluster()
    }

    /// Starts a call of a script with this number of keys; the keys and arguments must be added.
    pub(super) fn call(&self, script: Script, keys: usize) -> Cmd {
        let mut command = match self.hashes.get(script.index()) {
            Some(hash) => {
                let mut command = redis::cmd("EVALSHA");
                command.arg(hash);
                command
            }
            // In a cluster it is unknown which nodes have loaded the script.
            None => {
                let mut command = redis::cmd("EVAL");
                command.arg(script.text());
                command
            }
        };
        command.arg(keys);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_are_told_from_replicas() {
        let line = |flags: &str| format!("07c3 10.0.0.1:6379@16379,name {flags} - 0 1 1 connected 0-5460");
        assert_eq!(master_address(&line("myself,master")), Some(("10.0.0.1".to_owned(), 6379)));
        for flags in ["slave", "master,fail", "master,noaddr"] {
            assert_eq!(master_address(&line(flags)), None, "{flags}");
        }
        assert_eq!(master_address(""), None);
    }

    #[tokio::test]
    async fn nobody_waits_for_a_redis_that_is_away() {
        let client =
            Client::new("redis://127.0.0.1:1", Duration::from_secs(1)).unwrap_or_else(|_| unreachable!());
        assert!(matches!(client.link().await, Err(CacheError::Unreachable(_))));
        assert!(matches!(client.link().await, Err(CacheError::CircuitOpen(_))));
        assert!(client.cache_error().is_some());
    }
}
