//! Writes a batch of outcomes so that a change finds all of them, and no value replaces a newer one.
//!
//! ```text
//!  1  list the keys in the chunks of their flags      (before the values: every value is listed)
//!  2  write the values, unless there is a newer one   (atomic for each value)
//!  3  read each flag's minimum version                (after the values: see below), and check its chunk
//! ```
//!
//! A change first raises the minimum version and then reads the chunks ([`invalidate`](super::invalidate)). So either
//! the change finds the key, or the writer finds a minimum version above the version of its values, and refreshes them.
//! Each step waits for the previous one; the second one uses several pipelines at once.

use std::collections::BTreeSet;
use std::time::Duration;

use ahash::AHashMap;
use redis::{Cmd, Value};

use super::client::{Client, Handle};
use super::edge::DATA_LIFE;
use super::error::{CacheError, refusal};
use super::key;
use super::key_index::KeyIndex;
use super::recent_writes::RecentWrites;
use super::script::Script;
use super::subject::Entry;
use super::write::{PendingWrites, ValueWrite};

/// Upper bound of members that one call lists.
const CALL_MEMBERS_MAX: usize = 512;
/// Fraction by which the lifetime of values varies, so that they do not all expire at once.
pub(super) const JITTER: f64 = 0.1;
/// Upper bound of attempts to write entries whose keys are missing.
const ATTEMPTS_MAX: usize = 3;
/// Minimum number of entries that are written together. If Redis loses lists as soon as they are created, the number
/// shrinks to this.
const PIECE_MIN: usize = 64;
const PIECE_SHRINKS_BY: usize = 8;

/// Lifetime of the markers, which are renewed about every second.
const MARKER_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// Result of writing a batch.
#[derive(Debug, Default)]
pub struct Written {
    pub values: u64,
    /// Number of values that were not written because a newer one exists.
    pub refused: u64,
    /// Number of values that were dropped, by reason.
    pub given_up: Vec<(&'static str, u64)>,
    /// Flags that have changed since the entries were evaluated, with their minimum versions.
    pub outdated: AHashMap<String, u64>,
    /// Whether Redis had lost what was written before.
    pub lost: bool,
}

impl Written {
    fn absorb(&mut self, other: Self) {
        self.values += other.values;
        self.refused += other.refused;
        self.given_up.extend(other.given_up);
        self.outdated.extend(other.outdated);
        self.lost |= other.lost;
    }
}

/// Writer of one warmer.
#[derive(Debug)]
pub struct Writer {
    client: Client,
    ttl: Duration,
    index: KeyIndex,
    recent_writes: RecentWrites,
    /// Value of the markers at the last check.
    marker: Option<String>,
    /// Number of entries that are written together.
    piece: usize,
}

/// Result of one attempt to write entries.
enum Attempt {
    Done,
    /// Entries whose keys should exist but are missing, so they may not be listed any more.
    Gone(BTreeSet<usize>),
    /// Redis has lost chunks.
    Lost,
}

/// Commands of the first and the last step of a batch, with the data that they refer to.
struct Frame<'e> {
    /// Hash of each entry's key.
    hashes: Vec<u64>,
    /// Whether each entry's key is added to the index in this batch, so that it probably does not exist yet.
    is_new: Vec<bool>,
    listing: Vec<Cmd>,
    checks: Vec<Cmd>,
    /// Place and lowest version of each flag, in the order of the pairs of checks.
    flags: Vec<(&'e str, u64)>,
}

/// Entries of one flag in a batch.
struct Group<'e> {
    lowest: u64,
    entries: Vec<(usize, &'e Entry)>,
}

impl Writer {
    pub fn new(client: Client, ttl: Duration) -> Self {
        let (index, recent_writes) = (KeyIndex::new(longest_life(ttl)), RecentWrites::new(ttl));
        Self { index, client, ttl, recent_writes, marker: None, piece: usize::MAX }
    }

    /// Returns the memory of recent writes.
    pub fn recent_writes(&self) -> RecentWrites {
        self.recent_writes.clone()
    }

