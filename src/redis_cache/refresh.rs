//! Refreshes existing keys after a change. Their time to live stays the same.

use redis::{Cmd, Value};

use crate::flag::Cacheability;
use crate::metrics::{Metrics, RedisCacheMetrics};

use super::client::{Client, Handle};
use super::error::{CacheError, refusal};
use super::key;
use super::script::Script;
use super::subject::{EvaluationScope, Member, Subject};

/// Keys per call of the script, which take Redis a sixth of a millisecond.
const CALL_KEYS_MAX: usize = 32;
/// Upper bound in bytes of the values in one call of the script.
const CALL_BYTES_MAX: usize = 128 * 1_024;

/// New value of one key.
#[derive(Debug)]
pub(super) struct Refresh {
    key: String,
    version: u64,
    /// New value. `None`: the key is removed.
    value: Option<Vec<u8>>,
}

/// Number of keys that were changed.
#[derive(Debug, Default)]
pub(super) struct Invalidated {
    refreshed: u64,
    removed: u64,
}

/// Evaluates the listed keys of a flag again. The new values must be based on `version` or later. A key whose outcome
/// cannot be evaluated now, or is only valid for a limited time, is removed.
pub(super) fn page<'m>(
    scope: &EvaluationScope<'_>,
    place: &str,
    version: u64,
    members: impl Iterator<Item = &'m [u8]>,
    evaluated_at: &str,
) -> Vec<Refresh> {
    let Some((environment, flag)) = key::of_place(place) else {
        return Vec::new();
    };
    let mut refreshes = Vec::new();
    for member in members.filter_map(Member::read) {
        match member {
            Member::Key(key) => refreshes.push(Refresh { key, version, value: None }),
            Member::Subject { user, session, context } => {
                let (user, session) = (user.as_deref(), session.as_deref());
                let subject = Subject { environment: &environment, flag: &flag, user, session, context };
                refresh(&subject, scope, version, evaluated_at, &mut refreshes);
            }
        }
    }
    refreshes
}

fn refresh(
    subject: &Subject<'_>,
    scope: &EvaluationScope<'_>,
    version: u64,
    at: &str,
    refreshes: &mut Vec<Refresh>,
) {
    match subject.entry(scope, at) {
        Ok(entry) if entry.cacheability == Cacheability::UntilChanged && entry.basis >= version => {
            let version = entry.basis;
            let plain = match entry.keys.plain {
                Some(key) => Some(Refresh { key, version, value: Some(entry.plain_value) }),
                // The flag may read attributes now, so that this key would be wrong.
                None => subject.keys().and_then(|keys| keys.plain).map(|key| Refresh {
                    key,
                    version,
                    value: None,
                }),
            };
            refreshes.push(Refresh { key: entry.keys.evaluation, version, value: Some(entry.value) });
            refreshes.extend(plain);
        }
        _ => {
            let keys = subject.keys().into_iter().flat_map(|keys| [Some(keys.evaluation), keys.plain]);
            refreshes.extend(keys.flatten().map(|key| Refresh { key, version, value: None }));
        }
    }
}

/// Executes the changes. If Redis is out of memory, the key is removed instead.
pub(super) async fn apply(client: &Client, refreshes: &[Refresh]) -> Result<Invalidated, CacheError> {
    let link = client.link().await?;
    let calls = calls(&link, refreshes);
    let commands = calls.iter().map(|call| command(&link, call, false)).collect();
    let replies = client.send(&link, commands).await?;
    let mut invalidated = Invalidated::default();
    let mut full = Vec::new();
    for (call, reply) in calls.iter().zip(&replies) {
        match refusal(reply) {
            Some(CacheError::Full(_)) => full.push(call),
            Some(cache_error) => return Err(cache_error),
            None => invalidated
                .add(call, reply)
                .ok_or_else(|| client.unexpected_reply(&link, "a script did not return a number"))?,
        }
    }
    let commands = full.iter().map(|call| command(&link, call, true)).collect();
    for reply in client.send(&link, commands).await? {
        match reply {
            Value::Int(removed) => invalidated.removed += u64::try_from(removed).unwrap_or(0),
            other => {
                return Err(refusal(&other)
                    .unwrap_or_else(|| client.unexpected_reply(&link, "a script did not return a number")));
            }
        }
    }
    Ok(invalidated)
}

/// Groups the changes into calls. A call contains either only new values or only removals, so that its reply can be
/// counted.
fn calls<'r>(link: &Handle, refreshes: &'r [Refresh]) -> Vec<Vec<&'r Refresh>> {
    let keys_max = if link.is_cluster() { 1 } else { CALL_KEYS_MAX };
    let (with, without): (Vec<_>, Vec<_>) = refreshes.iter().partition(|refresh| refresh.value.is_some());
    let mut calls = Vec::new();
    for group in [with, without] {
        let (mut open, mut bytes) = (Vec::new(), 0);
        for refresh in group {
            if open.len() == keys_max || bytes > CALL_BYTES_MAX {
                calls.push(std::mem::take(&mut open));
                bytes = 0;
            }
            bytes += refresh.value.as_ref().map_or(0, Vec::len);
            open.push(refresh);
        }
        if !open.is_empty() {
            calls.push(open);
        }
    }
    calls
}

fn command(link: &Handle, call: &[&Refresh], remove: bool) -> Cmd {
    let mut command = link.call(Script::Refresh, call.len());
    for refresh in call {
        command.arg(&refresh.key);
    }
    for refresh in call {
        let value = refresh.value.as_deref().filter(|_| !remove).unwrap_or_default();
        command.arg(refresh.version).arg(value);
    }
    command
}

impl Invalidated {
    fn add(&mut self, call: &[&Refresh], reply: &Value) -> Option<()> {
        let Value::Int(changed) = reply else { return None };
        let changed = u64::try_from(*changed).ok()?;
        match call.first() {
            Some(Refresh { value: Some(_), .. }) => self.refreshed += changed,
            _ => self.removed += changed,
        }
        Some(())
    }

    pub(super) fn count(&self, metrics: &Metrics) {
        RedisCacheMetrics::add(&metrics.redis_cache.invalidated, "renewed", self.refreshed);
        RedisCacheMetrics::add(&metrics.redis_cache.invalidated, "removed", self.removed);
    }
}
