//! The leader's state and its producer: compares responses with the definitions in force and publishes the
//! changes. All functions here block.

mod sources;

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};

use crate::config::Config;
use crate::log_limit::limited;
use crate::message::avro::Kind;
use crate::message::change::{Change, ChangeKind};
use crate::message::definition::{Definition, Source};
use crate::schema_registry::Formats;
use crate::store::Store;

use super::answer::{Answer, Feature};
use super::definitions;
use super::diff::{Content, Diff, DiffInput, Locals, PlannedChange, diff};
use super::publish::{Handled, PublishError, Publisher, Record, Tombstone};
use super::refusal::{Refusals, Refused};
use super::state::{Environment, KnownDefinition, State, key_of};

/// Limits of one transaction. A first sync takes several transactions, so readers may see intermediate
/// states.
const TRANSACTION_CHANGES_MAX: usize = 1_000;
/// Upper bound in bytes of the changes in one transaction.
const TRANSACTION_BYTES_MAX: usize = 8 * 1024 * 1024;

/// State and producer of one term. The next term reads the definitions in force again.
#[derive(Debug)]
pub struct DefinitionWriter {
    config: Arc<Config>,
    formats: Arc<Formats>,
    /// Source of the highest version in force: kill switches get versions too.
    store: Arc<Store>,
    publisher: Publisher,
    state: State,
    refusals: BTreeMap<(String, Source), Refusals>,
    /// Local flags by environment, as of the last poll.
    locals: BTreeMap<String, Locals>,
}

/// Metadata of the changes in a response.
#[derive(Debug, Clone)]
pub struct ChangeMeta {
    pub environment: String,
    pub source: Source,
    /// Actor to record if the source provides no other.
    pub actor: &'static str,
    pub seen_at: DateTime<Utc>,
}

/// Planned change with its assigned version.
struct Versioned {
    version: u64,
    planned: PlannedChange,
}

impl DefinitionWriter {
    /// Fences former leaders, and then reads the definitions in force. The order matters: no other leader can
    /// write after the fence.
    pub fn open(config: Arc<Config>, formats: Arc<Formats>, store: Arc<Store>) -> Result<Self, PublishError> {
        let publisher = open(&config)?;
        let state = read(&config)?;
        Ok(Self {
            config,
            formats,
            store,
            publisher,
            state,
            refusals: BTreeMap::new(),
            locals: BTreeMap::new(),
        })
    }

    /// Compares `answer` with the state. Returns the changes, the number of flags that the source has in
    /// force, and the new refusals.
    pub fn compare(
        &mut self,
        environment: &str,
        source: Source,
        answer: &Answer,
    ) -> (Diff, usize, Vec<Refused>) {
        if source == Source::Local {
            let by_name = |feature: &Feature| (feature.name.clone(), feature.clone());
            self.locals.insert(environment.to_owned(), answer.features.iter().map(by_name).collect());
        }
        let (nothing, none) = (Environment::new(), Locals::new());
        let known = self.state.environment(environment).unwrap_or(&nothing);
        let locals = self.locals.get(environment).unwrap_or(&none);
        let flags = known.values().filter(|known| known.source == source).count();
        let refusals = self.refusals.entry((environment.to_owned(), source)).or_default();
        let diff = diff(DiffInput { environment, known, refusals, locals }, answer, source);
        let news = refusals.replace(diff.refused.clone());
        (diff, flags, news)
    }

    /// Publishes a diff; the last transaction includes the handled hints. `false`: a definition was too large
    /// for the topic and is now refused, so the response must be processed again.
    ///
    /// Definitions, events and invalidations are in one transaction, so a reader of the updates topic may see
    /// a version before a store has applied it. `min_version` handles this: a request with the version of the
    /// invalidation waits until the store has it.
    pub fn publish(
        &mut self,
        diff: Diff,
        meta: &ChangeMeta,
        handled: Option<&Handled>,
    ) -> Result<bool, PublishError> {
        let Diff { changes, same, .. } = diff;
        for (flag, digest) in same {
            if let Some(known) = self.state.environment_mut(&meta.environment).get_mut(&flag) {
                known.digest = Some(digest);
            }
        }
        let mut batches = batches(changes).into_iter().peekable();
        while let Some(batch) = batches.next() {
            let last = batches.peek().is_none();
            match self.transaction(batch, meta, handled.filter(|_| last)) {
                Ok(()) => {}
                Err((PublishError::TooLarge(keys), batch)) => {
                    self.refuse_large(&keys, &batch, meta)?;
                    return Ok(false);
                }
                Err((error, _)) => return Err(error),
            }
        }
        Ok(true)
    }

