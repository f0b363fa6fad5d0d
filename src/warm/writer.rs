//! Writes a batch of outcomes so that a change finds all of them, and none is older than what is there.
//!
//! ```text
//!  1  list the keys in chunks of their flags        (before the values: nothing stands unlisted)
//!  2  put the values, unless there is a newer one   (one step inside Redis for each)
//!  3  ask for each flag's floor                     (after the values: see below), and whether its chunk is there
//! ```
//!
//! A change raises the floor first and reads the list then ([`sweep`](super::sweep)). So either the change finds
//! the key, or the writer finds the floor above what it has written, and renews it. One server takes all three in
//! one pipeline, in order; in a cluster each step waits for the one before.

use std::time::{Duration, Instant};

use ahash::{AHashMap, AHashSet, RandomState};
use rand::Rng;
use redis::{Cmd, Value};

use crate::flag::Steady;

use super::client::{Client, Link, Trouble, refusal};
use super::index::Index;
use super::key;
use super::script::Script;
use super::subject::Entry;

/// Values in one call: some tenth of a millisecond of Redis's time.
const CALL_KEYS_MAX: usize = 64;
const CALL_BYTES_MAX: usize = 128 * 1_024;
/// Members listed in one call.
const CALL_MEMBERS_MAX: usize = 512;
/// Values live this much longer or shorter, so that they don't all end at once.
const JITTER: f64 = 0.1;
/// Repeats within this part of a value's life need no write.
const REPEAT_SHARE: u32 = 10;
const REPEAT_MAX: Duration = Duration::from_secs(30);
/// Writes remembered for the sake of repeats.
const REMEMBERED_WRITES_MAX: usize = 1 << 20;
/// How often a batch is sent again because Redis had lost the list.
const ATTEMPTS_MAX: usize = 3;

/// The marker is renewed every second or so.
const MARKER_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// What came of a batch.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) values: u64,
    /// Newer ones were there.
    pub(crate) refused: u64,
    /// Given up, by why.
    pub(crate) given_up: Vec<(&'static str, u64)>,
    /// Flags that have changed since the entries were evaluated, with their floors.
    pub(crate) outdated: AHashMap<String, u64>,
    /// Redis had lost what was written before.
    pub(crate) lost: bool,
}

/// One warmer's way to write.
#[derive(Debug)]
pub(crate) struct Writer {
    client: Client,
    ttl: Duration,
    index: Index,
    /// Hashes of keys and versions written a moment ago.
    recent: AHashSet<u64>,
    recent_since: Instant,
    hasher: RandomState,
    /// What stood in Redis when it was asked last.
    marker: Option<String>,
}

/// The commands of a batch, step by step.
#[derive(Default)]
struct Plan<'e> {
    steps: [Vec<Cmd>; 3],
    /// Keys that the first step lists, once Redis has confirmed it.
    listing: Vec<u64>,
    /// What stands behind each call of the second step.
    calls: Vec<Vec<&'e str>>,
    /// What stands behind the pairs of the third step.
    flags: Vec<&'e str>,
}

impl Writer {
    pub(crate) fn new(client: Client, ttl: Duration) -> Self {
        Self {
            index: Index::new(longest_life(ttl)),
            client,
            ttl,
            recent: AHashSet::new(),
            recent_since: Instant::now(),
            hasher: RandomState::new(),
            marker: None,
        }
    }

    /// Whether the same was written a moment ago.
    pub(crate) fn is_repeat(&self, entry: &Entry) -> bool {
        self.recent.contains(&self.write_hash(entry))
    }

    /// Whether Redis has lost everything since it was asked last, or is asked for the first time and has nothing.
    pub(crate) async fn has_lost_all(&mut self) -> Result<bool, Trouble> {
        let link = self.client.link().await?;
        let mut get = redis::cmd("GETEX");
        get.arg(key::MARKER).arg("PX").arg(millis(MARKER_LIFE));
        let found = text(self.client.send(&link, vec![get]).await?.into_iter().next());
        if found.is_some() && (found == self.marker || self.marker.is_none()) {
            self.marker = found;
            return Ok(false);
        }
        let own = uuid::Uuid::now_v7().simple().to_string();
        let mut set = redis::cmd("SET");
        set.arg(key::MARKER).arg(own).arg("NX").arg("PX").arg(millis(MARKER_LIFE));
        let replies = self.client.send(&link, vec![set, command("GET", key::MARKER)]).await?;
        if let Some(trouble) = replies.iter().find_map(refusal) {
            return Err(trouble);
        }
        self.marker = text(replies.into_iter().nth(1));
        self.forget();
        Ok(true)
    }

