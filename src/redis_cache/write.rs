//! Writes the values of a batch to Redis.
//!
//! A value that is probably new is written with a plain `SET … NX`, which is as cheap as any `SET`. A value that turns
//! out to exist is compared by a script, which costs twice as much. Both are atomic. Several pipelines are in flight at
//! once, so that Redis is never idle.
//!
//! A value that should exist but is missing is not written, because its key may have been removed from the index as
//! well.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use rand::Rng;
use redis::{Cmd, Value};
use tokio::task::JoinHandle;

use crate::flag::Cacheability;

use super::client::{Client, Handle};
use super::error::{CacheError, refusal};
use super::script::Script;
use super::subject::Entry;
use super::writer::{JITTER, Written, millis, now_ms};

/// Values per call of the script, which take Redis a sixth of a millisecond.
const CALL_KEYS_MAX: usize = 32;
/// Upper bound in bytes of the values in one call of the script.
const CALL_BYTES_MAX: usize = 128 * 1_024;
/// Upper bound of values per pipeline.
const PIPELINE_KEYS_MAX: usize = 256;
/// Upper bound of pipelines in flight.
const PIPELINES_MAX: usize = 4;

/// Value to be written.
#[derive(Clone, Copy)]
pub(super) struct ValueWrite<'e> {
    pub(super) key: &'e str,
    pub(super) value: &'e [u8],
    pub(super) entry: &'e Entry,
    /// Index of the entry in its batch.
    pub(super) number: usize,
    /// Whether the key was added to the index in this batch, so that it probably does not exist yet.
    pub(super) is_new: bool,
}

/// Command that writes one or more values.
enum Call<'e> {
    New(ValueWrite<'e>),
    /// Compare-and-set by script. Missing keys are written only if `create`.
    Compare {
        create: bool,
        writes: Vec<ValueWrite<'e>>,
    },
}

/// Writes values over one connection.
pub(super) struct PendingWrites<'w> {
    pub(super) client: &'w Client,
    pub(super) link: &'w Handle,
    pub(super) ttl: Duration,
}

/// Pipeline in flight, and the calls in it.
type UnderWay<'e> = (JoinHandle<Result<Vec<Value>, CacheError>>, Vec<Call<'e>>);

