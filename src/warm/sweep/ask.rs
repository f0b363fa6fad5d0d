//! Redis commands of a sweep.

use std::collections::VecDeque;
use std::time::Duration;

use redis::Value;

use crate::metrics::Metrics;
use crate::warm::client::Client;
use crate::warm::key;
use crate::warm::script::Script;
use crate::warm::trouble::{Trouble, refusal};
use crate::warm::writer::{command, millis, number};

use super::Sweep;

/// Raises the minimum version of a flag.
pub(super) async fn announce(
    client: &Client,
    metrics: &Metrics,
    sweep: &Sweep,
    life: Duration,
) -> Result<(), Trouble> {
    let link = client.link().await?;
    let mut raise = link.call(Script::Raise, 1);
    raise.arg(key::floor(&sweep.place)).arg(sweep.version).arg(millis(life));
    let raised = client.send(&link, vec![raise]).await?;
    match raised.first() {
        // If Redis has no memory for the minimum version, readers rely on their stores alone, and the sweep removes
        // what it can.
        Some(reply) if matches!(refusal(reply), Some(Trouble::Full(_))) => {
            metrics.drop_counted("warm_floor", "full", 1);
        }
        Some(reply) if refusal(reply).is_some() => {
            return Err(refusal(reply).unwrap_or_else(|| client.nonsense(&link, "no reply")));
        }
        reply => {
            let floor = reply.and_then(number);
            floor
                .filter(|floor| *floor >= sweep.version)
                .ok_or_else(|| client.nonsense(&link, "a floor that was raised is low"))?;
        }
    }
    Ok(())
}

/// Returns the chunks of a flag.
pub(in crate::warm) async fn chunks(client: &Client, place: &str) -> Result<VecDeque<String>, Trouble> {
    let link = client.link().await?;
    let mut list = command("ZRANGE", &key::registry(place));
    list.arg(0).arg(-1);
    let reply = client.send(&link, vec![list]).await?.into_iter().next().unwrap_or_default();
    if let Some(trouble) = refusal(&reply) {
        return Err(trouble);
    }
    let chunks: Option<Vec<String>> = redis::from_redis_value(reply).ok();
    chunks.map(VecDeque::from).ok_or_else(|| client.nonsense(&link, "a list was expected"))
}

/// Reads `count` members of a chunk from `offset` on.
pub(in crate::warm) async fn members(
    client: &Client,
    chunk: &str,
    offset: usize,
    count: usize,
) -> Result<Vec<Vec<u8>>, Trouble> {
    let link = client.link().await?;
    let mut range = command("LRANGE", chunk);
    range.arg(offset).arg(offset + count - 1);
    let reply = client.send(&link, vec![range]).await?.into_iter().next().unwrap_or_default();
    match (refusal(&reply), reply) {
        (Some(trouble), _) => Err(trouble),
        (None, Value::Array(members)) => {
            let bytes = members.into_iter().map(|member| match member {
                Value::BulkString(bytes) => Some(bytes),
                _ => None,
            });
            bytes.collect::<Option<_>>().ok_or_else(|| client.nonsense(&link, "a member is no text"))
        }
        _ => Err(client.nonsense(&link, "a list was expected")),
    }
}
