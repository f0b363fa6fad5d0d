//! Refreshes existing keys after a change. Their time to live stays the same.

use redis::{Cmd, Value};

use crate::flag::Steady;
use crate::metrics::{Metrics, WarmMetrics};

use super::client::{Client, Link};
use super::key;
use super::script::Script;
use super::subject::{Member, Scene, Subject};
use super::trouble::{Trouble, refusal};

/// Keys per call of the script, which take Redis a sixth of a millisecond.
const CALL_KEYS_MAX: usize = 32;
const CALL_BYTES_MAX: usize = 128 * 1_024;

/// New value of one key.
#[derive(Debug)]
pub(super) struct Renewal {
    key: String,
    version: u64,
    /// New value. `None`: the key is removed.
    value: Option<Vec<u8>>,
}

/// Number of keys that were changed.
#[derive(Debug, Default)]
pub(super) struct Swept {
    renewed: u64,
    removed: u64,
}

/// Evaluates the listed keys of a flag again. The new values must be based on `version` or later. A key whose outcome
/// cannot be evaluated now, or is only valid for a limited time, is removed.
pub(super) fn page<'m>(
    scene: &Scene<'_>,
    place: &str,
    version: u64,
    members: impl Iterator<Item = &'m [u8]>,
    evaluated_at: &str,
) -> Vec<Renewal> {
    let Some((environment, flag)) = key::of_place(place) else {
        return Vec::new();
    };
    let mut renewals = Vec::new();
    for member in members.filter_map(Member::read) {
        match member {
            Member::Key(key) => renewals.push(Renewal { key, version, value: None }),
            Member::Subject { user, session, context } => {
                let (user, session) = (user.as_deref(), session.as_deref());
                let subject = Subject { environment: &environment, flag: &flag, user, session, context };
                renew(&subject, scene, version, evaluated_at, &mut renewals);
            }
        }
    }
    renewals
}

fn renew(subject: &Subject<'_>, scene: &Scene<'_>, version: u64, at: &str, renewals: &mut Vec<Renewal>) {
    match subject.entry(scene, at) {
        Ok(entry) if entry.steady == Steady::Always && entry.basis >= version => {
            let version = entry.basis;
            let plain = entry.keys.plain.map(|key| Renewal { key, version, value: Some(entry.plain_value) });
            renewals.push(Renewal { key: entry.keys.evaluation, version, value: Some(entry.value) });
            renewals.extend(plain);
        }
        _ => {
            let keys = subject.keys().into_iter().flat_map(|keys| [Some(keys.evaluation), keys.plain]);
            renewals.extend(keys.flatten().map(|key| Renewal { key, version, value: None }));
        }
    }
}

/// Executes the changes. If Redis is out of memory, the key is removed instead.
pub(super) async fn apply(client: &Client, renewals: &[Renewal]) -> Result<Swept, Trouble> {
    let link = client.link().await?;
    let calls = calls(&link, renewals);
    let commands = calls.iter().map(|call| command(&link, call, false)).collect();
    let replies = client.send(&link, commands).await?;
    let mut swept = Swept::default();
    let mut full = Vec::new();
    for (call, reply) in calls.iter().zip(&replies) {
        match refusal(reply) {
            Some(Trouble::Full(_)) => full.push(call),
            Some(trouble) => return Err(trouble),
            None => {
                swept.add(call, reply).ok_or_else(|| client.nonsense(&link, "a script answers no number"))?
            }
        }
    }
    let commands = full.iter().map(|call| command(&link, call, true)).collect();
    for reply in client.send(&link, commands).await? {
        match reply {
            Value::Int(removed) => swept.removed += u64::try_from(removed).unwrap_or(0),
            other => {
                return Err(
                    refusal(&other).unwrap_or_else(|| client.nonsense(&link, "a script answers no number"))
                );
            }
        }
    }
    Ok(swept)
}

/// Groups the changes into calls. A call contains either only new values or only removals, so that its reply can be
/// counted.
fn calls<'r>(link: &Link, renewals: &'r [Renewal]) -> Vec<Vec<&'r Renewal>> {
    let keys_max = if link.is_cluster() { 1 } else { CALL_KEYS_MAX };
    let (with, without): (Vec<_>, Vec<_>) = renewals.iter().partition(|renewal| renewal.value.is_some());
    let mut calls = Vec::new();
    for group in [with, without] {
        let (mut open, mut bytes) = (Vec::new(), 0);
        for renewal in group {
            if open.len() == keys_max || bytes > CALL_BYTES_MAX {
                calls.push(std::mem::take(&mut open));
                bytes = 0;
            }
            bytes += renewal.value.as_ref().map_or(0, Vec::len);
            open.push(renewal);
        }
        if !open.is_empty() {
            calls.push(open);
        }
    }
    calls
}

fn command(link: &Link, call: &[&Renewal], remove: bool) -> Cmd {
    let mut command = link.call(Script::Renew, call.len());
    for renewal in call {
        command.arg(&renewal.key);
    }
    for renewal in call {
        let value = renewal.value.as_deref().filter(|_| !remove).unwrap_or_default();
        command.arg(renewal.version).arg(value);
    }
    command
}

impl Swept {
    fn add(&mut self, call: &[&Renewal], reply: &Value) -> Option<()> {
        let Value::Int(changed) = reply else { return None };
        let changed = u64::try_from(*changed).ok()?;
        match call.first() {
            Some(Renewal { value: Some(_), .. }) => self.renewed += changed,
            _ => self.removed += changed,
        }
        Some(())
    }

    pub(super) fn count(&self, metrics: &Metrics) {
        WarmMetrics::add(&metrics.warm.swept, "renewed", self.renewed);
        WarmMetrics::add(&metrics.warm.swept, "removed", self.removed);
    }
}
