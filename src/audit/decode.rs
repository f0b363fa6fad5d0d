//! Converts a record into a row, a flag version, a dead letter, or nothing.

use std::marker::PhantomData;
use std::sync::Arc;

use chrono::Utc;

use crate::config::{Config, InputFormat};
use crate::experiment::conversion::Reported;
use crate::flag::local::Invalid;
use crate::kafka::consumer::Record;
use crate::log_limit::KeyedLogLimit;
use crate::message::avro::Subject;
use crate::message::conversion::{Conversion, MAX_CONVERSION_BYTES, USER_HEADER};
use crate::message::evaluations::single_events;
use crate::message::sequence::{HEADER, Sequence};
use crate::message::source_status::is_status;
use crate::privacy::Privacy;
use crate::schema_registry::{Formats, MAX_EVENT_BYTES, Reader};
use crate::unleash_api::client_metrics::ClientMetricsRecord;

use super::batch::{Batch, Content, Refusal};
use super::chain::{GENESIS, Hasher};
use super::definition::FlagVersion;
use super::evaluation::{Evaluation, Event, Unreadable};
use super::position::Position;
use super::reader::Decode;
use super::sanitize;
use super::store::AuditStore;
use super::usage::of_record;

/// Converter for the events topic.
#[derive(Debug)]
pub(super) struct Evaluations<R> {
    reader: Reader,
    /// Buffer for the JSON of an event in Avro.
    text: Vec<u8>,
    rows: PhantomData<fn() -> R>,
    hasher: Hasher,
    /// Buffer for the encoding that a row's digest covers.
    hashed: Vec<u8>,
}

/// Converter for the definitions topic.
#[derive(Debug)]
pub(super) struct Definitions;

/// Converter for the conversions topic.
#[derive(Debug)]
pub(super) struct Conversions {
    config: Arc<Config>,
    privacy: Option<Arc<Privacy>>,
    reader: Reader,
    /// Buffer for the JSON of a conversion in Avro.
    text: Vec<u8>,
}

impl Conversions {
    pub(super) fn new(config: &Arc<Config>, formats: &Formats) -> Self {
        Self {
            config: Arc::clone(config),
            privacy: Privacy::of(&config.privacy),
            reader: formats.reader(Subject::CONVERSIONS, config.formats.conversions),
            text: Vec::new(),
        }
    }
}

/// Converter for the topic of what Unleash's SDKs report.
#[derive(Debug)]
pub(super) struct ClientMetrics;

/// Dead-letter code of a report of an SDK that cannot be read.
const INVALID_CLIENT_METRICS: &str = "INVALID_CLIENT_METRICS";

impl Decode for ClientMetrics {
    fn take(&mut self, record: &Record<'_>, position: &mut Position, batch: &mut Batch) {
        let sequence = record.header(HEADER).and_then(Sequence::parse);
        if sequence.is_some_and(|sequence| !position.streams.take(sequence)) {
            batch.repeated += 1;
            return;
        }
        match serde_json::from_slice::<ClientMetricsRecord>(record.payload()) {
            Ok(read) => {
                let used = of_record(&read);
                if !used.is_empty() {
                    batch.enter(record, Content::SdkUsage(used), None);
                }
            }
            Err(error) => refuse(batch, record, Unreadable(error.to_string()), INVALID_CLIENT_METRICS),
        }
    }
}

/// Dead-letter code of an invalid conversion.
pub(super) const INVALID_CONVERSION: &str = "INVALID_CONVERSION";

impl<R> Evaluations<R> {
    /// Creates the converter. It accepts both formats, because the topic may hold events from before a change of
    /// format.
    pub(super) fn new(formats: &Formats, hasher: Hasher) -> Self {
        let reader = formats.reader(Subject::EVENTS, InputFormat::Auto);
        Self { reader, text: Vec::new(), rows: PhantomData, hasher, hashed: Vec::new() }
    }
}

impl<R: AuditStore> Decode for Evaluations<R> {
    fn holds_up(&mut self, record: &Record<'_>) -> Option<Arc<str>> {
        self.reader.holds_up(record.payload())
    }