    /// Forgets what Redis is thought to have.
    pub(crate) fn forget(&mut self) {
        self.index.forget();
        self.recent.clear();
    }

    /// Writes all entries. After an error they are best written again; nothing of that does harm.
    pub(crate) async fn write(&mut self, entries: &[Entry]) -> Result<Written, Trouble> {
        self.turn();
        let mut lost = false;
        for _ in 0..ATTEMPTS_MAX {
            let link = self.client.link().await?;
            let plan = self.plan(&link, entries);
            let listing = plan.listing.clone();
            let done = self.carry_out(&link, plan, entries).await;
            match done {
                Ok(Some(mut written)) => {
                    written.lost = lost;
                    if written.given_up.is_empty() {
                        self.index.listed(listing);
                        self.remember(entries);
                    } else {
                        self.forget();
                    }
                    return Ok(written);
                }
                Ok(None) => {
                    lost = true;
                    self.forget();
                }
                // Which chunks were made is not known.
                Err(trouble) => {
                    self.forget();
                    return Err(trouble);
                }
            }
        }
        Err(Trouble::Nonsense("keeps losing what it was told a moment ago".to_owned()))
    }

    fn turn(&mut self) {
        self.index.turn();
        let window = (self.ttl / REPEAT_SHARE).min(REPEAT_MAX);
        if self.recent_since.elapsed() >= window || self.recent.len() >= REMEMBERED_WRITES_MAX {
            self.recent.clear();
            self.recent_since = Instant::now();
        }
    }

    fn remember(&mut self, entries: &[Entry]) {
        let lasting = entries.iter().filter(|entry| entry.steady == Steady::Always);
        let hashes: Vec<u64> = lasting.map(|entry| self.write_hash(entry)).collect();
        self.recent.extend(hashes);
    }

    fn write_hash(&self, entry: &Entry) -> u64 {
        self.hasher.hash_one((&entry.keys.evaluation, entry.basis))
    }

