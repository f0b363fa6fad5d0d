//! Edge layers in the memory of this process, for `dev` without Redis. Values have the same contents and lifetimes, and
//! are read under the same conditions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use crate::config::Config;
use crate::flag::{Cacheability, Moment};
use crate::metrics::Metrics;
use crate::redis_cache::key;
use crate::redis_cache::reader::{Miss, oldest};
use crate::redis_cache::subject::{Clock, Entry, EvaluationScope};
use crate::store::Store;

use super::entry::add_entries;
use super::{EdgeRequest, Found, Layer, frame};

/// Upper bound of values. At this number expired values are removed; if that is not enough, all are.
const MAX_VALUES_COUNT: usize = 100_000;

/// In-memory edge layers, shared by all calls.
#[derive(Debug)]
pub struct EdgeMemory {
    config: Arc<Config>,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    hostname: String,
    values: Mutex<HashMap<String, Kept>>,
}

#[derive(Debug)]
struct Kept {
    /// Place of the flag that the value belongs to.
    place: String,
    value: Vec<u8>,
    until: Instant,
}

impl EdgeMemory {
    pub fn new(config: &Arc<Config>, store: &Arc<Store>, metrics: &Arc<Metrics>) -> Self {
        Self {
            config: Arc::clone(config),
            store: Arc::clone(store),
            metrics: Arc::clone(metrics),
            hostname: gethostname::gethostname().to_string_lossy().into_owned(),
            values: Mutex::default(),
        }
    }

    /// Returns the cached value if it is not older than the definition in force of the flag and of the flags it depends
    /// on (for the list: of any flag).
    pub fn read(&self, asked: &EdgeRequest, min_version: u64) -> Found {
        let least = match asked.layer {
            Layer::List => Some(self.store.version().max(min_version)),
            _ => oldest(&self.store, &asked.environment, &asked.flag, min_version),
        };
        let read = least.ok_or(Miss::Absent).and_then(|least| self.get(&asked.key(), least));
        let outcome = read.as_ref().map_or_else(|miss| miss.as_str(), |_| "hit");
        self.metrics.edge.count_read(asked.layer.as_str(), outcome);
        Found { value: read.ok(), flag_data: self.flag_data(asked) }
    }

    fn flag_data(&self, asked: &EdgeRequest) -> Option<(u64, Box<RawValue>)> {
        if asked.layer != Layer::Endpoint {
            return None;
        }
        let version = self.own_version(asked)?;
        let data = self.get(&key::data(&asked.environment, &asked.flag), version).ok()?;
        let frame = frame(&data)?;
        Some((frame.basis(), frame.flag_data?.to_owned()))
    }

    fn own_version(&self, asked: &EdgeRequest) -> Option<u64> {
        let snapshot = self.store.load();
        Some(snapshot.environment(&asked.environment)?.get(&asked.flag)?.version)
    }

    fn get(&self, key: &str, least: u64) -> Result<Vec<u8>, Miss> {
        let values = self.values();
        let kept = values.get(key).filter(|kept| kept.until > Instant::now()).ok_or(Miss::Absent)?;
        match frame(&kept.value).map(|frame| frame.basis()) {
            Some(basis) if basis >= least => Ok(kept.value.clone()),
            Some(_) => Err(Miss::Stale),
            None => Err(Miss::Unreadable),
        }
    }

