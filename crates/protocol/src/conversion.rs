//! Conversion: a user performed the action that a metric of an experiment counts.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::value::RawValue;

use flagstream_evaluation::local::Invalid;

use super::json::{Kind, Scanner, Span};

/// Maximum size of a conversion in bytes.
pub const MAX_CONVERSION_BYTES: usize = 16 * 1_024;
/// Header, and its value, for a record whose user id has been replaced by a hash.
pub const USER_HEADER: (&std::ffi::CStr, &str) = (c"user-id", "hashed");

/// Deepest nesting of a conversion.
const MAX_DEPTH_LEVELS: usize = 16;
/// Longest experiment, environment, metric or event id of a conversion, in bytes.
const MAX_NAME_BYTES: usize = 255;
/// Longest user id of a conversion, in bytes.
const MAX_USER_BYTES: usize = 4_096;
/// Maximum absolute value. Sums of squares of larger values would be inexact or infinite.
const MAX_VALUE: f64 = 1e15;

/// Conversion in the form it has in the topic.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Conversion<'a> {
    pub experiment: Cow<'a, str>,
    /// Environment of the experiment; `None` means the deployment's default environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<Cow<'a, str>>,
    pub user_id: Cow<'a, str>,
    pub metric: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    #[serde(serialize_with = "rfc3339")]
    pub occurred_at: DateTime<Utc>,
    /// Id for detecting duplicates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_id: Option<Cow<'a, str>>,
    /// Further properties of the conversion, as the JSON text of an object.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "raw")]
    pub metadata: Option<Cow<'a, str>>,
}

/// Members of the JSON object before validation.
#[derive(Debug, Default)]
struct Members<'a> {
    experiment: Option<Span<'a>>,
    environment: Option<Span<'a>>,
    user_id: Option<Span<'a>>,
    metric: Option<Span<'a>>,
    value: Option<Span<'a>>,
    occurred_at: Option<Span<'a>>,
    event_id: Option<Span<'a>>,
    metadata: Option<Span<'a>>,
}

impl<'a> Conversion<'a> {
    /// Reads a conversion. `experiment` overrides the text's own member. A time outside of `accepted` is refused.
    pub fn read(
        text: &'a str,
        experiment: Option<&'a str>,
        accepted: &RangeInclusive<DateTime<Utc>>,
    ) -> Result<Self, Vec<Invalid>> {
        if text.len() > MAX_CONVERSION_BYTES {
            let message = format!("expected at most {MAX_CONVERSION_BYTES} bytes, got {}", text.len());
            return Err(vec![Invalid::new("body", message)]);
        }
        let members = Members::read(text)?;
        let mut wrong = Vec::new();
        let mut note = |read: Result<Option<Cow<'a, str>>, Invalid>| read.map_err(|error| wrong.push(error));
        let named = match experiment {
            Some(name) => Ok(Some(Cow::Borrowed(name))),
            None => note(text_of("experiment", members.experiment, MAX_NAME_BYTES, true)),
        };
        let environment = note(text_of("environment", members.environment, MAX_NAME_BYTES, false));
        let user_id = note(text_of("user_id", members.user_id, MAX_USER_BYTES, true));
        let metric = note(text_of("metric", members.metric, MAX_NAME_BYTES, true));
        let event_id = note(text_of("event_id", members.event_id, MAX_NAME_BYTES, false));
        let value = number("value", members.value).map_err(|error| wrong.push(error));
        let occurred_at = moment(members.occurred_at, accepted).map_err(|error| wrong.push(error));
        let metadata = object("metadata", members.metadata).map_err(|error| wrong.push(error));
        match (named, environment, user_id, metric, value, occurred_at, event_id, metadata) {
            (
                Ok(Some(experiment)),
                Ok(environment),
                Ok(Some(user_id)),
                Ok(Some(metric)),
                Ok(value),
                Ok(occurred_at),
                Ok(event_id),
                Ok(metadata),
            ) => {
                Ok(Self { experiment, environment, user_id, metric, value, occurred_at, event_id, metadata })
            }
            _ => Err(wrong),
        }
    }
}

impl<'a> Members<'a> {
    fn read(text: &'a str) -> Result<Self, Vec<Invalid>> {
        let broken = |error| vec![Invalid::malformed("body", format!("expected a JSON object: {error}"))];
        let mut scanner = Scanner::new(text, MAX_DEPTH_LEVELS);
        let (mut members, mut first) = (Self::default(), true);
        scanner.begin_object().map_err(broken)?;
        while let Some(key) = scanner.next_key(&mut first).map_err(broken)? {
            let span = scanner.value().map_err(broken)?;
            let member = match key.as_ref() {
                "experiment" => &mut members.experiment,
                "environment" => &mut members.environment,
                "user_id" => &mut members.user_id,
                "metric" => &mut members.metric,
                "value" => &mut members.value,
                "occurred_at" => &mut members.occurred_at,
                "event_id" => &mut members.event_id,
                "metadata" => &mut members.metadata,
                // Additional members of the sender are ignored.
                _ => continue,
            };
            *member = (span.kind != Kind::Null).then_some(span);
        }
        scanner.end().map_err(broken)?;
        Ok(members)
    }
}

fn text_of<'a>(
    field: &str,
    span: Option<Span<'a>>,
    max_bytes: usize,
    required: bool,
) -> Result<Option<Cow<'a, str>>, Invalid> {
    let Some(span) = span else {
        return if required { Err(Invalid::new(field, "is required")) } else { Ok(None) };
    };
    match span.as_string() {
        Some(text) if (1..=max_bytes).contains(&text.len()) => Ok(Some(text)),
        _ => Err(Invalid::new(field, format!("expected a string of 1 to {max_bytes} bytes"))),
    }
}

