//! Preloads the cache: evaluates given subjects now, without an event.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::config::Config;
use crate::flag::{EnvironmentFlags, Moment};
use crate::store::Store;

use super::client::Client;
use super::error::CacheError;
use super::refresh;
use super::subject::{Clock, Entry, EvaluationScope, Subject};
use super::writer::{Writer, Written};

/// Upper bound of values that are written together.
const BATCH_VALUES: usize = 512;

/// Preloads outcomes. All calls share one writer.
#[derive(Debug)]
pub struct Preloader {
    writer: Mutex<Writer>,
    client: Client,
    store: Arc<Store>,
    config: Arc<Config>,
    hostname: String,
}

/// Result of preloading.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Preloaded {
    pub written: u64,
    /// Number of values that were not written because the cached value is newer.
    pub newer: u64,
    /// Number of subjects without a cached value, by reason.
    pub skipped: BTreeMap<&'static str, u64>,
    /// Version of the flags in force at the start.
    pub flags_version: u64,
}

impl Preloader {
    pub(super) fn new(client: &Client, config: &Arc<Config>, store: &Arc<Store>) -> Self {
        Self {
            writer: Mutex::new(Writer::new(client.clone(), config.redis.cache_ttl)),
            client: client.clone(),
            store: Arc::clone(store),
            config: Arc::clone(config),
            hostname: gethostname::gethostname().to_string_lossy().into_owned(),
        }
    }

    /// Writes the outcomes of all subjects. After an error, values written before it stay.
    ///
    /// `complete` returns the context that tables of attributes complete for the subject with this index and the flags of
    /// its environment; `None` if the subject's own context stays as it is.
    pub async fn preload(
        &self,
        subjects: &[Subject<'_>],
        complete: impl Fn(usize, &EnvironmentFlags) -> Option<String>,
    ) -> Result<Preloaded, CacheError> {
        let mut writer = self.writer.lock().await;
        let mut preloaded = Preloaded { flags_version: self.store.version(), ..Preloaded::default() };
        for (some, first) in subjects.chunks(BATCH_VALUES).zip((0..).step_by(BATCH_VALUES)) {
            let mut entries = Vec::with_capacity(some.len());
            self.in_scope(|scope, at| {
                for (subject, index) in some.iter().zip(first..) {
                    // The outcome for the hash of a user id is not the outcome for the user.
                    if self.config.privacy.hash_user_ids && subject.user.is_some() {
                        *preloaded.skipped.entry("private").or_default() += 1;
                        continue;
                    }
                    // One at a time, because a request may name thousands of outcomes for a large context.
                    let flags = scope.snapshot.environment(subject.environment);
                    let completed = flags.and_then(|flags| complete(index, flags));
                    let context = completed.as_deref().unwrap_or(subject.context);
                    match (Subject { context, ..*subject }).entry(scope, at) {
                        Ok(entry) => entries.push(entry),
                        Err(reason) => *preloaded.skipped.entry(reason).or_default() += 1,
                    }
                }
            });
            let written = writer.write(&entries).await?;
            for (reason, count) in &written.given_up {
                *preloaded.skipped.entry(reason).or_default() += count;
            }
            preloaded.written += written.values;
            preloaded.newer += written.refused;
            self.refresh(&entries, written).await?;
        }
        Ok(preloaded)
    }

    /// Refreshes outcomes of flags that changed after the evaluation, because the change may not have found their keys.
    async fn refresh(&self, entries: &[Entry], written: Written) -> Result<(), CacheError> {
        for (place, flag_min_version) in written.outdated {
            let members = entries.iter().filter(|entry| entry.place == place);
            let members = members.map(|entry| entry.member.as_slice());
            let work = self.in_scope(|scope, at| refresh::page(scope, &place, flag_min_version, members, at));
            refresh::apply(&self.client, &work).await?;
        }
        Ok(())
    }

    fn in_scope<T>(&self, work: impl FnOnce(&EvaluationScope<'_>, &str) -> T) -> T {
        let (clock, snapshot) = (Clock::now(), self.store.load_full());
        let app_name = &self.config.unleash.app_name;
        let moment = Moment { now: &clock.text, hostname: &self.hostname, app_name };
        work(
            &EvaluationScope {
                snapshot: &snapshot,
                moment,
                now_ms: clock.ms,
                has_tables: self.config.has_tables(),
            },
            &clock.text,
        )
    }
}
