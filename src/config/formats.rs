//! Message formats of the topics, the form of events, and the location of the schemas.

use std::path::PathBuf;

use crate::message::event::Nulls;

use super::values::Values;
use super::{Secret, parse};

/// The format of each kind of message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormatsConfig {
    pub requests: InputFormat,
    pub events: OutputFormat,
    pub updates: OutputFormat,
    /// Hints that flagstream writes itself are in Avro if this is `Avro`, else in JSON.
    pub changes: InputFormat,
    /// Conversions that flagstream writes itself are in Avro if this is `Avro`, else in JSON.
    pub conversions: InputFormat,
    /// Rows of attributes that flagstream writes itself are in JSON, and refused if this is `Avro`.
    pub attributes: InputFormat,
    pub replies: OutputFormat,
    pub subjects: SubjectStrategy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputFormat {
    Json,
    Avro,
    /// Either format, detected for each record.
    Auto,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputFormat {
    Json,
    Avro,
}

/// Form of evaluated events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventsConfig {
    /// Form of members without a value in JSON events.
    pub nulls: Nulls,
    pub bulk: BulkForm,
}

/// Events of a request or call with several flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BulkForm {
    /// One event for each flag.
    Each,
    /// One event with all results for each context.
    Together,
}

/// Naming strategy of a schema's subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubjectStrategy {
    /// `{topic}-value`
    Topic,
    /// `{record}`
    Record,
    /// `{topic}-{record}`
    TopicRecord,
}

#[derive(Debug, Clone)]
pub struct SchemaRegistryConfig {
    /// Base URLs of the registry; empty without a registry.
    pub urls: Vec<Secret>,
    pub auto_register: bool,
    /// PEM file of certificates that are trusted in addition to the system's.
    pub ca_certificate: Option<PathBuf>,
}

impl FormatsConfig {
    /// Whether any message is written or read as Avro.
    fn has_avro(&self) -> bool {
        let inputs = [self.requests, self.changes, self.conversions, self.attributes];
        [self.events, self.updates, self.replies].contains(&OutputFormat::Avro)
            || inputs.into_iter().any(|input| input != InputFormat::Json)
    }
}

pub(super) fn events(values: &mut Values) -> Option<EventsConfig> {
    let nulls = values.required("events.nulls", |text| {
        parse::word(text, &[("write", Nulls::Write), ("omit", Nulls::Omit)])
    });
    let forms = [("each", BulkForm::Each), ("together", BulkForm::Together)];
    let bulk = values.required("events.bulk", |text| parse::word(text, &forms));
    Some(EventsConfig { nulls: nulls?, bulk: bulk? })
}

pub(super) fn config(values: &mut Values) -> Option<(FormatsConfig, SchemaRegistryConfig)> {
    let inputs = [("json", InputFormat::Json), ("avro", InputFormat::Avro), ("auto", InputFormat::Auto)];
    let outputs = [("json", OutputFormat::Json), ("avro", OutputFormat::Avro)];
    let strategies = [
        ("topic", SubjectStrategy::Topic),
        ("record", SubjectStrategy::Record),
        ("topic_record", SubjectStrategy::TopicRecord),
    ];
    let inputs_of = ["format.requests", "format.changes", "format.conversions", "format.attributes"];
    let [requests, changes, conversions, attributes] =
        inputs_of.map(|path| values.required(path, |text| parse::word(text, &inputs)));
    let [events, updates, replies] = ["format.events", "format.updates", "format.replies"]
        .map(|path| values.required(path, |text| parse::word(text, &outputs)));
    let subjects = values.required("format.subjects", |text| parse::word(text, &strategies));
    let urls = values.list("schema_registry.url", |text| parse::url(text, &["http", "https"]));
    let auto_register = values.required("schema_registry.auto_register", parse::flag);
    let ca_certificate = values.optional("schema_registry.ca_certificate", parse::text);
    let formats = FormatsConfig {
        requests: requests?,
        events: events?,
        updates: updates?,
        changes: changes?,
        conversions: conversions?,
        attributes: attributes?,
        replies: replies?,
        subjects: subjects?,
    };
    let urls = urls?;
    if formats.has_avro() && urls.is_empty() {
        return values.refuse("schema_registry.url", "must be set if a format is not `json`");
    }
    let registry = SchemaRegistryConfig {
        urls: urls.into_iter().map(Secret::new).collect(),
        auto_register: auto_register?,
        ca_certificate: ca_certificate?.map(PathBuf::from),
    };
    Some((formats, registry))
}