    pub fn flags(&self, environment: &str) -> usize {
        self.state.environment(environment).map_or(0, BTreeMap::len)
    }

    pub fn refused(&self, environment: &str, source: Source) -> Vec<Refused> {
        let refusals = self.refusals.get(&(environment.to_owned(), source));
        refusals.into_iter().flat_map(Refusals::iter).cloned().collect()
    }

    /// Environments that have flags of this source in force.
    pub fn environments_of(&self, source: Source) -> Vec<String> {
        self.state.environments_of(source).map(str::to_owned).collect()
    }

    fn transaction(
        &mut self,
        batch: Vec<PlannedChange>,
        meta: &ChangeMeta,
        handled: Option<&Handled>,
    ) -> Result<(), (PublishError, Vec<Versioned>)> {
        let now = Utc::now();
        let now_ms = u64::try_from(now.timestamp_millis()).unwrap_or(0);
        let now_ms = now_ms.max(self.store.version() + 1);
        let version = |planned| Versioned { version: self.state.next_version(now_ms), planned };
        let batch: Vec<Versioned> = batch.into_iter().map(version).collect();
        let repository = batch.iter().map(|change| self.repository(change, meta, now));
        let repository: Vec<Record<'_>> = match repository.collect::<Result<Vec<_>, _>>() {
            Ok(repository) => repository.into_iter().flatten().collect(),
            Err(error) => return Err((PublishError::Other(error.to_string()), batch)),
        };
        if let Err(error) = self.publisher.transaction(&repository, handled) {
            return Err((error, batch));
        }
        drop(repository);
        self.apply(batch, meta);
        Ok(())
    }

    /// Records of one change: definition, event and invalidation.
    fn repository(
        &self,
        Versioned { version, planned }: &Versioned,
        meta: &ChangeMeta,
        now: DateTime<Utc>,
    ) -> anyhow::Result<[Record<'_>; 3]> {
        let topics = &self.config.topics;
        let key = key_of(&meta.environment, &planned.flag);
        let invalidation = change(planned, *version, meta, now);
        let event = Change { previous_version: None, ..invalidation.clone() };
        let event = self.formats.changed.message(Kind::Changed, serde_json::to_vec(&event)?)?;
        let update = self.formats.updated.message(Kind::Changed, serde_json::to_vec(&invalidation)?)?;
        let record = |topic, body, tombstone| Record { topic, key: key.clone(), body, tombstone };
        let tombstone = planned.content.is_none();
        let tombstone = tombstone.then(|| Tombstone { version: *version, actor: invalidation.actor.clone() });
        Ok([
            record(&topics.definitions, definition(planned, *version, meta)?, tombstone),
            record(&topics.events, Some(event), None),
            record(&topics.updates, Some(update), None),
        ])
    }

    fn apply(&mut self, batch: Vec<Versioned>, meta: &ChangeMeta) {
        let environment = self.state.environment_mut(&meta.environment);
        for Versioned { version, planned } in batch {
            match planned.content {
                None => drop(environment.remove(&planned.flag)),
                Some(Content { checksum, digest, .. }) => {
                    let known =
                        KnownDefinition { version, checksum, source: planned.source, digest: Some(digest) };
                    environment.insert(planned.flag, known);
                }
            }
        }
    }

    /// Refuses the flags that were too large, and opens a new producer, because the failed transaction
    /// invalidates the old one.
    fn refuse_large(
        &mut self,
        keys: &[String],
        batch: &[Versioned],
        meta: &ChangeMeta,
    ) -> Result<(), PublishError> {
        let mut found = false;
        for Versioned { planned, .. } in batch {
            if let Some(content) = &planned.content
                && keys.contains(&key_of(&meta.environment, &planned.flag))
            {
                let (flag, bytes) = (&planned.flag, content.definition.get().len());
                limited!(
                    warn,
                    key = flag,
                    environment = meta.environment,
                    flag,
                    bytes,
                    "definition refused: it is larger than max.message.bytes of the topic allows",
                );
                let reason = format!(
                    "the definition of {bytes} bytes is larger than max.message.bytes of the definitions topic allows"
                );
                let refusals = self.refusals.entry((meta.environment.clone(), planned.source)).or_default();
                refusals.add(Refused::of(flag, reason, content.digest));
                found = true;
            }
        }
        if !found {
            return Err(PublishError::TooLarge(keys.to_vec()));
        }
        self.publisher = open(&self.config)?;
        self.state = read(&self.config)?;
        Ok(())
    }
}