fn number(field: &str, span: Option<Span<'_>>) -> Result<Option<f64>, Invalid> {
    let Some(span) = span else {
        return Ok(None);
    };
    let number =
        span.text.parse().ok().filter(|number: &f64| number.abs() <= MAX_VALUE && span.kind == Kind::Number);
    number
        .map(Some)
        .ok_or_else(|| Invalid::new(field, format!("expected a number from -{MAX_VALUE:e} to {MAX_VALUE:e}")))
}

fn object<'a>(field: &str, span: Option<Span<'a>>) -> Result<Option<Cow<'a, str>>, Invalid> {
    match span {
        None => Ok(None),
        Some(span) if span.kind != Kind::Object => Err(Invalid::new(field, "expected an object")),
        Some(span) => Ok((span.compact() != "{}").then(|| span.compact())),
    }
}

fn moment(
    span: Option<Span<'_>>,
    accepted: &RangeInclusive<DateTime<Utc>>,
) -> Result<DateTime<Utc>, Invalid> {
    let refuse = |message: String| Err(Invalid::new("occurred_at", message));
    let Some(span) = span else {
        return refuse("is required".to_owned());
    };
    let text = span.as_string().unwrap_or_default();
    let shown = |at: &DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
    match DateTime::parse_from_rfc3339(&text).map(|at| at.to_utc()) {
        Err(_) => refuse("expected a time in RFC 3339 format, such as 2026-01-15T10:30:00Z".to_owned()),
        Ok(at) if at > *accepted.end() => {
            refuse(format!("must not be in the future: expected a time before {}", shown(accepted.end())))
        }
        Ok(at) if at < *accepted.start() => refuse(format!(
            "expected a time after {}: older conversions are not accepted",
            accepted.start().date_naive()
        )),
        Ok(at) => Ok(at),
    }
}

fn rfc3339<S: serde::Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&at.to_rfc3339_opts(SecondsFormat::Micros, true))
}

fn raw<S: serde::Serializer>(text: &Option<Cow<'_, str>>, serializer: S) -> Result<S::Ok, S::Error> {
    let raw = text.as_deref().map(serde_json::from_str::<&RawValue>).transpose();
    raw.map_err(serde::ser::Error::custom)?.serialize(serializer)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn read(text: &str, experiment: Option<&'static str>) -> Result<String, Vec<(String, String)>> {
        let now: DateTime<Utc> = "2026-01-15T10:30:00Z".parse().unwrap();
        let accepted = now - TimeDelta::days(90)..=now + TimeDelta::minutes(5);
        let read = Conversion::read(text, experiment, &accepted);
        let wrong =
            |wrong: Vec<Invalid>| wrong.into_iter().map(|invalid| (invalid.field, invalid.message)).collect();
        read.map(|conversion| serde_json::to_string(&conversion).unwrap()).map_err(wrong)
    }

    #[test]
    fn one_is_read_and_written_the_same() {
        let text = r#"{"experiment":"e","user_id":"u","metric":"m","value":1.5,"occurred_at":"2026-01-15T10:00:00.000000Z","event_id":"i"}"#;
        assert_eq!(read(text, None).as_deref(), Ok(text));
        let rich = text.replace(r#""i"}"#, r#""i","metadata":{"cart":{"items":[1,2.50]},"plan":"gold"}}"#);
        assert_eq!(read(&rich, None).as_ref(), Ok(&rich));
        let spaced = rich.replace(r#"{"cart":"#, r#"{ "cart" : "#);
        assert_eq!(read(&spaced, None).as_ref(), Ok(&rich));
        assert_eq!(
            read(&rich.replace(r#"{"cart":{"items":[1,2.50]},"plan":"gold"}"#, "{ }"), None).as_deref(),
            Ok(text)
        );
        let bare = r#"{"user_id":"u","metric":"m","occurred_at":"2026-01-15T11:00:00+01:00","value":null,"cart":{"a":[]}}"#;
        let written =
            r#"{"experiment":"e","user_id":"u","metric":"m","occurred_at":"2026-01-15T10:00:00.000000Z"}"#;
        assert_eq!(read(bare, Some("e")).as_deref(), Ok(written));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let with = |members: &str| {
            let base = r#""experiment":"e","user_id":"u","metric":"m","occurred_at":"2026-01-15T10:00:00Z""#;
            read(&format!("{{{base},{members}}}"), None)
        };
        for (members, field) in [
            (r#""user_id":"""#, "user_id"),
            (r#""user_id":7"#, "user_id"),
            (r#""user_id":null"#, "user_id"),
            (r#""metric":null"#, "metric"),
            (r#""experiment":null"#, "experiment"),
            (r#""value":"NaN""#, "value"),
            (r#""value":1e999"#, "value"),
            (r#""value":true"#, "value"),
            (r#""occurred_at":"today""#, "occurred_at"),
            (r#""occurred_at":"2026-01-15T10:36:00Z""#, "occurred_at"),
            (r#""occurred_at":"2025-01-15T10:30:00Z""#, "occurred_at"),
            (r#""event_id":"""#, "event_id"),
            (r#""environment":[]"#, "environment"),
            (r#""metadata":["gold"]"#, "metadata"),
            (r#""value":NaN"#, "body"),
        ] {
            let fields: Vec<String> =
                with(members).unwrap_err().into_iter().map(|(field, _)| field).collect();
            assert_eq!(fields, [field], "{members}");
        }
        let fields: Vec<_> = read("{}", None).unwrap_err().into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["experiment", "user_id", "metric", "occurred_at"]);
        for text in ["", "[]", "{", "{}x", &"[".repeat(9_999), &" ".repeat(MAX_CONVERSION_BYTES + 1)] {
            assert_eq!(read(text, None).unwrap_err().len(), 1, "{text:.20}");
        }
    }
}
