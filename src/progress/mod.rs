//! Tracks whether each partition that this process reads makes progress, and if not, the reason.
//!
//! ```text
//!  reader ── assigned, committed, position, blocked ──►┐            ┌──► health   (`Progress::add_to`)
//!                                                       ├─ Progress ─┤
//!  Kafka ─── end offsets, committed offsets ───────────►┘            └──► gauges, log (`Progress::observe`)
//! ```
//!
//! A partition either makes progress or has a named reason. It is *stuck* if records wait in it and its committed
//! offset has not moved for `FLAGSTREAM_HEALTH__STUCK_AFTER`. Health then reports topic, partition, offset, duration
//! and reason, and the gauge `…_stuck{partition,reason}` is 1 until the offset moves or the partition is assigned
//! elsewhere. A partition that cannot be read at all is reported in health immediately.

mod partition;
#[cfg(test)]
mod tests;
pub mod watch;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::HealthConfig;
use crate::health::{Report, State};
use crate::log_limit::limited;
use crate::metrics::{PartitionGauges, StuckLabels};

pub use self::partition::{Reason, Stuck};

use self::partition::Partition;

/// Maximum number of partitions named in one health text or log line.
const MAX_NAMED_COUNT: usize = 5;

/// The progress of one topic's partitions. Clones share their state, which any thread may update.
#[derive(Debug, Clone)]
pub struct Progress(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    topic: Arc<str>,
    stuck_after: Duration,
    /// Whether stuck partitions make the process not ready.
    stuck_not_ready: bool,
    gauges: PartitionGauges,
    partitions: Mutex<BTreeMap<i32, Partition>>,
}

impl Progress {
    /// Creates the state without assigned partitions.
    pub fn new(topic: &str, config: &HealthConfig, gauges: PartitionGauges) -> Self {
        Self(Arc::new(Shared {
            topic: topic.into(),
            stuck_after: config.stuck_after,
            stuck_not_ready: config.stuck_not_ready,
            gauges,
            partitions: Mutex::default(),
        }))
    }

    pub fn topic(&self) -> &str {
        &self.0.topic
    }

    /// Replaces the partitions of `reader`, which is any number that identifies it in this process. Partitions that it
    /// no longer has are removed together with their series, unless another reader has taken them over.
    pub fn assign(&self, reader: usize, assigned: &[i32]) {
        let mut partitions = self.lock();
        for partition in assigned {
            let known = partitions.entry(*partition).or_insert_with(|| Partition::new(reader));
            if known.reader != reader {
                self.forget_series(*partition, known);
                *known = Partition::new(reader);
            }
        }
        partitions.retain(|partition, known| {
            let keep = known.reader != reader || assigned.contains(partition);
            if !keep {
                self.forget_series(*partition, known);
            }
            keep
        });
    }

    /// Records that everything before `next` is processed: committed to the group, or written to the database. Clears
    /// the block.
    pub fn committed(&self, partition: i32, next: i64) {
        self.update(partition, |known| known.committed(next, Instant::now()));
    }

    /// Records the position from before this reader started, as reported by a broker or database. Unlike
    /// [`committed`](Self::committed), it does not count as movement and never replaces a known position.
    pub fn starts_at(&self, partition: i32, next: i64) {
        self.update(partition, |known| known.starts_at(next, Instant::now()));
    }

    /// Records that the reader has passed everything before `position` and has no open batch. Transaction markers and
    /// aborted records, which are never committed, then do not count as lag. Must not be called for a paused partition.
    pub fn position(&self, partition: i32, position: i64) {
        self.update(partition, |known| known.passed(position, Instant::now()));
    }

    /// Records the partition's high watermark: the offset after its last record.
    pub fn end(&self, partition: i32, end: i64) {
        self.update(partition, |known| known.ends_at(end, Instant::now()));
    }

    /// Records that the reader cannot continue in this partition. The last reason stays until the partition moves or is
    /// unblocked.
    pub fn blocked(&self, partition: i32, reason: Reason, detail: impl Into<Arc<str>>) {
        let detail = detail.into();
        self.update(partition, |known| known.blocked(reason, detail, Instant::now()));
    }

    /// Clears the block if it has this reason, even if the partition has not moved yet.
    pub fn unblocked(&self, partition: i32, reason: Reason) {
        self.update(partition, |known| known.unblocked(reason));
    }

    /// Blocks all partitions of a reader, for example after a batch that could not be committed.
    pub fn blocked_reader(&self, reader: usize, reason: Reason, detail: impl Into<Arc<str>>) {
        let (detail, now) = (detail.into(), Instant::now());
        for known in self.lock().values_mut().filter(|known| known.reader == reader) {
            known.blocked(reason, Arc::clone(&detail), now);
        }
    }

    /// Partitions whose end offset was not reported for `age`, so that Kafka has to be asked.
    pub fn without_end_for(&self, age: Duration, now: Instant) -> Vec<i32> {
        let partitions = self.lock();
        let is_old = |known: &&Partition| known.end_age(now).is_none_or(|known| known >= age);
        partitions.iter().filter(|(_, known)| is_old(known)).map(|(partition, _)| *partition).collect()
    }