fn open(config: &Config) -> Result<Publisher, PublishError> {
    let topics = &config.topics;
    Publisher::open(config, "feeder", [&topics.definitions, &topics.events, &topics.updates])
}

fn read(config: &Config) -> Result<State, PublishError> {
    definitions::read(config).map_err(|error| PublishError::Other(error.to_string()))
}

/// Splits a diff into transactions.
fn batches(changes: Vec<PlannedChange>) -> Vec<Vec<PlannedChange>> {
    let mut batches: Vec<Vec<PlannedChange>> = Vec::new();
    let mut bytes = 0;
    for planned in changes {
        let size = planned.content.as_ref().map_or(0, |content| content.definition.get().len());
        bytes += size;
        match batches.last_mut() {
            Some(batch) if batch.len() < TRANSACTION_CHANGES_MAX && bytes <= TRANSACTION_BYTES_MAX => {
                batch.push(planned);
            }
            _ => {
                bytes = size;
                batches.push(vec![planned]);
            }
        }
    }
    batches
}

fn definition(
    planned: &PlannedChange,
    version: u64,
    meta: &ChangeMeta,
) -> Result<Option<Vec<u8>>, serde_json::Error> {
    let Some(content) = &planned.content else {
        return Ok(None);
    };
    let definition = Definition {
        environment: meta.environment.clone(),
        flag_name: planned.flag.clone(),
        source: planned.source,
        actor: planned.actor.clone(),
        version,
        checksum: content.checksum.clone(),
        definition: content.definition.clone(),
    };
    serde_json::to_vec(&definition).map(Some)
}

fn change(planned: &PlannedChange, version: u64, meta: &ChangeMeta, now: DateTime<Utc>) -> Change {
    let text = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Micros, true);
    Change {
        event_type: planned.kind(),
        flag_name: planned.flag.clone(),
        environment: meta.environment.clone(),
        version,
        previous_version: planned.previous_version,
        changed_at: text(meta.seen_at),
        published_at: text(now),
        actor: planned.actor.clone().unwrap_or_else(|| match planned.source == meta.source {
            true => meta.actor.to_owned(),
            false => planned.source.as_str().to_owned(),
        }),
    }
}

/// Value of the metric label.
pub fn label(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Created => "created",
        ChangeKind::Updated => "updated",
        ChangeKind::Deleted => "deleted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_are_bounded_by_count_and_bytes() {
        let planned = |bytes: usize| {
            let definition = serde_json::value::to_raw_value(&"x".repeat(bytes)).unwrap();
            let content = Content { definition, checksum: String::new(), digest: [0; 32] };
            let content = Some(content);
            let (flag, source) = ("a".to_owned(), Source::Unleash);
            PlannedChange { flag, previous_version: None, content, source, actor: None, asked: false }
        };
        let sizes = |changes: Vec<PlannedChange>| batches(changes).iter().map(Vec::len).collect::<Vec<_>>();
        assert!(sizes(Vec::new()).is_empty());
        assert_eq!(sizes((0..2_500).map(|_| planned(10)).collect()), [1_000, 1_000, 500]);
        assert_eq!(sizes((0..20).map(|_| planned(900_000)).collect()), [9, 9, 2]);
    }
}
