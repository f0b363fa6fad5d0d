//! Result of a replay: the number of evaluations, requests and users with a different result, per flag, with examples.

use std::collections::BTreeMap;

use ahash::{AHashSet, RandomState};
use chrono::{DateTime, SecondsFormat};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::audit::evaluation::{Evaluation, Source};

use super::compare::{Comparison, ReplayedResult, Unrepeatable};

/// Upper bound of examples per flag.
const EXAMPLES_MAX: usize = 5;
/// Upper bound of distinct users or requests that are counted.
const DISTINCT_MAX_COUNT: usize = 4_000_000;
/// Upper bound of flags with differences that are listed.
const FLAGS_MAX_COUNT: usize = 10_000;
/// Upper bound of distinct (recorded, repeated) pairs that are counted per flag.
const PAIRS_MAX_COUNT: usize = 1_000;

#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Number of evaluations read.
    pub evaluations: u64,
    /// Number of evaluations that no proposal affects.
    pub untouched: u64,
    pub same: u64,
    pub different: u64,
    pub unrepeatable: BTreeMap<Unrepeatable, u64>,
    /// Users with a different result.
    pub users: Distinct,
    pub requests: Distinct,
    pub flags: Vec<FlagReport>,
    /// Number of differences of flags beyond the list's limit.
    pub other_flags: u64,
    #[serde(skip)]
    numbers: BTreeMap<(String, String), usize>,
}

/// Differences of one flag.
#[derive(Debug, Serialize)]
pub struct FlagReport {
    pub environment: String,
    pub flag_name: String,
    pub different: u64,
    pub users: Distinct,
    #[serde(serialize_with = "pairs")]
    pub variants: BTreeMap<Pair, u64>,
    #[serde(serialize_with = "pairs")]
    pub reasons: BTreeMap<Pair, u64>,
    pub examples: Vec<Example>,
}

/// Recorded value and repeated value.
pub type Pair = (Option<String>, Option<String>);

#[derive(Debug, Serialize)]
pub struct Example {
    pub event_id: String,
    pub request_id: Option<String>,
    pub user_id: Option<String>,
    pub evaluated_at: String,
    pub context: Option<Box<RawValue>>,
    pub flag_version: Option<i64>,
    pub recorded: ReplayedResult,
    pub again: ReplayedResult,
}

/// Counts distinct texts, exactly up to a limit of four million.
#[derive(Debug, Default)]
pub struct Distinct {
    hashes: AHashSet<u64>,
    pub is_full: bool,
}

impl Report {
    /// Removes users, requests and contexts from the examples.
    pub fn hide_users(&mut self) {
        for example in self.flags.iter_mut().flat_map(|flag| &mut flag.examples) {
            (example.user_id, example.request_id, example.context) = (None, None, None);
        }
    }

    /// Number of evaluations that could not be repeated.
    pub fn unrepeatable_count(&self) -> u64 {
        self.unrepeatable.values().sum()
    }

    pub(super) fn count(&mut self, row: &Evaluation<'_>, verdict: Comparison) {
        self.evaluations += 1;
        match verdict {
            Comparison::Same => self.same += 1,
            Comparison::Untouched => self.untouched += 1,
            Comparison::Not(why) => *self.unrepeatable.entry(why).or_default() += 1,
            Comparison::Different(told) => self.differs(row, told),
        }
    }

    fn differs(&mut self, row: &Evaluation<'_>, again: ReplayedResult) {
        self.different += 1;
        self.requests.add(&request(row));
        if let Some(user) = &row.user_id {
            self.users.add(user);
        }
        let key = (row.environment.clone().into_owned(), row.flag_name.clone().into_owned());
        let number = match self.numbers.get(&key) {
            Some(number) => *number,
            None if self.flags.len() >= FLAGS_MAX_COUNT => {
                self.other_flags += 1;
                return;
            }
            None => {
                self.flags.push(FlagReport::new(key.clone()));
                self.numbers.insert(key, self.flags.len() - 1);
                self.flags.len() - 1
            }
        };
        if let Some(flag) = self.flags.get_mut(number) {
            flag.count(row, again);
        }
    }
}

impl FlagReport {
    fn new((environment, flag_name): (String, String)) -> Self {
        let (variants, reasons, users) = Default::default();
        Self { environment, flag_name, different: 0, users, variants, reasons, examples: Vec::new() }
    }

    fn count(&mut self, row: &Evaluation<'_>, again: ReplayedResult) {
        self.different += 1;
        if let Some(user) = &row.user_id {
            self.users.add(user);
        }
        let recorded = ReplayedResult::of_row(row);
        let variants = (recorded.variant.clone(), again.variant.clone());
        let reasons = (Some(recorded.reason.clone()), Some(again.reason.clone()));
        for (pairs, pair) in [(&mut self.variants, variants), (&mut self.reasons, reasons)] {
            if pairs.len() < PAIRS_MAX_COUNT || pairs.contains_key(&pair) {
                *pairs.entry(pair).or_default() += 1;
            }
        }
        if self.examples.len() < EXAMPLES_MAX {
            let at = DateTime::from_timestamp_micros(row.evaluated_at).unwrap_or_default();
            self.examples.push(Example {
                event_id: row.event_id.to_string(),
                request_id: row.request_id.as_deref().map(str::to_owned),
                user_id: row.user_id.as_deref().map(str::to_owned),
                evaluated_at: at.to_rfc3339_opts(SecondsFormat::Micros, true),
                context: RawValue::from_string(row.context.clone().into_owned()).ok(),
                flag_version: row.flag_version,
                recorded,
                again,
            });
        }
    }
}

impl Distinct {
    pub fn count(&self) -> usize {
        self.hashes.len()
    }

    fn add(&mut self, text: &str) {
        // A fixed seed makes the counts reproducible.
        let hash = RandomState::with_seeds(1, 2, 3, 4).hash_one(text);
        if self.hashes.len() < DISTINCT_MAX_COUNT {
            self.hashes.insert(hash);
        } else if !self.hashes.contains(&hash) {
            self.is_full = true;
        }
    }
}

impl Serialize for Distinct {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.count().serialize(serializer)
    }
}

/// Identifies the request of an evaluation.
fn request(row: &Evaluation<'_>) -> String {
    match &row.source {
        Source::Kafka { topic, partition, offset, .. } => format!("{topic}/{partition}/{offset}"),
        // All events of one call share its request id, if the caller gave one.
        Source::Api(_) | Source::Unknown => match &row.request_id {
            Some(id) => id.clone().into_owned(),
            None => row.event_id.to_string(),
        },
    }
}

fn pairs<S: Serializer>(pairs: &BTreeMap<Pair, u64>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Counted<'p> {
        recorded: Option<&'p str>,
        again: Option<&'p str>,
        evaluations: u64,
    }
    serializer.collect_seq(pairs.iter().map(|((recorded, again), evaluations)| Counted {
        recorded: recorded.as_deref(),
        again: again.as_deref(),
        evaluations: *evaluations,
    }))
}