    /// Partitions whose committed offset is not known.
    pub fn without_committed(&self) -> Vec<i32> {
        let partitions = self.lock();
        partitions
            .iter()
            .filter(|(_, known)| known.next().is_none())
            .map(|(partition, _)| *partition)
            .collect()
    }

    /// Number of waiting records in a partition; `None` if it is not assigned or its offsets are not known.
    pub fn lag(&self, partition: i32) -> Option<i64> {
        self.lock().get(&partition)?.lag()
    }

    /// Stuck partitions without a known reason, or with an open transaction as the last one, with their current offset.
    pub fn unexplained(&self, now: Instant) -> Vec<(i32, i64)> {
        let partitions = self.lock();
        let unexplained = partitions
            .iter()
            .filter_map(|(partition, known)| Some((*partition, known.unexplained(self.0.stuck_after, now)?)));
        unexplained.collect()
    }

    /// Whether no records wait in any partition of a reader.
    pub fn is_idle(&self, reader: usize) -> bool {
        self.lock().values().filter(|known| known.reader == reader).all(|known| known.lag() == Some(0))
    }

    /// The stuck partitions, in order.
    pub fn stuck(&self, now: Instant) -> Vec<Stuck> {
        let partitions = self.lock();
        let stuck = partitions
            .iter()
            .filter_map(|(partition, known)| known.stuck(&self.0.topic, *partition, self.0.stuck_after, now));
        stuck.collect()
    }

    /// Updates the gauges, and logs partitions that became stuck or move again. To be called once per second.
    pub fn observe(&self, now: Instant) {
        let (mut stopped, mut moving) = (Vec::new(), Vec::new());
        for (partition, known) in self.lock().iter_mut() {
            if let Some(lag) = known.lag() {
                self.0.gauges.set_lag(*partition, lag);
            }
            let stuck = known.stuck(&self.0.topic, *partition, self.0.stuck_after, now);
            let reason = stuck.as_ref().map(|stuck| stuck.reason);
            let before = std::mem::replace(&mut known.shown, reason);
            if before == reason {
                continue;
            }
            if let Some(before) = before {
                self.0.gauges.stuck.remove(&self.labels(*partition, before));
            }
            match stuck {
                Some(stuck) => {
                    self.0.gauges.stuck.get_or_create(&self.labels(*partition, stuck.reason)).set(1);
                    stopped.push(stuck);
                }
                None => moving.push(*partition),
            }
        }
        if !stopped.is_empty() {
            limited!(warn, key = &self.0.topic, "{}", listed(&stopped));
        }
        if !moving.is_empty() {
            tracing::info!(topic = %self.0.topic, partitions = ?moving, "partitions are no longer stuck");
        }
    }

    /// Adds the problems of the partitions to the report of the component that reads them.
    #[must_use]
    pub fn add_to(&self, report: Report, now: Instant) -> Report {
        let stuck = self.stuck(now);
        let unread = self.unread(&stuck);
        if stuck.is_empty() && unread.is_empty() {
            return report;
        }
        let texts =
            [(!stuck.is_empty()).then(|| listed(&stuck)), (!unread.is_empty()).then(|| listed(&unread))];
        let known = report.detail.clone().into_iter();
        let detail = known.chain(texts.into_iter().flatten()).collect::<Vec<_>>().join("; ");
        let state = if report.state == State::Down { State::Down } else { State::Degraded };
        let blocks_ready = report.blocks_ready || (self.0.stuck_not_ready && !stuck.is_empty());
        Report { state, blocks_ready, ..report.detail(detail) }
    }

    /// Partitions that cannot be read, and are not stuck yet.
    fn unread(&self, stuck: &[Stuck]) -> Vec<Stuck> {
        let partitions = self.lock();
        let others = partitions
            .iter()
            .filter(|(partition, _)| !stuck.iter().any(|stuck| stuck.partition == **partition));
        others.filter_map(|(partition, known)| known.unread(&self.0.topic, *partition)).collect()
    }

    fn update(&self, partition: i32, change: impl FnOnce(&mut Partition)) {
        // Updates of unassigned partitions are ignored.
        if let Some(known) = self.lock().get_mut(&partition) {
            change(known);
        }
    }

    fn forget_series(&self, partition: i32, known: &Partition) {
        self.0.gauges.remove_lag(partition);
        if let Some(reason) = known.shown {
            self.0.gauges.stuck.remove(&self.labels(partition, reason));
        }
    }

    fn labels(&self, partition: i32, reason: Reason) -> StuckLabels {
        self.0.gauges.stuck_labels(&self.0.topic, partition, reason.label())
    }

    /// Recovers a poisoned lock, so that a panicked reader does not break health.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<i32, Partition>> {
        self.0.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first few stuck partitions, and the number of the others.
fn listed(stuck: &[Stuck]) -> String {
    let named: Vec<_> = stuck.iter().take(MAX_NAMED_COUNT).map(ToString::to_string).collect();
    let more = stuck.len().saturating_sub(MAX_NAMED_COUNT);
    let more = if more == 0 { String::new() } else { format!("; and {more} more partitions") };
    named.join("; ") + &more
}
