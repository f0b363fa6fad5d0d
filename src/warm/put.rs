//! The values of a batch on their way into Redis: calls of the script, several pipelines at once, so that Redis has work
//! while more is made.

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

/// Values in one call: a quarter of a millisecond of Redis's time.
const CALL_KEYS_MAX: usize = 64;
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

/// Puts values by one connection.
pub(super) struct Putting<'w> {
    pub(super) client: &'w Client,
    pub(super) link: &'w Link,
    pub(super) ttl: Duration,
}

/// A pipeline that was sent, and how many values each of its calls has.
type UnderWay = (JoinHandle<Result<Vec<Value>, Trouble>>, Vec<usize>);

impl Putting<'_> {
    /// Puts all of them, and counts what came of each.
    pub(super) async fn put<'e>(
        &self,
        puts: impl Iterator<Item = Put<'e>>,
        written: &mut Written,
    ) -> Result<(), Trouble> {
        let mut under_way: VecDeque<UnderWay> = VecDeque::new();
        let mut calls = self.calls(puts).into_iter().peekable();
        while calls.peek().is_some() || !under_way.is_empty() {
            let (mut commands, mut sizes, mut keys) = (Vec::new(), Vec::new(), 0);
            while keys < PIPELINE_KEYS_MAX
                && let Some(call) = calls.next()
            {
                keys += call.len();
                commands.push(self.command(&call));
                sizes.push(call.len());
            }
            if !commands.is_empty() {
                let (client, link) = (self.client.clone(), self.link.clone());
                under_way.push_back((tokio::spawn(async move { client.send(&link, commands).await }), sizes));
            }
            if under_way.len() == PIPELINES_MAX || calls.peek().is_none() {
                let Some((sent, sizes)) = under_way.pop_front() else { continue };
                let replies = sent.await.map_err(|error| Trouble::Unreachable(error.to_string()))??;
                for (reply, size) in replies.iter().zip(sizes) {
                    self.count(reply, size, written)?;
                }
            }
        }
        Ok(())
    }

    /// By the call that they go in: new ones and others apart.
    fn calls<'e>(&self, puts: impl Iterator<Item = Put<'e>>) -> Vec<Vec<Put<'e>>> {
        let keys_max = if self.link.is_cluster() { 1 } else { CALL_KEYS_MAX };
        let mut calls = Vec::new();
        let mut open = [(Vec::new(), 0), (Vec::new(), 0)];
        for put in puts {
            let [others, new] = &mut open;
            let (puts, bytes) = if put.is_new { new } else { others };
            if puts.len() == keys_max || *bytes > CALL_BYTES_MAX {
                calls.push(std::mem::take(puts));
                *bytes = 0;
            }
            *bytes += put.value.len();
            puts.push(put);
        }
        calls.extend(open.into_iter().map(|(puts, _)| puts).filter(|puts| !puts.is_empty()));
        calls
    }

    fn command(&self, puts: &[Put<'_>]) -> Cmd {
        let mut call = self.link.call(Script::Write, puts.len());
        for put in puts {
            call.arg(put.key);
        }
        call.arg(u8::from(puts.first().is_some_and(|put| put.is_new)));
        for put in puts {
            call.arg(put.entry.basis).arg(self.life(put.entry)).arg(put.value);
        }
        call
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

    fn count(&self, reply: &Value, keys: usize, written: &mut Written) -> Result<(), Trouble> {
        let keys = u64::try_from(keys).unwrap_or(u64::MAX);
        match (reply, refusal(reply)) {
            (_, Some(trouble)) => written.given_up.push((trouble.reason(), keys)),
            (Value::Int(refused), None) => {
                let refused = u64::try_from(*refused).unwrap_or(0).min(keys);
                written.refused += refused;
                written.values += keys - refused;
            }
            _ => return Err(self.client.nonsense(self.link, "a script answers no number")),
        }
        Ok(())
    }
}
