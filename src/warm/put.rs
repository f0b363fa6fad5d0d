//! The values of a batch on their way into Redis.
//!
//! What is likely to be new goes as a plain `SET … NX`, which costs Redis what any SET does; what turns out to be there
//! already is compared by a script, which costs twice that. Either is one step inside Redis. Several pipelines are
//! under way at once, so that Redis has work while more is made.

use std::collections::VecDeque;
use std::time::Duration;

use rand::Rng;
use redis::{Cmd, Value};
use tokio::task::JoinHandle;

use crate::flag::Steady;

use super::client::{Client, Link};
use super::script::Script;
use super::subject::Entry;
use super::trouble::{Trouble, refusal};
use super::writer::{JITTER, Written, millis, now_ms};

/// Values in one call of the script: some tenth of a millisecond of Redis's time.
const CALL_KEYS_MAX: usize = 32;
const CALL_BYTES_MAX: usize = 128 * 1_024;
/// Values in one pipeline, and pipelines at once.
const PIPELINE_KEYS_MAX: usize = 256;
const PIPELINES_MAX: usize = 4;

/// One value.
#[derive(Clone, Copy)]
pub(super) struct Put<'e> {
    pub(super) key: &'e str,
    pub(super) value: &'e [u8],
    pub(super) entry: &'e Entry,
    /// It was not listed before, so it was hardly written either.
    pub(super) is_new: bool,
}

/// One command.
enum Call<'e> {
    New(Put<'e>),
    Compare(Vec<Put<'e>>),
}

/// Puts values by one connection.
pub(super) struct Putting<'w> {
    pub(super) client: &'w Client,
    pub(super) link: &'w Link,
    pub(super) ttl: Duration,
}

/// A pipeline that was sent, and what is in it.
type UnderWay<'e> = (JoinHandle<Result<Vec<Value>, Trouble>>, Vec<Call<'e>>);

impl Putting<'_> {
    /// Puts all of them, and counts what came of each.
    pub(super) async fn put(&self, puts: Vec<Put<'_>>, written: &mut Written) -> Result<(), Trouble> {
        let mut there = self.send(self.calls(puts), written).await?;
        there.iter_mut().for_each(|put| put.is_new = false);
        self.send(self.calls(there), written).await.map(drop)
    }

    fn calls<'e>(&self, puts: Vec<Put<'e>>) -> Vec<Call<'e>> {
        let keys_max = if self.link.is_cluster() { 1 } else { CALL_KEYS_MAX };
        let (mut calls, mut open, mut bytes) = (Vec::new(), Vec::new(), 0);
        for put in puts {
            if put.is_new {
                calls.push(Call::New(put));
                continue;
            }
            if open.len() == keys_max || bytes > CALL_BYTES_MAX {
                calls.push(Call::Compare(std::mem::take(&mut open)));
                bytes = 0;
            }
            bytes += put.value.len();
            open.push(put);
        }
        if !open.is_empty() {
            calls.push(Call::Compare(open));
        }
        calls
    }

    /// Carries out calls; what was thought to be new and is not comes back.
    async fn send<'e>(&self, calls: Vec<Call<'e>>, written: &mut Written) -> Result<Vec<Put<'e>>, Trouble> {
        let mut there = Vec::new();
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
                let replies = sent.await.map_err(|error| Trouble::Unreachable(error.to_string()))??;
                for (reply, call) in replies.iter().zip(group) {
                    there.extend(self.count(reply, call, written)?);
                }
            }
        }
        Ok(there)
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
            Call::Compare(puts) => {
                let mut call = self.link.call(Script::Write, puts.len());
                for put in puts {
                    call.arg(put.key);
                }
                for put in puts {
                    call.arg(put.entry.basis).arg(self.life(put.entry)).arg(put.value);
                }
                call
            }
        }
    }

    /// Milliseconds; negative: the moment of its end, which holds however late the command is carried out.
    fn life(&self, entry: &Entry) -> i64 {
        let about = || self.ttl.mul_f64(rand::rng().random_range(1.0 - JITTER..1.0 + JITTER));
        let life = millis(entry.life.unwrap_or_else(about)).max(1);
        match entry.steady {
            Steady::Until(end) if end < now_ms() + life => -end,
            _ => life,
        }
    }

    /// What was there before comes back.
    fn count<'e>(
        &self,
        reply: &Value,
        call: Call<'e>,
        written: &mut Written,
    ) -> Result<Option<Put<'e>>, Trouble> {
        let keys = u64::try_from(call.len()).unwrap_or(u64::MAX);
        if let Some(trouble) = refusal(reply) {
            written.given_up.push((trouble.reason(), keys));
            return Ok(None);
        }
        match (call, reply) {
            (Call::New(_), Value::Okay) => written.values += 1,
            (Call::New(put), Value::Nil) => return Ok(Some(put)),
            (Call::Compare(_), Value::Int(refused)) => {
                let refused = u64::try_from(*refused).unwrap_or(0).min(keys);
                written.refused += refused;
                written.values += keys - refused;
            }
            _ => return Err(self.client.nonsense(self.link, "a write is answered with something else")),
        }
        Ok(None)
    }
}

impl Call<'_> {
    fn len(&self) -> usize {
        match self {
            Self::New(_) => 1,
            Self::Compare(puts) => puts.len(),
        }
    }
}
