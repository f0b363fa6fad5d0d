//! Reads evaluations and versions from the Kafka topics instead of the database.

use std::sync::atomic::Ordering;

use rdkafka::Message;
use rdkafka::message::Headers;
use tokio::runtime::Handle;

use crate::audit::definition::FlagVersion;
use crate::audit::evaluation::{Evaluation, Event};
use crate::config::{Config, InputFormat};
use crate::kafka::range::Range;
use crate::message::avro::Subject;
use crate::schema_registry::{Lookups, MAX_EVENT_BYTES, Reader, SchemaRegistry, Undecodable};
use crate::store::record::{Key, decode_switch};

use super::history::{Turn, Version};
use super::{History, Progress, ReplayError, RowFilter, Session};

/// Part of the Kafka client's name.
const ROLE: &str = "replay";

/// Reads the history that is still in the topics of definitions and kill switches: the last version of each flag, and
/// those that are not compacted yet. Blocks.
pub fn history(config: &Config) -> Result<History, ReplayError> {
    let mut history = History::default();
    let mut definitions = Range::open(&config.kafka, ROLE, &config.topics.definitions, None)?;
    while let Some(record) = definitions.record()? {
        let at_ms = record.timestamp().to_millis().unwrap_or_default();
        let (version, actor) = (header(&record, "version"), header(&record, "actor"));
        // A definition that cannot be read was never in force.
        let read = FlagVersion::read(record.key(), record.payload(), version, actor, at_ms);
        if let Ok(FlagVersion { environment, name, version, defined, .. }) = read {
            let definition = defined.map(|defined| defined.definition.into_boxed_str());
            let version = u64::try_from(version).unwrap_or_default();
            history.add(&environment, &name, Version { version, in_force_ms: at_ms, definition })?;
        }
    }
    let mut switches = Range::open(&config.kafka, ROLE, &config.topics.overrides, None)?;
    while let Some(record) = switches.record()? {
        let key = Key::parse(record.key()).ok();
        let switch = key.zip(record.payload()).and_then(|(key, value)| decode_switch(&key, value).ok());
        if let Some(switch) = switch {
            let at_ms = switch.changed_at.timestamp_millis();
            let (environment, name) = (switch.environment.clone(), switch.flag_name.clone());
            history.turned(
                &environment,
                &name,
                Turn { version: switch.version, at_ms, switch: switch.into() },
            );
        }
    }
    history.sort();
    Ok(history)
}

/// Replays the wanted evaluations of the events topic and returns the session. Blocks; must be called within a Tokio
/// runtime.
pub fn evaluations(
    config: &Config,
    filter: &RowFilter,
    mut session: Session,
    progress: &Progress,
) -> Result<Session, ReplayError> {
    // An event's timestamp is never before the time of its evaluation.
    let from = filter.from.timestamp_millis();
    let mut events = Range::open(&config.kafka, ROLE, &config.topics.events, Some(from))?;
    let (from, to) = (filter.from.timestamp_micros(), filter.to.timestamp_micros());
    let registry = SchemaRegistry::open(&config.schema_registry, None, Lookups::default(), Handle::current())
        .map_err(|error| ReplayError::Registry(format!("{error:#}")))?;
    let (mut reader, mut text) =
        (Reader::new(registry, Subject::EVENTS, InputFormat::Auto).waiting(), Vec::new());
    loop {
        progress.is_at(events.passed(), events.expected());
        let Some(record) = events.record()? else { break };
        let json = match reader.read(record.payload().unwrap_or_default(), &mut text, MAX_EVENT_BYTES) {
            Ok(json) => json,
            Err(Undecodable::Away(why)) => return Err(ReplayError::Registry(why.to_string())),
            Err(_) => continue,
        };
        // The sink makes unreadable events dead letters.
        let Ok(event) = Event::read(json) else { continue };
        let is_wanted = |row: &&Evaluation<'_>| (from..to).contains(&row.evaluated_at) && filter.means(row);
        for row in event.evaluations().iter().filter(is_wanted) {
            session.take(row);
            progress.rows.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(session)
}

/// Returns the last header with this name.
fn header<'r>(record: &'r impl Message, name: &str) -> Option<&'r str> {
    let value = record.headers()?.iter().filter(|header| header.key == name).last()?.value?;
    std::str::from_utf8(value).ok()
}