impl PendingWrites<'_> {
    /// Writes all values and counts the results. Returns the indexes of entries whose keys are missing.
    pub(super) async fn put(
        &self,
        writes: Vec<ValueWrite<'_>>,
        written: &mut Written,
    ) -> Result<BTreeSet<usize>, CacheError> {
        let (new, others): (Vec<_>, Vec<_>) = writes.into_iter().partition(|put| put.is_new);
        let mut calls: Vec<_> = new.into_iter().map(Call::New).collect();
        calls.extend(self.compare(others, false));
        let (there, gone) = self.send(calls, written).await?;
        self.send(self.compare(there, true), written).await?;
        Ok(gone)
    }

    fn compare<'e>(&self, writes: Vec<ValueWrite<'e>>, create: bool) -> Vec<Call<'e>> {
        let keys_max = if self.link.is_cluster() { 1 } else { CALL_KEYS_MAX };
        let (mut calls, mut open, mut bytes) = (Vec::new(), Vec::new(), 0);
        for put in writes {
            if open.len() == keys_max || bytes > CALL_BYTES_MAX {
                calls.push(Call::Compare { create, writes: std::mem::take(&mut open) });
                bytes = 0;
            }
            bytes += put.value.len();
            open.push(put);
        }
        if !open.is_empty() {
            calls.push(Call::Compare { create, writes: open });
        }
        calls
    }

    /// Executes calls. Returns the values whose key unexpectedly exists, and the indexes of entries whose key is
    /// unexpectedly missing.
    async fn send<'e>(
        &self,
        calls: Vec<Call<'e>>,
        written: &mut Written,
    ) -> Result<(Vec<ValueWrite<'e>>, BTreeSet<usize>), CacheError> {
        let (mut there, mut gone) = (Vec::new(), BTreeSet::new());
        let mut under_way: VecDeque<UnderWay<'e>> = VecDeque::new();
        let mut calls = calls.into_iter().peekable();
        while calls.peek().is_some() || !under_way.is_empty() {
            let (mut group, mut keys) = (Vec::new(), 0);
            while keys < PIPELINE_KEYS_MAX
                && let Some(call) = calls.next()
            {
                keys += call.len();
                group.push(call);
            }
            if !group.is_empty() {
                let commands = group.iter().map(|call| self.command(call)).collect();
                let (client, link) = (self.client.clone(), self.link.clone());
                under_way.push_back((tokio::spawn(async move { client.send(&link, commands).await }), group));
            }
            if under_way.len() == PIPELINES_MAX || calls.peek().is_none() {
                let Some((sent, group)) = under_way.pop_front() else { continue };
                let replies = sent.await.map_err(|error| CacheError::Unreachable(error.to_string()))??;
                for (reply, call) in replies.iter().zip(group) {
                    self.count(reply, call, written, &mut there, &mut gone)?;
                }
            }
        }
        Ok((there, gone))
    }

    fn command(&self, call: &Call<'_>) -> Cmd {
        match call {
            Call::New(put) => {
                let life = self.life(put.entry);
                let unit = if life < 0 { "PXAT" } else { "PX" };
                let mut set = Cmd::with_capacity(6, put.key.len() + put.value.len() + 32);
                set.arg("SET").arg(put.key).arg(put.value).arg("NX").arg(unit).arg(life.abs());
                set
            }
            Call::Compare { create, writes } => {
                let mut call = self.link.call(Script::Write, writes.len());
                for put in writes {
                    call.arg(put.key);
                }
                call.arg(u8::from(*create));
                for put in writes {
                    call.arg(put.entry.basis).arg(self.life(put.entry)).arg(put.value);
                }
                call
            }
        }
    }

    /// Lifetime in milliseconds. If negative, the absolute time of expiry, which holds even if the command is delayed.
    fn life(&self, entry: &Entry) -> i64 {
        let about = || self.ttl.mul_f64(rand::rng().random_range(1.0 - JITTER..1.0 + JITTER));
        let life = millis(entry.life.unwrap_or_else(about)).max(1);
        match entry.cacheability {
            Cacheability::UntilTime(end) if end < now_ms() + life => -end,
            _ => life,
        }
    }

    fn count<'e>(
        &self,
        reply: &Value,
        call: Call<'e>,
        written: &mut Written,
        there: &mut Vec<ValueWrite<'e>>,
        gone: &mut BTreeSet<usize>,
    ) -> Result<(), CacheError> {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        if let Some(cache_error) = refusal(reply) {
            written.given_up.push((cache_error.reason(), count(call.len())));
            return Ok(());
        }
        match (call, reply) {
            (Call::New(_), Value::Okay) => written.values += 1,
            (Call::New(put), Value::Nil) => there.push(put),
            (Call::Compare { writes, .. }, Value::Array(answer)) => {
                let mut answer = answer.iter().filter_map(|number| match number {
                    Value::Int(number) => usize::try_from(*number).ok(),
                    _ => None,
                });
                let refused = answer.next().unwrap_or_default().min(writes.len());
                let left: Vec<_> = answer.filter_map(|place| writes.get(place.wrapping_sub(1))).collect();
                written.refused += count(refused);
                written.values += count(writes.len().saturating_sub(refused + left.len()));
                gone.extend(left.into_iter().map(|put| put.number));
            }
            _ => {
                return Err(self
                    .client
                    .unexpected_reply(self.link, "a write is answered with something else"));
            }
        }
        Ok(())
    }
}

impl Call<'_> {
    fn len(&self) -> usize {
        match self {
            Self::New(_) => 1,
            Self::Compare { writes, .. } => writes.len(),
        }
    }
}
