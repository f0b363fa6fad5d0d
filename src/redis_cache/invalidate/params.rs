//! Redis commands of an invalidation.

use std::collections::VecDeque;
use std::time::Duration;

use redis::Value;

use crate::metrics::Metrics;
use crate::redis_cache::client::Client;
use crate::redis_cache::error::{CacheError, refusal};
use crate::redis_cache::key;
use crate::redis_cache::script::Script;
use crate::redis_cache::writer::{command, millis, number};

use super::Invalidation;

/// Raises the minimum version of a flag.
pub(super) async fn announce(
    client: &Client,
    metrics: &Metrics,
    invalidation: &Invalidation,
    life: Duration,
) -> Result<(), CacheError> {
    let link = client.link().await?;
    let mut raise = link.call(Script::Raise, 1);
    raise.arg(key::flag_min_version(&invalidation.place)).arg(invalidation.version).arg(millis(life));
    let raised = client.send(&link, vec![raise]).await?;
    match raised.first() {
        // If Redis has no memory for the minimum version, readers rely on their stores alone, and the refresh removes
        // what it can.
        Some(reply) if matches!(refusal(reply), Some(CacheError::Full(_))) => {
            metrics.drop_counted("warm_floor", "full", 1);
        }
        Some(reply) if refusal(reply).is_some() => {
            return Err(refusal(reply).unwrap_or_else(|| client.unexpected_reply(&link, "no reply")));
        }
        reply => {
            let flag_min_version = reply.and_then(number);
            flag_min_version
                .filter(|flag_min_version| *flag_min_version >= invalidation.version)
                .ok_or_else(|| client.unexpected_reply(&link, "a floor that was raised is low"))?;
        }
    }
    Ok(())
}

/// Returns the chunks of a flag.
pub(in crate::redis_cache) async fn chunks(
    client: &Client,
    place: &str,
) -> Result<VecDeque<String>, CacheError> {
    let link = client.link().await?;
    let mut list = command("ZRANGE", &key::registry(place));
    list.arg(0).arg(-1);
    let reply = client.send(&link, vec![list]).await?.into_iter().next().unwrap_or_default();
    if let Some(cache_error) = refusal(&reply) {
        return Err(cache_error);
    }
    let chunks: Option<Vec<String>> = redis::from_redis_value(reply).ok();
    chunks.map(VecDeque::from).ok_or_else(|| client.unexpected_reply(&link, "expected a list"))
}

/// Reads `count` members of a chunk from `offset` on.
pub(in crate::redis_cache) async fn members(
    client: &Client,
    chunk: &str,
    offset: usize,
    count: usize,
) -> Result<Vec<Vec<u8>>, CacheError> {
    let link = client.link().await?;
    let mut range = command("LRANGE", chunk);
    range.arg(offset).arg(offset + count - 1);
    let reply = client.send(&link, vec![range]).await?.into_iter().next().unwrap_or_default();
    match (refusal(&reply), reply) {
        (Some(cache_error), _) => Err(cache_error),
        (None, Value::Array(members)) => {
            let bytes = members.into_iter().map(|member| match member {
                Value::BulkString(bytes) => Some(bytes),
                _ => None,
            });
            bytes
                .collect::<Option<_>>()
                .ok_or_else(|| client.unexpected_reply(&link, "expected a list of strings"))
        }
        _ => Err(client.unexpected_reply(&link, "expected a list")),
    }
}