    /// Whether Redis has lost everything since the last check, or is empty at the first check.
    pub async fn has_lost_all(&mut self) -> Result<bool, CacheError> {
        let link = self.client.link().await?;
        let refresh = |marker: String| {
            let mut refresh = redis::cmd("GETEX");
            refresh.arg(marker).arg("PX").arg(millis(MARKER_LIFE));
            refresh
        };
        let found = self.client.send(&link, key::markers().map(refresh).collect()).await?;
        let found: Vec<Option<String>> = found.into_iter().map(text).collect();
        let known = found.iter().flatten().find(|found| self.marker.as_ref().is_none_or(|own| own == *found));
        if let Some(known) = known {
            self.marker = Some(known.clone());
            if found.iter().all(Option::is_some) {
                return Ok(false);
            }
        }
        let is_lost = known.is_none();
        let own = match &self.marker {
            Some(own) if !is_lost => own.clone(),
            _ => uuid::Uuid::now_v7().simple().to_string(),
        };
        let set = |marker: String| {
            let mut set = redis::cmd("SET");
            set.arg(marker).arg(&own).arg("NX").arg("PX").arg(millis(MARKER_LIFE));
            set
        };
        let get = key::markers().map(|marker| command("GET", &marker));
        let replies = self.client.send(&link, key::markers().map(set).chain(get).collect()).await?;
        if let Some(cache_error) = replies.iter().find_map(refusal) {
            return Err(cache_error);
        }
        if is_lost {
            // Another warmer may have been faster; all use the first value.
            self.marker = replies.into_iter().skip(key::MARKERS_COUNT).find_map(text);
            self.forget();
        }
        Ok(is_lost)
    }

    /// Forgets what Redis is assumed to have.
    pub fn forget(&mut self) {
        self.index.forget();
        self.recent_writes.forget();
    }

    /// Writes all entries. After an error the caller should write them again, which is harmless.
    pub async fn write(&mut self, entries: &[Entry]) -> Result<Written, CacheError> {
        self.index.turn();
        self.recent_writes.turn();
        let mut written = Written::default();
        let mut rest = entries;
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(self.piece.min(rest.len()));
            match self.write_piece(piece).await {
                Ok(Some(all)) => {
                    written.absorb(all);
                    self.piece = self.piece.saturating_mul(2);
                    rest = behind;
                }
                Ok(None) => {
                    self.forget();
                    written.lost = true;
                    if piece.len() <= PIECE_MIN {
                        written.given_up.push(("evicted", u64::try_from(piece.len()).unwrap_or(u64::MAX)));
                        rest = behind;
                    }
                    self.piece = (piece.len() / PIECE_SHRINKS_BY).max(PIECE_MIN);
                }
                // It is unknown which chunks were created.
                Err(cache_error) => {
                    self.forget();
                    return Err(cache_error);
                }
            }
        }
        Ok(written)
    }

    /// Writes some entries. `None` if Redis has lost a chunk that they are listed in.
    async fn write_piece(&mut self, entries: &[Entry]) -> Result<Option<Written>, CacheError> {
        let mut written = Written::default();
        let mut rest: Vec<&Entry> = entries.iter().collect();
        for _ in 0..ATTEMPTS_MAX {
            match self.attempt(&rest, &mut written).await? {
                Attempt::Done => return Ok(Some(written)),
                Attempt::Lost => return Ok(None),
                // These entries are listed and written again.
                Attempt::Gone(gone) => {
                    rest = gone.into_iter().filter_map(|number| rest.get(number).copied()).collect();
                }
            }
        }
        Err(CacheError::UnexpectedReply("keys that were just written are repeatedly lost".to_owned()))
    }

    async fn attempt(&mut self, entries: &[&Entry], written: &mut Written) -> Result<Attempt, CacheError> {
        let link = self.client.link().await?;
        let mut frame = self.frame(&link, entries);
        let (listing, checks) = (std::mem::take(&mut frame.listing), std::mem::take(&mut frame.checks));
        let attempt = self.carry_out(&link, (listing, checks), &frame, entries, written).await?;
        if !written.given_up.is_empty() {
            self.forget();
            return Ok(Attempt::Done);
        }
        if !matches!(attempt, Attempt::Lost) {
            self.recent_writes.remember(entries, &frame.hashes);
            self.index.listed(frame.hashes.iter().copied());
        }
        if let Attempt::Gone(gone) = &attempt {
            gone.iter()
                .filter_map(|number| frame.hashes.get(*number))
                .for_each(|hash| self.index.unlist(*hash));
        }
        Ok(attempt)
    }

