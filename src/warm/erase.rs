//! Removes everything that is kept of a user.

use std::time::Duration;

use redis::{Cmd, RedisError, Value};

use super::client::{Client, Trouble, refusal};
use super::key;

const PATIENCE: Duration = Duration::from_secs(5);
/// Keys that Redis looks at in one call: well below a millisecond.
const SCAN_KEYS: usize = 1_000;

/// Removes a user's keys and says how many there were. Walks through all keys of Redis, a bit at a time: nobody waits
/// for this, and it is asked for rarely.
///
/// The lists of a flag's keys hold user ids too, for as long as `docs/architecture.md` says; what was erased is not
/// made again from them.
pub async fn erase(url: &str, user: &str) -> Result<u64, EraseError> {
    let client = Client::new(url, PATIENCE)?;
    let mut erased = 0;
    for node in client.masters().await? {
        for pattern in key::patterns_of_user(user) {
            erased += erase_on(&node, &pattern, user).await?;
        }
    }
    Ok(erased)
}

/// Why not everything could be removed. What was removed until then stays so.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    #[error("REDIS_URL: {0}")]
    Url(#[from] RedisError),
    #[error(transparent)]
    Trouble(#[from] Trouble),
}

async fn erase_on(node: &Client, pattern: &str, user: &str) -> Result<u64, Trouble> {
    let (mut cursor, mut erased) = ("0".to_owned(), 0);
    loop {
        let link = node.link().await?;
        let mut scan = redis::cmd("SCAN");
        scan.arg(&cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(SCAN_KEYS);
        let reply = node.send(&link, vec![scan]).await?.into_iter().next().unwrap_or_default();
        if let Some(trouble) = refusal(&reply) {
            return Err(trouble);
        }
        let page: Result<(String, Vec<String>), _> = redis::from_redis_value(reply);
        let (next, keys) = page.map_err(|error| node.nonsense(&link, &error.to_string()))?;
        let own = keys.iter().filter(|key| key::is_of_user(key, user));
        let commands: Vec<Cmd> = own.map(|key| super::writer::command("UNLINK", key)).collect();
        for reply in node.send(&link, commands).await? {
            match reply {
                Value::Int(removed) => erased += u64::try_from(removed).unwrap_or(0),
                other => return Err(refusal(&other).unwrap_or_else(|| node.nonsense(&link, "no number"))),
            }
        }
        if next == "0" {
            return Ok(erased);
        }
        cursor = next;
    }
}
