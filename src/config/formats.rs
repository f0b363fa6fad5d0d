//! In which form messages cross the topics, and where their schemas are.

use std::path::PathBuf;

use super::values::Values;
use super::{Secret, parse};

/// The format of each kind of message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormatsConfig {
    pub requests: InputFormat,
    pub events: OutputFormat,
    pub replies: OutputFormat,
    pub subjects: SubjectStrategy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputFormat {
    Json,
    Avro,
    /// Either, told apart record by record.
    Auto,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputFormat {
    Json,
    Avro,
}

/// Under which name a schema is registered.
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
    /// None: no registry.
    pub urls: Vec<Secret>,
    pub auto_register: bool,
    /// Certificates in PEM that are trusted beside the system's.
    pub ca_certificate: Option<PathBuf>,
}

impl FormatsConfig {
    /// Whether anything is written as Avro.
    pub fn writes_avro(&self) -> bool {
        [self.events, self.replies].contains(&OutputFormat::Avro)
    }
}

pub(super) fn config(values: &mut Values) -> Option<(FormatsConfig, SchemaRegistryConfig)> {
    let inputs = [("json", InputFormat::Json), ("avro", InputFormat::Avro), ("auto", InputFormat::Auto)];
    let outputs = [("json", OutputFormat::Json), ("avro", OutputFormat::Avro)];
    let strategies = [
        ("topic", SubjectStrategy::Topic),
        ("record", SubjectStrategy::Record),
        ("topic_record", SubjectStrategy::TopicRecord),
    ];
    let requests = values.required("format.requests", |text| parse::word(text, &inputs));
    let events = values.required("format.events", |text| parse::word(text, &outputs));
    let replies = values.required("format.replies", |text| parse::word(text, &outputs));
    let subjects = values.required("format.subjects", |text| parse::word(text, &strategies));
    let later = ["format.updates", "format.changes", "format.conversions"];
    let later = later.map(|path| values.required(path, only_json));
    let urls = values.list("schema_registry.url", |text| parse::url(text, &["http", "https"]));
    let auto_register = values.required("schema_registry.auto_register", parse::flag);
    let ca_certificate = values.optional("schema_registry.ca_certificate", parse::text);
    let formats =
        FormatsConfig { requests: requests?, events: events?, replies: replies?, subjects: subjects? };
    let urls = urls?;
    let wants_registry = formats.writes_avro() || formats.requests != InputFormat::Json;
    if wants_registry && urls.is_empty() {
        return values.refuse("schema_registry.url", "must be set where a format is not `json`");
    }
    later.into_iter().collect::<Option<()>>()?;
    let registry = SchemaRegistryConfig {
        urls: urls.into_iter().map(Secret::new).collect(),
        auto_register: auto_register?,
        ca_certificate: ca_certificate?.map(PathBuf::from),
    };
    Some((formats, registry))
}

/// Refuses what is not built, so that nothing is silently written in another format.
fn only_json(text: &str) -> parse::Parsed<()> {
    match text.trim() {
        "json" => Ok(()),
        "avro" | "auto" => Err("only `json` is built yet".into()),
        _ => Err("expected `json`".into()),
    }
}