    fn take(&mut self, record: &Record<'_>, position: &mut Position, batch: &mut Batch) {
        let sequence = record.header(HEADER).and_then(Sequence::parse);
        if sequence.is_some_and(|sequence| !position.streams.take(sequence)) {
            batch.repeated += 1;
            return;
        }
        let Self { reader, text, hasher, hashed, .. } = self;
        let event = match reader.read(record.payload(), text, MAX_EVENT_BYTES) {
            Ok(json) => Event::read(json).map(|event| (event, json)),
            Err(unread) => Err(Unreadable(unread.to_string())),
        };
        let mut take = |mut evaluation: Evaluation<'_>, json: &[u8], batch: &mut Batch| {
            if !position.sources.take(&evaluation) {
                batch.repeated += 1;
                return;
            }
            evaluation.audit_block = position.next_block;
            let digest = match position.next_block {
                Some(_) => hasher.row(&evaluation, hashed),
                None => GENESIS,
            };
            batch.evaluation(record, json, &evaluation, digest, R::encode);
        };
        match event {
            Ok((Event::Evaluated(evaluation), json)) => take(*evaluation, json, batch),
            // Each evaluation keeps an event of its own, so that later steps need not know both forms.
            Ok((Event::Together(evaluations), json)) => {
                let singles = std::str::from_utf8(json).ok().and_then(|json| single_events(json).ok());
                for (evaluation, json) in evaluations.into_iter().zip(singles.unwrap_or_default()) {
                    take(evaluation, &json, batch);
                }
            }
            Ok((Event::Switched(change), _)) => batch.enter(record, Content::Switched(change), None),
            Ok((Event::Other, _)) => {}
            Err(error) => refuse(batch, record, error, "INVALID_EVENT"),
        }
    }
}

impl Decode for Definitions {
    fn take(&mut self, record: &Record<'_>, _: &mut Position, batch: &mut Batch) {
        if is_status(record.key()) {
            return;
        }
        let value = (!record.is_null()).then(|| record.payload());
        let (version, actor) = (record.header(c"version"), record.header(c"actor"));
        match FlagVersion::read(record.key(), value, version, actor, record.timestamp_ms()) {
            Ok(version) => batch.enter(record, Content::Definition(Box::new(version)), None),
            Err(error) => refuse(batch, record, error, "INVALID_DEFINITION"),
        }
    }
}

impl Decode for Conversions {
    fn holds_up(&mut self, record: &Record<'_>) -> Option<Arc<str>> {
        self.reader.holds_up(record.payload())
    }

    fn take(&mut self, record: &Record<'_>, _: &mut Position, batch: &mut Batch) {
        let now = Utc::now();
        // Twice the limit, so that the error for an oversized conversion can name its size.
        let json = self.reader.read(record.payload(), &mut self.text, 2 * MAX_CONVERSION_BYTES);
        let text = json
            .map_err(|unread| unread.to_string())
            .and_then(|json| std::str::from_utf8(json).map_err(|_| "body: expected UTF-8".to_owned()));
        let read = text.and_then(|text| {
            let read = Conversion::read(text, None, &self.config.accepted_conversions(now));
            read.map_err(|wrong| wrong.iter().map(Invalid::to_string).collect::<Vec<_>>().join("; "))
        });
        let conversion = match read {
            Ok(conversion) => conversion,
            Err(wrong) => return refuse(batch, record, Unreadable(wrong), INVALID_CONVERSION),
        };
        let (name, hashed) = USER_HEADER;
        let (user, metadata) = match &self.privacy {
            Some(privacy) if record.header(name) != Some(hashed) => (
                privacy.user(conversion.user_id.clone()),
                conversion.metadata.as_deref().map(|metadata| privacy.context(metadata)),
            ),
            _ => (conversion.user_id.clone(), conversion.metadata.clone()),
        };
        let place = format!("{}/{}/{}", record.partition(), record.offset(), record.timestamp_ms());
        let metadata = metadata.map(|mut metadata| {
            sanitize::json(&mut metadata);
            metadata
        });
        let environment = &self.config.unleash.default_environment;
        let reported = Reported::new(&conversion, environment, &user, metadata, &place);
        batch.enter(record, Content::Conversion(Box::new(reported)), None);
    }
}

fn refuse(batch: &mut Batch, record: &Record<'_>, error: Unreadable, code: &'static str) {
    let (partition, offset) = (record.partition(), record.offset());
    static LIMIT: KeyedLogLimit = KeyedLogLimit::new();
    if let Some(suppressed) = LIMIT.admit(code) {
        tracing::warn!(partition, offset, %error, suppressed, "a record cannot be decoded; it is sent to the \
            dead-letter topic");
    }
    batch.enter(record, Content::Nothing, Some(Refusal { code, message: error.0 }));
}
