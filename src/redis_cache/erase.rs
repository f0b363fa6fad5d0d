//! Removes all keys of a user from Redis.

use std::time::Duration;

use redis::{Cmd, RedisError, Value};

use crate::message::request;

use super::client::{Client, Handle};
use super::error::{CacheError, refusal};
use super::invalidate::members;
use super::key;
use super::subject::Member;

/// Timeout of each batch of commands of an erasure.
const REDIS_TIMEOUT: Duration = Duration::from_secs(5);
/// Keys that one `SCAN` call examines, which takes well below a millisecond.
const SCAN_KEYS: usize = 1_000;
/// Members of a chunk that are read at once.
const PAGE_MEMBERS: usize = 256;
/// Replacement for a removed member.
const NOBODY: &str = "[]";

/// Removes a user's keys and returns their number. Walks through all keys of Redis in small steps; this is slow, but
/// rare and not urgent.
///
/// The lists of keys are cleaned first: a missing key is listed again before it is written again, so a key that
/// reappears meanwhile is in a list.
pub async fn erase(url: &str, user: &str) -> Result<u64, EraseError> {
    let client = Client::new(url, REDIS_TIMEOUT)?;
    let nodes = client.masters().await?;
    for node in &nodes {
        for chunk in scan(node, key::CHUNKS, |_| true).await? {
            unlist(node, &chunk, user).await?;
        }
    }
    let mut erased = 0;
    for node in &nodes {
        for pattern in key::patterns_of_user(user) {
            let own = scan(node, &pattern, |key| key::is_of_user(key, user)).await?;
            for keys in own.chunks(SCAN_KEYS) {
                let link = node.link().await?;
                let commands: Vec<Cmd> =
                    keys.iter().map(|key| super::writer::command("UNLINK", key)).collect();
                for reply in node.send(&link, commands).await? {
                    let removed = counted(&reply).ok_or_else(|| cache_error(node, &link, &reply))?;
                    erased += removed;
                }
            }
        }
    }
    Ok(erased)
}

/// Reason why not everything could be removed. Keys removed before the error stay removed.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    #[error("REDIS_URL: {0}")]
    Url(#[from] RedisError),
    #[error(transparent)]
    CacheError(#[from] CacheError),
}

/// Returns the keys of a node that match a pattern and pass `wanted`.
async fn scan(
    node: &Client,
    pattern: &str,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<String>, CacheError> {
    let (mut cursor, mut found) = ("0".to_owned(), Vec::new());
    loop {
        let link = node.link().await?;
        let mut scan = redis::cmd("SCAN");
        scan.arg(&cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(SCAN_KEYS);
        let reply = node.send(&link, vec![scan]).await?.into_iter().next().unwrap_or_default();
        if let Some(cache_error) = refusal(&reply) {
            return Err(cache_error);
        }
        let page: Result<(String, Vec<String>), _> = redis::from_redis_value(reply);
        let (next, keys) = page.map_err(|error| node.unexpected_reply(&link, &error.to_string()))?;
        found.extend(keys.into_iter().filter(|key| wanted(key)));
        if next == "0" {
            return Ok(found);
        }
        cursor = next;
    }
}

/// Replaces the members about the user. They are not deleted, because concurrent readers use the positions of the other
/// members.
async fn unlist(node: &Client, chunk: &str, user: &str) -> Result<(), CacheError> {
    let mut first = 0;
    loop {
        let members = members(node, chunk, first, PAGE_MEMBERS).await?;
        let own = members.iter().enumerate().filter(|(_, member)| is_about(member, user));
        let commands: Vec<Cmd> = own
            .map(|(place, _)| {
                let mut empty = super::writer::command("LSET", chunk);
                empty.arg(first + place).arg(NOBODY);
                empty
            })
            .collect();
        let link = node.link().await?;
        // If the chunk has expired meanwhile, it contains nothing any more, so error replies are ignored.
        node.send(&link, commands).await?;
        if members.len() < PAGE_MEMBERS {
            return Ok(());
        }
        first += members.len();
    }
}

/// Whether a member is about the user, either by its user id or by the `userId` in its context.
fn is_about(member: &[u8], user: &str) -> bool {
    match Member::read(member) {
        Some(Member::Subject { user: its, context, .. }) => {
            its.as_deref() == Some(user)
                || request::context(context).is_ok_and(|context| context.user_id.as_deref() == Some(user))
        }
        Some(Member::Key(key)) => key::is_of_user(&key, user),
        None => false,
    }
}

fn counted(reply: &Value) -> Option<u64> {
    match reply {
        Value::Int(count) => u64::try_from(*count).ok(),
        _ => None,
    }
}

fn cache_error(node: &Client, link: &Handle, reply: &Value) -> CacheError {
    refusal(reply).unwrap_or_else(|| node.unexpected_reply(link, "expected a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_about_a_user_are_known() {
        for member in [
            r#"["ann",null,{"plan":"a"}]"#,
            r#"["bob","s",{"userId":"ann"}]"#,
            r#"["feature_flag:eval:e:f:ann:0123"]"#,
        ] {
            assert!(is_about(member.as_bytes(), "ann"), "{member}");
            assert!(!is_about(member.as_bytes(), "an"), "{member}");
        }
        assert!(!is_about(NOBODY.as_bytes(), ""));
    }
}
