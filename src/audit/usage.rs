//! Sums a batch's usage per flag, variant and minute, so that the database gets a few rows for thousands of
//! evaluations.

use std::sync::Arc;

use ahash::AHashMap;

use crate::unleash_api::client_metrics::ClientMetricsRecord;

use super::batch::{Batch, Content, Entry, UNTIMED};
use super::sanitize;

pub const MINUTE: i64 = 60;
pub const HOUR: i64 = 3_600;
pub const DAY: i64 = 86_400;
/// Period length, length of the next longer period, and how long usage is kept at this length, in seconds. Afterwards
/// it is merged into the longer period, or deleted.
pub const KEPT: [(i64, Option<i64>, i64); 3] =
    [(MINUTE, Some(HOUR), 2 * DAY), (HOUR, Some(DAY), 32 * DAY), (DAY, None, 400 * DAY)];
/// Rows that one step merges or deletes.
pub const MOVED_ROWS: i64 = 5_000;
/// Longest variant name in a row, in bytes, so that the name fits into an index.
const MAX_VARIANT_BYTES: usize = 255;

/// Longest time by which the times of SDKs may differ from ours, in seconds.
const MAX_SDK_SKEW: i64 = DAY;

/// Usage of one variant of a flag within one minute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    pub environment: Arc<str>,
    pub flag: Arc<str>,
    /// Start of the minute, in seconds since 1970.
    pub starts_at: i64,
    /// Name of the variant; empty if there is none.
    pub variant: Arc<str>,
    pub sums: Sums,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    pub evaluations: i64,
    pub enabled: i64,
    pub errors: i64,
    pub timed: i64,
    pub nanoseconds: i64,
}

/// Usage of the accepted evaluations among `entries`, in the order of the table's key. Every sink locks rows in this
/// order, after those of the flags, which prevents deadlocks.
pub fn used(batch: &Batch, entries: &[Entry]) -> Vec<Used> {
    let mut sums: AHashMap<(usize, i64, u32), Sums> = AHashMap::new();
    for entry in entries.iter().filter(|entry| entry.refusal.is_none()) {
        if let Content::Evaluation { flag, counts: true, evaluated_at, outcome, .. } = entry.content {
            let minute = evaluated_at.div_euclid(MINUTE * 1_000_000) * MINUTE;
            let sums = sums.entry((flag, minute, outcome.variant)).or_default();
            sums.evaluations += 1;
            sums.enabled += i64::from(outcome.enabled);
            sums.errors += i64::from(outcome.is_error);
            if outcome.nanoseconds > UNTIMED {
                sums.timed += 1;
                sums.nanoseconds = sums.nanoseconds.saturating_add(outcome.nanoseconds);
            }
        }
    }
    let mut used: Vec<Used> = Vec::with_capacity(sums.len());
    for ((flag, starts_at, variant), sums) in sums {
        if let (Some((environment, flag)), Some(variant)) =
            (batch.flags.flag(flag), batch.flags.variant_name(variant))
        {
            let (environment, flag, variant) =
                (Arc::clone(environment), Arc::clone(flag), storable_name(variant));
            used.push(Used { environment, flag, starts_at, variant, sums });
        }
    }
    merge(&mut used);
    used
}

/// Sorts usage by the table's key, and adds up what has the same key: names that were cut may be equal.
fn merge(used: &mut Vec<Used>) {
    used.sort_by(|a, b| key(a).cmp(&key(b)));
    used.dedup_by(|later, earlier| {
        let same = key(later) == key(earlier);
        if same {
            earlier.sums.add(&later.sums);
        }
        same
    });
}

/// Usage that SDKs of Unleash have reported, among the accepted entries, in the order of the table's key.
pub fn reported(entries: &[Entry]) -> Vec<Used> {
    let accepted = entries.iter().filter(|entry| entry.refusal.is_none());
    let mut used: Vec<Used> = accepted
        .filter_map(|entry| match &entry.content {
            Content::SdkUsage(used) => Some(used.iter().cloned()),
            _ => None,
        })
        .flatten()
        .collect();
    merge(&mut used);
    used
}

/// Usage that one record of SDK metrics reports. A time that is far from that of the record counts as the record's.
pub fn of_record(record: &ClientMetricsRecord) -> Vec<Used> {
    let mut used = Vec::new();
    let received = record.received_at.timestamp();
    for counts in &record.metrics {
        let at = Some(counts.timestamp.timestamp()).filter(|at| (at - received).abs() <= MAX_SDK_SKEW);
        let starts_at = at.unwrap_or(received).div_euclid(MINUTE) * MINUTE;
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let mut add = |variant: &str, evaluations: i64, enabled: i64| {
            if evaluations > 0 {
                used.push(Used {
                    environment: storable_name(&Arc::from(record.environment.as_str())),
                    flag: storable_name(&Arc::from(counts.feature_name.as_str())),
                    starts_at,
                    variant: storable_name(&Arc::from(variant)),
                    sums: Sums { evaluations, enabled, ..Sums::default() },
                });
            }
        };
        let (mut yes, no) = (count(counts.yes), count(counts.no));
        // SDKs count `disabled` as a variant: the flag had none.
        for (variant, times) in counts.variants.iter().filter(|(variant, _)| *variant != "disabled") {
            let times = count(*times).min(yes);
            add(variant, times, times);
            yes -= times;
        }
        add("", yes.saturating_add(no), yes);
    }
    used
}

fn key(used: &Used) -> (&str, &str, i64, &str) {
    (&used.environment, &used.flag, used.starts_at, &used.variant)
}

fn storable_name(name: &Arc<str>) -> Arc<str> {
    if name.len() <= MAX_VARIANT_BYTES {
        return Arc::clone(name);
    }
    let mut name = std::borrow::Cow::Borrowed(&**name);
    sanitize::clip(&mut name, MAX_VARIANT_BYTES);
    name.into()
}

impl Sums {
    pub fn add(&mut self, other: &Self) {
        self.evaluations = self.evaluations.saturating_add(other.evaluations);
        self.enabled = self.enabled.saturating_add(other.enabled);
        self.errors = self.errors.saturating_add(other.errors);
        self.timed = self.timed.saturating_add(other.timed);
        self.nanoseconds = self.nanoseconds.saturating_add(other.nanoseconds);
    }
}