    fn frame<'e>(&mut self, link: &Handle, entries: &[&'e Entry]) -> Frame<'e> {
        let hashes: Vec<u64> = entries.iter().map(|entry| self.recent_writes.key_hash(entry)).collect();
        let is_new = hashes.iter().map(|hash| !self.index.is_listed(*hash)).collect();
        let mut frame = Frame { hashes, is_new, listing: Vec::new(), checks: Vec::new(), flags: Vec::new() };
        let mut flags: AHashMap<&str, Group<'_>> = AHashMap::new();
        for (number, entry) in entries.iter().copied().enumerate() {
            let new = || Group { lowest: entry.basis, entries: Vec::new() };
            let group = flags.entry(&entry.place).or_insert_with(new);
            group.lowest = group.lowest.min(entry.basis);
            group.entries.push((number, entry));
        }
        for (place, group) in flags {
            self.list(link, &mut frame, place, &group.entries);
            frame.flags.push((place, group.lowest));
            let chunk = self.index.open_chunk(place);
            frame.checks.push(command("GET", &key::flag_min_version(place)));
            frame.checks.push(chunk.map_or_else(|| redis::cmd("PING"), |chunk| command("EXISTS", chunk)));
        }
        frame
    }

    fn list(&mut self, link: &Handle, frame: &mut Frame<'_>, place: &str, entries: &[(usize, &Entry)]) {
        let is_new = |number: &usize| frame.is_new.get(*number).copied().unwrap_or(true);
        let new: Vec<_> = entries.iter().filter(|(number, _)| is_new(number)).collect();
        for members in new.chunks(CALL_MEMBERS_MAX) {
            let target = self.index.place(place, members.len());
            let mut call = if target.is_new {
                let mut call = link.call(Script::List, 2);
                call.arg(&target.chunk).arg(key::registry(place));
                call.arg(now_ms()).arg(millis(self.index.chunk_life()));
                call
            } else {
                command("RPUSHX", &target.chunk)
            };
            for (_, entry) in members {
                call.arg(entry.member.as_slice());
            }
            frame.listing.push(call);
        }
    }

    async fn carry_out(
        &self,
        link: &Handle,
        (listing, checks): (Vec<Cmd>, Vec<Cmd>),
        frame: &Frame<'_>,
        entries: &[&Entry],
        written: &mut Written,
    ) -> Result<Attempt, CacheError> {
        let replies = self.client.send(link, listing).await?;
        if let Some(cache_error) = replies.iter().find_map(refusal) {
            // An entry that cannot be listed is not written, because no change would find it.
            let count = u64::try_from(entries.len()).unwrap_or(u64::MAX);
            written.given_up.push((cache_error.reason(), count));
            return Ok(Attempt::Done);
        }
        if replies.contains(&Value::Int(0)) {
            return Ok(Attempt::Lost);
        }
        let pending = PendingWrites { client: &self.client, link, ttl: self.ttl };
        let gone = pending.put(writes(entries, &frame.is_new), written).await?;
        let checked = self.client.send(link, checks).await?;
        for (pair, (place, lowest)) in checked.chunks(2).zip(&frame.flags) {
            let [flag_min_version, chunk] = pair else { continue };
            if *chunk == Value::Int(0) {
                return Ok(Attempt::Lost);
            }
            let flag_min_version = number(flag_min_version)
                .ok_or_else(|| self.client.unexpected_reply(link, "a floor is no number"))?;
            if *lowest < flag_min_version {
                written.outdated.insert((*place).to_owned(), flag_min_version);
            }
        }
        Ok(if gone.is_empty() { Attempt::Done } else { Attempt::Gone(gone) })
    }
}

/// Values to be written for these entries, with their indexes.
fn writes<'e>(entries: &[&'e Entry], is_new: &[bool]) -> Vec<ValueWrite<'e>> {
    let mut writes = Vec::with_capacity(entries.len());
    for (number, (entry, is_new)) in entries.iter().copied().zip(is_new.iter().copied()).enumerate() {
        let full = ValueWrite { key: &entry.keys.evaluation, value: &entry.value, entry, number, is_new };
        let plain = entry.keys.plain.as_deref();
        writes.push(full);
        writes.extend(plain.map(|key| ValueWrite { key, value: &entry.plain_value, ..full }));
    }
    writes
}

/// Longest lifetime of a value, including those of the edge layers.
pub fn longest_life(ttl: Duration) -> Duration {
    ttl.mul_f64(1.0 + JITTER).max(DATA_LIFE)
}

pub fn command(name: &str, key: &str) -> Cmd {
    let mut command = redis::cmd(name);
    command.arg(key);
    command
}

fn text(reply: Value) -> Option<String> {
    redis::from_redis_value::<Option<String>>(reply).ok().flatten()
}

/// Parses a number reply: 0 if the key does not exist, `None` if the reply is not a number.
pub fn number(reply: &Value) -> Option<u64> {
    match reply {
        Value::Nil => Some(0),
        Value::Int(number) => u64::try_from(*number).ok(),
        Value::BulkString(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    }
}

pub fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}
