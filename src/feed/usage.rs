//! Usage counts of flags: collected by all evaluators, reported to Unleash.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

/// Maximum number of flags per environment. Counts beyond the limits are dropped, and the dropped evaluations
/// are counted.
pub const FLAGS_MAX: usize = 50_000;
/// Maximum number of variants that are counted per flag.
pub const VARIANTS_PER_FLAG_MAX: usize = 200;
/// Maximum age of unreported counts in hours. Unleash aggregates by the hour and cannot use older ones.
pub const KEPT_HOURS_MAX: i64 = 24;

/// Counts per environment since the last report, shared by all evaluators.
#[derive(Debug, Default)]
pub struct Usage {
    /// Counts of the environments that are reported; others are not collected.
    buckets: Mutex<BTreeMap<String, Bucket>>,
}

/// Counts of one environment over a period.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bucket {
    pub since: Option<DateTime<Utc>>,
    pub flags: HashMap<String, Counts>,
    pub dropped: Dropped,
}

/// Counts of one flag in the format of Unleash's API.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub yes: u64,
    pub no: u64,
    pub variants: BTreeMap<String, u64>,
}

/// Number of evaluations whose counts were dropped, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    pub too_many_flags: u64,
    pub too_many_variants: u64,
    pub too_old: u64,
}

impl Usage {
    /// Creates counters for the environments whose usage is reported; none if reporting is disabled.
    pub fn new(environments: impl IntoIterator<Item = String>) -> Self {
        let buckets = environments.into_iter().map(|name| (name, Bucket::default())).collect();
        Self { buckets: Mutex::new(buckets) }
    }

    /// Adds counts. To be called about once per second per worker, not for each evaluation.
    pub fn merge<'v>(
        &self,
        environment: &str,
        flag: &str,
        yes: u64,
        no: u64,
        variants: impl Iterator<Item = (&'v str, u64)>,
    ) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get_mut(environment) {
            bucket.since.get_or_insert_with(Utc::now);
            bucket.add(flag, yes, no, variants);
        }
    }

    /// Takes the collected counts for a report.
    pub(super) fn take(&self, environment: &str) -> Bucket {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.get_mut(environment).map(std::mem::take).unwrap_or_default()
    }

    /// Returns counts that could not be reported. They are part of the next report, unless they are too old.
    pub(super) fn give_back(&self, environment: &str, unreported: Bucket, now: DateTime<Utc>) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bucket) = buckets.get_mut(environment) else {
            return;
        };
        let oldest = now - TimeDelta::hours(KEPT_HOURS_MAX);
        if unreported.since.is_some_and(|since| since < oldest) {
            bucket.dropped.too_old += unreported.evaluations();
            return;
        }
        bucket.since = [bucket.since, unreported.since].into_iter().flatten().min();
        for (flag, Counts { yes, no, variants }) in &unreported.flags {
            let variants = variants.iter().map(|(name, count)| (name.as_str(), *count));
            bucket.add(flag, *yes, *no, variants);
        }
    }
}

impl Bucket {
    pub fn evaluations(&self) -> u64 {
        self.flags.values().map(|counts| counts.yes + counts.no).sum()
    }

    fn add<'v>(&mut self, flag: &str, yes: u64, no: u64, variants: impl Iterator<Item = (&'v str, u64)>) {
        if !self.flags.contains_key(flag) {
            if self.flags.len() >= FLAGS_MAX {
                self.dropped.too_many_flags += yes + no;
                return;
            }
            self.flags.insert(flag.to_owned(), Counts::default());
        }
        let Some(counts) = self.flags.get_mut(flag) else {
            return;
        };
        counts.yes += yes;
        counts.no += no;
        for (variant, count) in variants {
            let full = counts.variants.len() >= VARIANTS_PER_FLAG_MAX;
            match counts.variants.get_mut(variant) {
                Some(sum) => *sum += count,
                None if full => self.dropped.too_many_variants += count,
                None => drop(counts.variants.insert(variant.to_owned(), count)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage() -> Usage {
        Usage::new(["dev".to_owned()])
    }

    fn counts(bucket: &Bucket, flag: &str) -> (u64, u64, u64) {
        let counts = bucket.flags.get(flag).cloned().unwrap_or_default();
        (counts.yes, counts.no, counts.variants.values().sum())
    }

    #[test]
    fn counts_add_up_and_are_taken_once() {
        let usage = usage();
        usage.merge("dev", "a", 2, 1, [("blue", 2), ("disabled", 1)].into_iter());
        usage.merge("dev", "a", 1, 0, [("blue", 1)].into_iter());
        usage.merge("elsewhere", "a", 9, 9, std::iter::empty());
        let bucket = usage.take("dev");
        assert_eq!(counts(&bucket, "a"), (3, 1, 4));
        assert!(bucket.since.is_some());
        assert_eq!(usage.take("dev"), Bucket::default());
        assert_eq!(usage.take("elsewhere"), Bucket::default());
    }

    #[test]
    fn what_could_not_be_reported_goes_with_the_next_report() {
        let usage = usage();
        usage.merge("dev", "a", 1, 0, [("blue", 1)].into_iter());
        let first = usage.take("dev");
        let since = first.since;
        usage.merge("dev", "a", 0, 5, std::iter::empty());
        usage.give_back("dev", first, Utc::now());
        let second = usage.take("dev");
        assert_eq!((counts(&second, "a"), second.since), ((1, 5, 1), since));
    }

    #[test]
    fn everything_is_bounded_and_counted() {
        let usage = usage();
        for n in 0..FLAGS_MAX + 7 {
            usage.merge("dev", &format!("flag-{n}"), 1, 1, std::iter::empty());
        }
        let variants: Vec<String> = (0..VARIANTS_PER_FLAG_MAX + 3).map(|n| format!("variant-{n}")).collect();
        usage.merge("dev", "flag-0", 0, 0, variants.iter().map(|name| (name.as_str(), 1)));
        let bucket = usage.take("dev");
        assert_eq!(bucket.flags.len(), FLAGS_MAX);
        assert_eq!(bucket.dropped, Dropped { too_many_flags: 14, too_many_variants: 3, too_old: 0 });

        let later = Utc::now() + TimeDelta::hours(KEPT_HOURS_MAX + 1);
        let evaluations = bucket.evaluations();
        usage.give_back("dev", bucket, later);
        assert_eq!(usage.take("dev").dropped.too_old, evaluations);
    }
}
