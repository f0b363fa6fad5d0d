//! The three cache layers of the edge API in Redis.
//!
//! | key | contents | lifetime |
//! |---|---|---|
//! | `flag_check:{environment}:{flag}:{user}` | whether a flag is enabled for a user | 30 s |
//! | `flag_endpoint:{environment}:{flag}:{user}` | response for a flag and a user | 60 s |
//! | `flag_endpoint:{environment}` | list of all flags | 60 s |
//! | `feature_flag:data:{environment}:{flag}` | state and metadata of a flag | 300 s |
//!
//! The layers belong to the same cache as the outcomes. Their keys are listed with those of their flag, so that a
//! change finds and removes them. They contain the version that they are based on, and an older version never replaces
//! a newer one. Readers compare that version with the flags in force and with the flag's minimum version. The list of
//! all flags is indexed under an empty flag name, which every change of its environment invalidates.

mod entry;
mod memory;
mod request;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::store::Store;

use super::client::Client;
use super::error::{CacheError, refusal};
use super::invalidate::params::{chunks, members};
use super::key;
use super::reader::{Miss, oldest};
use super::subject::Member;
use super::writer::{command, number};

pub use entry::{write_flag_data, write_flags};
pub use memory::EdgeMemory;
pub use request::{CHECK_LIFE, ENDPOINT_LIFE, EdgeRequest, Layer};
pub use writer::EdgeWriter;

pub const DATA_LIFE: Duration = Duration::from_secs(300);

/// How long a cache miss waits for its value to be written, so that the next call finds it.
const ENQUEUE_TIMEOUT: Duration = Duration::from_millis(20);
/// Upper bound of values that wait to be written; further ones are dropped.
const QUEUE_VALUES_MAX: usize = 1_024;
/// Number of listed keys read per call.
const PAGE_MEMBERS: usize = 512;

/// Result of reading the layers.
#[derive(Debug, Default)]
pub struct Found {
    /// Value of the requested layer. `None`: there is none, or it is too old.
    pub value: Option<Vec<u8>>,
    /// State and metadata of the flag with their version, only for [`Layer::Endpoint`].
    pub flag_data: Option<(u64, Box<RawValue>)>,
}

/// Reads the layers and queues values to be written. Clones share everything.
#[derive(Debug, Clone)]
pub struct Edge {
    client: Client,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    queue: mpsc::Sender<Task>,
    /// Whether user ids are hashed. Then nothing is cached for a user, because the outcome for the hash is not that of
    /// the user.
    hides_users: bool,
}

/// Request to write a value.
#[derive(Debug)]
struct Task {
    asked: EdgeRequest,
    /// Whether the flag's state and metadata are to be written as well.
    with_data: bool,
    /// Dropped when the value is written, which wakes the caller.
    _done: oneshot::Sender<()>,
}

/// Members that every cached value has.
#[derive(Deserialize)]
struct Frame<'v> {
    flags_version: Option<u64>,
    flag_version: Option<u64>,
    basis_version: Option<u64>,
    #[serde(borrow)]
    flag_data: Option<&'v RawValue>,
}

impl Frame<'_> {
    fn basis(&self) -> u64 {
        self.basis_version.or(self.flag_version).or(self.flags_version).unwrap_or(0)
    }
}

impl Edge {
    /// Creates the layers on a reader's connection. The returned [`EdgeWriter`] must be spawned.
    pub(super) fn open(
        client: &Client,
        config: &Arc<Config>,
        store: &Arc<Store>,
        metrics: &Arc<Metrics>,
    ) -> (Self, EdgeWriter) {
        let (queue, tasks) = mpsc::channel(QUEUE_VALUES_MAX);
        let edge = Self {
            client: client.clone(),
            store: Arc::clone(store),
            metrics: Arc::clone(metrics),
            queue,
            hides_users: config.privacy.hash_user_ids,
        };
        let keeper = EdgeWriter::new(&edge, tasks, Arc::clone(config));
        (edge, keeper)
    }

    /// Returns the cached value if it is not older than
    ///
    /// - the definition in force of the flag and of the flags it depends on (for the list: of any flag),
    /// - the last change that a warmer has announced,
    /// - `min_version`, while the local store has not reached it.
    pub async fn read(&self, asked: &EdgeRequest, min_version: u64) -> Found {
        let read = self.ask(asked, min_version).await.unwrap_or_else(|cache_error| {
            tracing::debug!(%cache_error, "the cached values of the edge API could not be read from Redis");
            (Found::default(), Some(Miss::Unavailable))
        });
        let outcome = read.1.map_or("hit", Miss::as_str);
        self.metrics.edge.count_read(asked.layer.as_str(), outcome);
        read.0
    }

