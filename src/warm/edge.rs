//! The edge API's three layers in Redis.
//!
//! | key | what | lives |
//! |---|---|---|
//! | `flag_check:{environment}:{flag}:{user}` | whether a flag is on for a user | 30 s |
//! | `flag_endpoint:{environment}:{flag}:{user}`, `flag_endpoint:{environment}` | what is said of a flag to a user; the list of all flags | 60 s |
//! | `feature_flag:data:{environment}:{flag}` | what a flag is | 300 s |
//!
//! They are part of the view: their keys are listed beside those of their flag, so that a change finds them and
//! removes them; they carry the version that they are based on, which no older one replaces; and whoever reads them
//! compares that with the flags in force and with the flag's floor. A list has a place of its own, of no flag, which
//! every change of its environment sweeps.

mod asked;
mod entry;
mod keeper;
mod memory;

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
use super::key;
use super::reader::{Miss, oldest};
use super::subject::Member;
use super::sweep::ask::{chunks, members};
use super::trouble::{Trouble, refusal};
use super::writer::{command, number};

pub use asked::{Asked, CHECK_LIFE, ENDPOINT_LIFE, Layer};
pub use entry::{write_flag_data, write_flags};
pub use keeper::Keeper;
pub use memory::EdgeMemory;

pub const DATA_LIFE: Duration = Duration::from_secs(300);

/// What a miss may wait for its value to be kept, so that the next call finds it.
const KEEP_PATIENCE: Duration = Duration::from_millis(20);
/// Values on their way; beyond, they are not kept.
const QUEUE_VALUES_MAX: usize = 1_024;
/// Listed keys looked at in one call.
const PAGE_MEMBERS: usize = 512;

/// What Redis has.
#[derive(Debug, Default)]
pub struct Found {
    /// The value asked for; none that is too old.
    pub value: Option<Vec<u8>>,
    /// With [`Layer::Endpoint`]: what the flag is, and of which version.
    pub flag_data: Option<(u64, Box<RawValue>)>,
}

/// Reads the layers and has them written; clones share everything.
#[derive(Debug, Clone)]
pub struct Edge {
    client: Client,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    queue: mpsc::Sender<Task>,
    /// What a hashed user gets is kept nowhere.
    hides_users: bool,
}

/// Something to be kept.
#[derive(Debug)]
struct Task {
    asked: Asked,
    /// What the flag is was not there either.
    with_data: bool,
    /// Dropped when it is done.
    _done: oneshot::Sender<()>,
}

/// What every value of ours has of this.
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
    /// Beside a reader's connection; the keeper is to be run.
    pub(super) fn open(
        client: &Client,
        config: &Arc<Config>,
        store: &Arc<Store>,
        metrics: &Arc<Metrics>,
    ) -> (Self, Keeper) {
        let (queue, tasks) = mpsc::channel(QUEUE_VALUES_MAX);
        let edge = Self {
            client: client.clone(),
            store: Arc::clone(store),
            metrics: Arc::clone(metrics),
            queue,
            hides_users: config.privacy.hash_user_ids,
        };
        let keeper = Keeper::new(&edge, tasks, Arc::clone(config));
        (edge, keeper)
    }

    /// What is kept, and not older than
    ///
    /// - the flag in force here and those it depends on (for a list: anything in force here);
    /// - the last change that a warmer has announced;
    /// - `min_version`, while the store here has not reached that.
    pub async fn read(&self, asked: &Asked, min_version: u64) -> Found {
        let read = self.ask(asked, min_version).await.unwrap_or_else(|trouble| {
            tracing::debug!(%trouble, "the edge's layers are not read");
            (Found::default(), Some(Miss::Unavailable))
        });
        let outcome = read.1.map_or("hit", Miss::as_str);
        self.metrics.edge.count_read(asked.layer.as_str(), outcome);
        read.0
    }

    async fn ask(&self, asked: &Asked, min_version: u64) -> Result<(Found, Option<Miss>), Trouble> {
        let link = self.client.link_soon().await?;
        let mut commands = vec![command("GET", &asked.key()), command("GET", &key::floor(&asked.place()))];
        if asked.layer == Layer::Endpoint {
            commands.push(command("GET", &key::data(&asked.environment, &asked.flag)));
        }
        let mut replies = self.client.send(&link, commands).await?.into_iter();
        let (value, floor, data) = (replies.next(), replies.next(), replies.next());
        let floor = floor.as_ref().and_then(number);
        let floor = floor.ok_or_else(|| self.client.nonsense(&link, "a floor is no number"))?;
        // Asked after Redis has answered: what came into force meanwhile counts.
        let Some(least) = self.oldest(asked, min_version).map(|least| least.max(floor)) else {
            return Ok((Found::default(), Some(Miss::Absent)));
        };
        let flag_data = fresh(data, self.own_version(asked).max(floor)).ok();
        let flag_data = flag_data.and_then(|data| {
            let frame = frame(&data)?;
            Some((frame.basis(), frame.flag_data?.to_owned()))
        });
        Ok(match fresh(value, least) {
            Ok(value) => (Found { value: Some(value), flag_data }, None),
            Err(miss) => (Found { value: None, flag_data }, Some(miss)),
        })
    }

    /// Has it kept: evaluated from the flags in force then, written behind, and waited for as long as that is no loss.
    pub async fn keep(&self, asked: Asked, with_data: bool) {
        if self.hides_users && asked.user.is_some() {
            return self.metrics.edge.count_write("private", 1);
        }
        if let Some(trouble) = self.client.trouble() {
            return self.metrics.drop_counted("edge_write", trouble.reason(), 1);
        }
        let (done, kept) = oneshot::channel();
        if self.queue.try_send(Task { asked, with_data, _done: done }).is_err() {
            return self.metrics.drop_counted("edge_write", "queue_full", 1);
        }
        // Nothing is ever sent: the other end going is what is waited for.
        let _ = timeout(KEEP_PATIENCE, kept).await;
    }

    /// Removes everything that is kept of a flag in these layers, and the list; how many keys there were.
    pub async fn clear(&self, environment: &str, flag: &str) -> Result<u64, Trouble> {
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

    /// How many keys Redis has, whoever they are from; `None` where that is not one question.
    pub async fn keys(&self) -> Result<Option<u64>, Trouble> {
        let link = self.client.link_soon().await?;
        if link.is_cluster() {
            return Ok(None);
        }
        let replies = self.client.send(&link, vec![redis::cmd("DBSIZE")]).await?;
        Ok(replies.first().and_then(number))
    }

    async fn unlink(&self, keys: Vec<String>) -> Result<u64, Trouble> {
        let link = self.client.link().await?;
        let commands = keys.iter().map(|key| command("UNLINK", key)).collect();
        let replies = self.client.send(&link, commands).await?;
        match replies.iter().find_map(refusal) {
            Some(trouble) => Err(trouble),
            None => Ok(replies.iter().filter_map(number).sum()),
        }
    }

    fn oldest(&self, asked: &Asked, min_version: u64) -> Option<u64> {
        match asked.layer {
            Layer::List => Some(self.store.version().max(min_version)),
            _ => oldest(&self.store, &asked.environment, &asked.flag, min_version),
        }
    }

    /// The flag's own, without those it depends on.
    fn own_version(&self, asked: &Asked) -> u64 {
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
