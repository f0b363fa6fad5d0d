//! Previews the records that a tap would write, without writing them.

use std::ffi::CStr;
use std::sync::Arc;

use chrono::{SecondsFormat, Utc};
use rdkafka::Message;
use rdkafka::message::{Headers as _, OwnedMessage};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::config::{OnMissingUser, TapConfig, TapWrite};
use crate::flag::value::{Lookup, natural_answer};
use crate::flag::{Moment, Snapshot};
use crate::message::request::Refusal;
use crate::schema_registry::Reader;

use super::encoder::Encoder;
use super::selectors::Readable;
use super::{Decoder, Responded, Route, no_user, not_an_object, output, routes, tap_request};

/// Flags and names that evaluations use.
#[derive(Debug, Clone)]
pub struct Basis {
    pub snapshot: Arc<Snapshot>,
    pub default_environment: String,
    pub app_name: String,
}

/// Evaluates the flags of one tap for sampled records.
#[derive(Debug)]
pub struct Preview {
    tap: Arc<TapConfig>,
    basis: Basis,
    decoder: Decoder,
    encoder: Encoder,
    routes: Vec<Route>,
    outputs: Vec<String>,
}

/// The result of a tap for one record.
#[derive(Debug, Serialize)]
pub struct Previewed {
    pub tap: String,
    pub partition: i32,
    pub offset: i64,
    pub key: Option<String>,
    #[serde(flatten)]
    pub outcome: Outcome,
}

#[derive(Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    Written {
        topic: String,
        user: Option<String>,
        session: Option<String>,
        context: Option<Box<RawValue>>,
        /// Headers that are added; empty if a member is written.
        headers: Vec<(String, String)>,
        /// The new value; `None` if it stays as it is.
        value: Option<String>,
    },
    /// The record would be forwarded unchanged.
    Passed {
        topics: Vec<String>,
        reason: &'static str,
    },
    DeadLetter {
        code: &'static str,
        message: String,
    },
    /// The schema of the record is not available.
    Waiting {
        reason: String,
    },
}

/// A sampled record.
struct Sampled<'r>(&'r OwnedMessage);

impl<'r> Readable<'r> for Sampled<'r> {
    fn key(&self) -> Option<&'r [u8]> {
        self.0.key()
    }

    fn header(&self, name: &CStr) -> Option<&'r [u8]> {
        let headers = self.0.headers()?;
        headers.iter().filter(|header| header.key.as_bytes() == name.to_bytes()).last()?.value
    }

    fn payload(&self) -> &'r [u8] {
        self.0.payload().unwrap_or_default()
    }
}

impl Preview {
    /// `reader` reads the tap's values in Avro.
    pub fn new(tap: &Arc<TapConfig>, basis: Basis, reader: Reader) -> Self {
        let outputs: Vec<String> = tap.outputs().into_iter().map(str::to_owned).collect();
        Self {
            basis,
            decoder: Decoder::new(tap, reader),
            encoder: Encoder::new(tap),
            routes: routes(tap, &outputs),
            outputs,
            tap: Arc::clone(tap),
        }
    }

    /// Evaluates the flags for one record. Blocks while a schema is looked up.
    pub fn record(&mut self, record: &OwnedMessage) -> Previewed {
        let outcome = match record.payload() {
            None => Outcome::Passed { topics: self.outputs.clone(), reason: "tombstone" },
            Some(_) => self.outcome(&Sampled(record)).unwrap_or_else(|refusal| Outcome::DeadLetter {
                code: refusal.code.as_str(),
                message: refusal.text(),
            }),
        };
        Previewed {
            tap: self.tap.name.clone(),
            partition: record.partition(),
            offset: record.offset(),
            key: record.key().map(|key| String::from_utf8_lossy(key).into_owned()),
            outcome,
        }
    }

    fn outcome(&mut self, record: &Sampled<'_>) -> Result<Outcome, Refusal> {
        let Self { tap, basis, decoder, encoder, routes, outputs } = self;
        let decoded = match decoder.read(record)? {
            Ok(decoded) => decoded,
            Err(Responded::Deferred { why, .. }) => return Ok(Outcome::Waiting { reason: why.to_string() }),
            Err(Responded::Done) => return Ok(Outcome::Waiting { reason: String::new() }),
        };
        if decoded.selected.user.is_none() && tap.on_missing_user == OnMissingUser::DeadLetter {
            return Err(no_user());
        }
        if decoded.selected.user.is_none() && tap.on_missing_user == OnMissingUser::Pass {
            return Ok(Outcome::Passed { topics: vec![tap.target.clone()], reason: "no_user" });
        }
        let request = tap_request(tap, &decoded)?;
        let environment = tap.environment.as_deref().unwrap_or(&basis.default_environment);
        let now = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true);
        let hostname = gethostname::gethostname().to_string_lossy().into_owned();
        let moment = Moment { now: &now, hostname: &hostname, app_name: &basis.app_name };
        let flags = basis.snapshot.environment(environment);
        encoder.begin();
        let mut results = Vec::new();
        for flag in &tap.flags {
            let lookup = Lookup::evaluate(flags, environment, flag, &request.context, &moment);
            let answer = natural_answer(flag, lookup);
            encoder.add(&answer);
            results.push((answer.variant, answer.enabled));
        }
        let topic = outputs.get(output(routes, &results)).cloned().unwrap_or_default();
        let headers =
            encoder.headers().into_iter().map(|(name, value)| (lossy(name.to_bytes()), lossy(value)));
        let headers = headers.collect();
        let value = match decoded.json.filter(|_| tap.write != TapWrite::Headers) {
            Some(json) => encoder.value(json, decoded.selected.member).map(lossy),
            None => None,
        };
        let context = RawValue::from_string(decoded.context.to_owned()).ok();
        let (user, session) = (decoded.selected.user.as_deref(), decoded.selected.session.as_deref());
        Ok(Outcome::Written {
            topic,
            user: user.map(str::to_owned),
            session: session.map(str::to_owned),
            context,
            headers,
            value,
        })
    }
}

/// Reason why a tap would reject a record; `None` if it accepts it, or if the record's schema is not available. Blocks while
/// a schema is looked up.
pub fn refusal(tap: &TapConfig, reader: Reader, record: &OwnedMessage) -> Option<Refusal> {
    // A record without a value is forwarded unchanged.
    record.payload()?;
    check(tap, reader, &Sampled(record)).err()
}

fn check(tap: &TapConfig, reader: Reader, record: &Sampled<'_>) -> Result<(), Refusal> {
    let mut decoder = Decoder::new(tap, reader);
    let Ok(decoded) = decoder.read(record)? else { return Ok(()) };
    match tap.on_missing_user {
        OnMissingUser::DeadLetter if decoded.selected.user.is_none() => return Err(no_user()),
        OnMissingUser::Pass if decoded.selected.user.is_none() => return Ok(()),
        _ => {}
    }
    tap_request(tap, &decoded)?;
    let mut encoder = Encoder::new(tap);
    match decoded.json.filter(|_| tap.write != TapWrite::Headers) {
        Some(json) if encoder.value(json, decoded.selected.member).is_none() => Err(not_an_object()),
        _ => Ok(()),
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