    async fn ask(&self, asked: &EdgeRequest, min_version: u64) -> Result<(Found, Option<Miss>), CacheError> {
        let link = self.client.link_soon().await?;
        let mut commands =
            vec![command("GET", &asked.key()), command("GET", &key::flag_min_version(&asked.place()))];
        if asked.layer == Layer::Endpoint {
            commands.push(command("GET", &key::data(&asked.environment, &asked.flag)));
        }
        let mut replies = self.client.send(&link, commands).await?.into_iter();
        let (value, flag_min_version, data) = (replies.next(), replies.next(), replies.next());
        let flag_min_version = flag_min_version.as_ref().and_then(number);
        let flag_min_version =
            flag_min_version.ok_or_else(|| self.client.unexpected_reply(&link, "a floor is no number"))?;
        // Read after Redis has replied, so that changes in the meantime count.
        let Some(least) = self.oldest(asked, min_version).map(|least| least.max(flag_min_version)) else {
            return Ok((Found::default(), Some(Miss::Absent)));
        };
        let flag_data = fresh(data, self.own_version(asked).max(flag_min_version)).ok();
        let flag_data = flag_data.and_then(|data| {
            let frame = frame(&data)?;
            Some((frame.basis(), frame.flag_data?.to_owned()))
        });
        Ok(match fresh(value, least) {
            Ok(value) => (Found { value: Some(value), flag_data }, None),
            Err(miss) => (Found { value: None, flag_data }, Some(miss)),
        })
    }

    /// Queues a value to be written, evaluated from the flags in force at that time. Waits a short time for the write.
    pub async fn keep(&self, asked: EdgeRequest, with_data: bool) {
        if self.hides_users && asked.user.is_some() {
            return self.metrics.edge.count_write("private", 1);
        }
        if let Some(cache_error) = self.client.cache_error() {
            return self.metrics.drop_counted("edge_write", cache_error.reason(), 1);
        }
        let (done, kept) = oneshot::channel();
        if self.queue.try_send(Task { asked, with_data, _done: done }).is_err() {
            return self.metrics.drop_counted("edge_write", "queue_full", 1);
        }
        // Nothing is ever sent; the closed channel ends the wait.
        let _ = timeout(ENQUEUE_TIMEOUT, kept).await;
    }

    /// Removes all cached values of a flag in these layers, and the list of flags. Returns the number of the flag's
    /// keys.
    pub async fn clear(&self, environment: &str, flag: &str) -> Result<u64, CacheError> {
        let mut removed = 0;
        for chunk in chunks(&self.client, &key::place(environment, flag)).await? {
            let mut offset = 0;
            loop {
                let page = members(&self.client, &chunk, offset, PAGE_MEMBERS).await?;
                let keys = page.iter().filter_map(|member| match Member::read(member)? {
                    Member::Key(key) if key::is_of_edge(&key) => Some(key),
                    _ => None,
                });
                removed += self.unlink(keys.collect()).await?;
                offset += page.len();
                if page.len() < PAGE_MEMBERS {
                    break;
                }
            }
        }
        self.unlink(vec![key::list(environment)]).await?;
        Ok(removed)
    }

    /// Number of all keys in Redis, including those of other applications. `None` in a cluster, where one request
    /// cannot count them.
    pub async fn keys(&self) -> Result<Option<u64>, CacheError> {
        let link = self.client.link_soon().await?;
        if link.is_cluster() {
            return Ok(None);
        }
        let replies = self.client.send(&link, vec![redis::cmd("DBSIZE")]).await?;
        Ok(replies.first().and_then(number))
    }

    async fn unlink(&self, keys: Vec<String>) -> Result<u64, CacheError> {
        let link = self.client.link().await?;
        let commands = keys.iter().map(|key| command("UNLINK", key)).collect();
        let replies = self.client.send(&link, commands).await?;
        match replies.iter().find_map(refusal) {
            Some(cache_error) => Err(cache_error),
            None => Ok(replies.iter().filter_map(number).sum()),
        }
    }

    fn oldest(&self, asked: &EdgeRequest, min_version: u64) -> Option<u64> {
        match asked.layer {
            Layer::List => Some(self.store.version().max(min_version)),
            _ => oldest(&self.store, &asked.environment, &asked.flag, min_version),
        }
    }

    /// Version of the flag itself, without the flags it depends on.
    fn own_version(&self, asked: &EdgeRequest) -> u64 {
        let snapshot = self.store.load();
        let flags = snapshot.environment(&asked.environment);
        flags.and_then(|flags| flags.get(&asked.flag)).map_or(0, |flag| flag.version)
    }
}

fn frame(value: &[u8]) -> Option<Frame<'_>> {
    serde_json::from_slice(value).ok()
}

fn fresh(value: Option<Value>, least: u64) -> Result<Vec<u8>, Miss> {
    match value {
        None | Some(Value::Nil) => Err(Miss::Absent),
        Some(Value::BulkString(value)) => match frame(&value).map(|frame| frame.basis()) {
            Some(basis) if basis >= least => Ok(value),
            Some(_) => Err(Miss::Stale),
            None => Err(Miss::Unreadable),
        },
        Some(_) => Err(Miss::Unreadable),
    }
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_it_may_be_is_no_hit() {
        let value = |text: &str| Some(Value::BulkString(text.as_bytes().to_vec()));
        let check = r#"{"basis_version":7,"flag_version":5,"enabled":true}"#;
        assert!(fresh(value(check), 7).is_ok());
        assert_eq!(fresh(value(check), 8), Err(Miss::Stale));
        assert!(fresh(value(r#"{"flags_version":9,"flags":[]}"#), 9).is_ok());
        assert_eq!(fresh(value("true"), 0), Err(Miss::Unreadable));
        assert_eq!(fresh(value("{}"), 1), Err(Miss::Stale), "of no version");
        assert_eq!(fresh(Some(Value::Nil), 0), Err(Miss::Absent));
    }
}