    fn plan<'e>(&mut self, link: &Link, entries: &'e [Entry]) -> Plan<'e> {
        let mut plan = Plan::default();
        let mut flags: AHashMap<&str, Vec<&Entry>> = AHashMap::new();
        for entry in entries {
            flags.entry(&entry.place).or_default().push(entry);
        }
        for (place, entries) in flags {
            self.plan_listing(link, &mut plan, place, &entries);
            plan.flags.push(place);
            let chunk = self.index.open_chunk(place);
            plan.steps[2].push(command("GET", &key::floor(place)));
            plan.steps[2].push(chunk.map_or_else(|| redis::cmd("PING"), |chunk| command("EXISTS", chunk)));
        }
        self.plan_values(link, &mut plan, entries);
        plan
    }

    fn plan_listing(&mut self, link: &Link, plan: &mut Plan<'_>, place: &str, entries: &[&Entry]) {
        let hashed = entries.iter().map(|entry| (self.hasher.hash_one(&entry.keys.evaluation), *entry));
        let new: Vec<_> = hashed.filter(|(hash, _)| !self.index.is_listed(*hash)).collect();
        for members in new.chunks(CALL_MEMBERS_MAX) {
            let target = self.index.place(place, members.len());
            let mut call = link.call(Script::List, 2);
            call.arg(&target.chunk).arg(key::registry(place));
            call.arg(now_ms()).arg(millis(self.index.chunk_life())).arg(u8::from(target.is_new));
            for (hash, entry) in members {
                call.arg(&entry.member);
                plan.listing.push(*hash);
            }
            plan.steps[0].push(call);
        }
    }

    fn plan_values<'e>(&self, link: &Link, plan: &mut Plan<'e>, entries: &'e [Entry]) {
        let values = entries.iter().flat_map(|entry| {
            let plain = entry.keys.plain.as_deref().map(|key| (key, &entry.plain_value, entry));
            std::iter::once((entry.keys.evaluation.as_str(), &entry.value, entry)).chain(plain)
        });
        let keys_max = if link.is_cluster() { 1 } else { CALL_KEYS_MAX };
        let (mut open, mut bytes) = (Vec::new(), 0);
        for value in values {
            if open.len() == keys_max || bytes > CALL_BYTES_MAX {
                self.plan_call(link, plan, &open);
                (open, bytes) = (Vec::new(), 0);
            }
            bytes += value.1.len();
            open.push(value);
        }
        if !open.is_empty() {
            self.plan_call(link, plan, &open);
        }
    }

    fn plan_call<'e>(&self, link: &Link, plan: &mut Plan<'e>, values: &[(&'e str, &Vec<u8>, &Entry)]) {
        let mut call = link.call(Script::Write, values.len());
        for (key, _, _) in values {
            call.arg(*key);
        }
        for (_, value, entry) in values {
            call.arg(entry.basis).arg(self.life(entry)).arg(value.as_slice());
        }
        plan.steps[1].push(call);
        plan.calls.push(values.iter().map(|(key, _, _)| *key).collect());
    }

    /// Milliseconds; negative: the moment of its end, which holds however late the command is carried out.
    fn life(&self, entry: &Entry) -> i64 {
        let life = millis(self.ttl.mul_f64(rand::rng().random_range(1.0 - JITTER..1.0 + JITTER))).max(1);
        match entry.steady {
            Steady::Until(end) if end < now_ms() + life => -end,
            _ => life,
        }
    }

    /// `None` if Redis has lost chunks that it had.
    async fn carry_out(
        &self,
        link: &Link,
        plan: Plan<'_>,
        entries: &[Entry],
    ) -> Result<Option<Written>, Trouble> {
        let Plan { steps, calls, flags, .. } = plan;
        let [listing, values, checks] = steps;
        let (listings, puts) = (listing.len(), values.len());
        let mut replies = if link.is_cluster() {
            let mut replies = self.client.send(link, listing).await?;
            replies.extend(self.client.send(link, values).await?);
            replies.extend(self.client.send(link, checks).await?);
            replies
        } else {
            self.client.send(link, listing.into_iter().chain(values).chain(checks).collect()).await?
        };
        let checked = replies.split_off(listings + puts);
        let put = replies.split_off(listings);
        let unlisted = replies.iter().find_map(refusal);
        if unlisted.is_none() && replies.iter().any(|reply| *reply == Value::Int(0)) {
            return Ok(None);
        }
        let mut written = Written::default();
        for (reply, keys) in put.iter().zip(&calls) {
            self.count(link, reply, keys.len(), &mut written)?;
        }
        if let Some(trouble) = unlisted {
            self.take_back(link, entries).await?;
            let count = std::mem::take(&mut written.values);
            written.given_up.push((trouble.reason(), count));
        }
        let bases: AHashMap<&str, u64> = lowest(entries);
        for (pair, place) in checked.chunks(2).zip(flags) {
            let [floor, chunk] = pair else { continue };
            if *chunk == Value::Int(0) {
                return Ok(None);
            }
            let floor = number(floor).ok_or_else(|| self.client.nonsense(link, "a floor is no number"))?;
            if bases.get(place).is_some_and(|basis| *basis < floor) {
                written.outdated.insert(place.to_owned(), floor);
            }
        }
        Ok(Some(written))
    }

    fn count(&self, link: &Link, reply: &Value, keys: usize, written: &mut Written) -> Result<(), Trouble> {
        let keys = u64::try_from(keys).unwrap_or(u64::MAX);
        match (reply, refusal(reply)) {
            (_, Some(trouble)) => written.given_up.push((trouble.reason(), keys)),
            (Value::Int(refused), None) => {
                let refused = u64::try_from(*refused).unwrap_or(0).min(keys);
                written.refused += refused;
                written.values += keys - refused;
            }
            _ => return Err(self.client.nonsense(link, "a script answers no number")),
        }
        Ok(())
    }

    /// Removes values that could not be listed: no change would find them.
    async fn take_back(&self, link: &Link, entries: &[Entry]) -> Result<(), Trouble> {
        let keys = entries.iter().flat_map(|entry| [Some(&entry.keys.evaluation), entry.keys.plain.as_ref()]);
        let commands = keys.flatten().map(|key| command("UNLINK", key)).collect();
        self.client.send(link, commands).await.map(drop)
    }
}

/// How long a value may live.
pub(crate) fn longest_life(ttl: Duration) -> Duration {
    ttl.mul_f64(1.0 + JITTER)
}

/// The lowest version of each flag.
fn lowest(entries: &[Entry]) -> AHashMap<&str, u64> {
    let mut lowest: AHashMap<&str, u64> = AHashMap::new();
    for entry in entries {
        let basis = lowest.entry(&entry.place).or_insert(entry.basis);
        *basis = entry.basis.min(*basis);
    }
    lowest
}

pub(crate) fn command(name: &str, key: &str) -> Cmd {
    let mut command = redis::cmd(name);
    command.arg(key);
    command
}

fn text(reply: Option<Value>) -> Option<String> {
    redis::from_redis_value::<Option<String>>(reply?).ok().flatten()
}

/// A number that Redis keeps as text; 0 if it isn't there, `None` if it is something else.
pub(crate) fn number(reply: &Value) -> Option<u64> {
    match reply {
        Value::Nil => Some(0),
        Value::Int(number) => u64::try_from(*number).ok(),
        Value::BulkString(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    }
}

pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}