    /// Caches the value for a request, evaluated from the flags in force now.
    pub fn keep(&self, asked: &EdgeRequest, with_data: bool) {
        if self.config.privacy.hash_user_ids && asked.user.is_some() {
            return self.metrics.edge.count_write("private", 1);
        }
        let (clock, snapshot) = (Clock::now(), self.store.load());
        let app_name = &self.config.unleash.app_name;
        let moment = Moment { now: &clock.text, hostname: &self.hostname, app_name };
        let scope = EvaluationScope {
            snapshot: &snapshot,
            moment,
            now_ms: clock.ms,
            has_tables: self.config.has_tables(),
        };
        let mut entries = Vec::with_capacity(2);
        if let Err(reason) = add_entries(&mut entries, asked, with_data, &scope, &clock.text) {
            self.metrics.edge.count_write(reason, 1);
        }
        let mut values = self.values();
        for entry in entries {
            if let Some(until) = end(&entry, asked.layer.life(), clock.ms) {
                make_room(&mut values);
                let Entry { place, keys, value, .. } = entry;
                values.insert(keys.evaluation, Kept { place, value, until });
                self.metrics.edge.count_write("written", 1);
            }
        }
    }

    /// Removes all cached values of a flag, and the list of its environment. Returns the number of the flag's keys.
    pub fn clear(&self, environment: &str, flag: &str) -> u64 {
        let place = key::place(environment, flag);
        let mut values = self.values();
        let before = values.len();
        values.retain(|_, kept| kept.place != place);
        let removed = before - values.len();
        values.remove(&key::list(environment));
        u64::try_from(removed).unwrap_or(u64::MAX)
    }

    /// Number of values that have not expired.
    pub fn keys(&self) -> u64 {
        let now = Instant::now();
        let living = self.values().values().filter(|kept| kept.until > now).count();
        u64::try_from(living).unwrap_or(u64::MAX)
    }

    fn values(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        // A panic cannot leave the map inconsistent, because every change of it is a single operation.
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Time at which the value expires. `None` if it has expired already.
fn end(entry: &Entry, life: Duration, now_ms: i64) -> Option<Instant> {
    let life = entry.life.unwrap_or(life);
    let life = match entry.cacheability {
        Cacheability::UntilChanged => life,
        Cacheability::UntilTime(until_ms) => {
            life.min(Duration::from_millis(u64::try_from(until_ms.saturating_sub(now_ms)).ok()?))
        }
        Cacheability::Never(_) => return None,
    };
    Some(Instant::now() + life)
}

fn make_room(values: &mut HashMap<String, Kept>) {
    if values.len() < MAX_VALUES_COUNT {
        return;
    }
    let now = Instant::now();
    values.retain(|_, kept| kept.until > now);
    if values.len() >= MAX_VALUES_COUNT {
        values.clear();
    }
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;

    fn kept(life: Duration) -> Kept {
        Kept { place: "e:f".to_owned(), value: Vec::new(), until: Instant::now() + life }
    }

    #[test]
    fn the_number_of_values_is_limited() {
        let mut values = HashMap::new();
        for number in 0..MAX_VALUES_COUNT {
            let life = if number % 2 == 0 { Duration::ZERO } else { Duration::from_secs(60) };
            values.insert(number.to_string(), kept(life));
        }
        make_room(&mut values);
        assert_eq!(values.len(), MAX_VALUES_COUNT / 2, "those that have ended are gone");
        for number in 0..MAX_VALUES_COUNT {
            values.insert(number.to_string(), kept(Duration::from_secs(60)));
        }
        make_room(&mut values);
        assert!(values.is_empty());
    }

    #[test]
    fn a_value_ends_when_its_outcome_may_change() {
        let entry = |cacheability| Entry {
            place: String::new(),
            keys: crate::redis_cache::subject::Keys { evaluation: String::new(), plain: None },
            value: Vec::new(),
            plain_value: Vec::new(),
            basis: 1,
            cacheability,
            life: Some(Duration::from_secs(30)),
            member: Vec::new(),
        };
        let life = |cacheability| {
            end(&entry(cacheability), Duration::from_secs(60), 1_000).map(|end| end - Instant::now())
        };
        assert!(life(Cacheability::UntilChanged).unwrap() > Duration::from_secs(29));
        assert!(life(Cacheability::UntilTime(2_000)).unwrap() <= Duration::from_secs(1));
        assert_eq!(life(Cacheability::UntilTime(999)), None);
        assert_eq!(life(Cacheability::Never("random")), None);
    }
}
