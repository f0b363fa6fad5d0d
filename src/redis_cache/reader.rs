//! Reads cached outcomes and rejects those that are older than the definitions known to be in force.

use std::sync::Arc;
use std::time::Duration;

use redis::{RedisError, Value};

use crate::config::Config;
use crate::log_limit::limited;
use crate::metrics::{Metrics, RedisCacheMetrics};
use crate::store::Store;

use super::client::Client;
use super::error::CacheError;
use super::writer::{command, number};
use super::{CachedOutcome, Subject, key};

/// Timeout of one read. A longer wait is not worth it, because evaluation takes microseconds.
const REDIS_TIMEOUT: Duration = Duration::from_millis(50);

/// Reads cached outcomes. Clones share a connection.
#[derive(Debug, Clone)]
pub struct Reader {
    client: Client,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
}

/// Result of a read.
#[derive(Debug, Clone, PartialEq)]
pub enum Read {
    Hit(Box<CachedOutcome>),
    Miss(Miss),
}

/// Reason why a read returned no outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// There is no value, or there can be none: the flag is unknown, or the key is too long.
    Absent,
    /// The value is older than the definitions in force.
    Stale,
    /// The value is not in flagstream's format.
    Unreadable,
    /// Redis does not respond.
    Unavailable,
}

impl Miss {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Stale => "stale",
            Self::Unreadable => "unreadable",
            Self::Unavailable => "unavailable",
        }
    }
}

impl Read {
    pub fn hit(self) -> Option<CachedOutcome> {
        match self {
            Self::Hit(warm) => Some(*warm),
            Self::Miss(_) => None,
        }
    }
}

impl Reader {
    /// Creates a reader without connecting. `None` if `REDIS_URL` is not set.
    pub fn new(
        config: &Config,
        store: Arc<Store>,
        metrics: Arc<Metrics>,
    ) -> Result<Option<Self>, RedisError> {
        let Some(url) = &config.redis.url else { return Ok(None) };
        let client = Client::new(url.expose(), REDIS_TIMEOUT)?;
        Ok(Some(Self { client, store, metrics }))
    }

    /// Last known error of the connection. `None`: there is none.
    pub fn cache_error(&self) -> Option<CacheError> {
        self.client.cache_error()
    }

    /// Reads one outcome.
    pub async fn read(&self, subject: &Subject<'_>, min_version: u64) -> Read {
        let mut reads = self.read_many(std::slice::from_ref(subject), min_version).await;
        reads.pop().unwrap_or(Read::Miss(Miss::Unavailable))
    }

    /// Connects in advance, so that the first read need not.
    pub async fn connect(&self) {
        if let Err(cache_error) = self.client.ready().await {
            limited!(
                warn,
                %cache_error,
                "cannot connect to the Redis cache; retrying on the next read",
            );
        }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Reads outcomes in the order of the subjects, in one round trip. No outcome is older than
    ///
    /// - the definition in force of the flag and of the flags it depends on,
    /// - the last change that a warmer has announced, even if this instance has not received it,
    /// - `min_version`, while the local store has not reached it.
    pub async fn read_many(&self, subjects: &[Subject<'_>], min_version: u64) -> Vec<Read> {
        let reads = self.ask(subjects, min_version).await.unwrap_or_else(|cache_error| {
            tracing::debug!(%cache_error, "the Redis cache could not be read");
            vec![Read::Miss(Miss::Unavailable); subjects.len()]
        });
        for read in &reads {
            let outcome = match read {
                Read::Hit(_) => "hit",
                Read::Miss(miss) => miss.as_str(),
            };
            RedisCacheMetrics::add(&self.metrics.redis_cache.reads, outcome, 1);
        }
        reads
    }

    async fn ask(&self, subjects: &[Subject<'_>], min_version: u64) -> Result<Vec<Read>, CacheError> {
        let link = self.client.link_soon().await?;
        let keys: Vec<_> = subjects.iter().map(Subject::keys).collect();
        let mut commands = Vec::with_capacity(subjects.len() * 2);
        for (subject, keys) in subjects.iter().zip(&keys) {
            if let Some(keys) = keys {
                commands.push(command("GET", &keys.evaluation));
                commands.push(command(
                    "GET",
                    &key::flag_min_version(&key::place(subject.environment, subject.flag)),
                ));
            }
        }
        let mut replies = self.client.send(&link, commands).await?.into_iter();
        let mut reads = Vec::with_capacity(subjects.len());
        for (subject, keys) in subjects.iter().zip(&keys) {
            if keys.is_none() {
                reads.push(Read::Miss(Miss::Absent));
                continue;
            }
            let (value, flag_min_version) = (replies.next(), replies.next());
            let flag_min_version = flag_min_version.as_ref().and_then(number);
            let flag_min_version = flag_min_version
                .ok_or_else(|| self.client.unexpected_reply(&link, "a floor is no number"))?;
            // Read after Redis has replied, so that changes in the meantime count.
            reads.push(match oldest(&self.store, subject.environment, subject.flag, min_version) {
                Some(oldest) => judge(value, oldest.max(flag_min_version)),
                None => Read::Miss(Miss::Absent),
            });
        }
        Ok(reads)
    }
}

/// Minimum version that an outcome must be based on. `None` if the flag is known not to exist.
pub(super) fn oldest(store: &Store, environment: &str, flag: &str, min_version: u64) -> Option<u64> {
    let snapshot = store.load();
    let min_version = if snapshot.version() < min_version { min_version } else { 0 };
    let known = snapshot.environment(environment);
    match known.and_then(|flags| Some((flags, flags.get(flag)?))) {
        Some((flags, flag)) => Some(snapshot.basis(flags, flag).max(min_version)),
        None if store.is_ready() => None,
        None => Some(min_version),
    }
}

fn judge(value: Option<Value>, oldest: u64) -> Read {
    match value {
        None | Some(Value::Nil) => Read::Miss(Miss::Absent),
        Some(Value::BulkString(value)) => match CachedOutcome::read(&value) {
            Some(warm) if warm.basis >= oldest => Read::Hit(Box::new(warm)),
            Some(_) => Read::Miss(Miss::Stale),
            None => Read::Miss(Miss::Unreadable),
        },
        Some(_) => Read::Miss(Miss::Unreadable),
    }
}
