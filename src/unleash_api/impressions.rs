//! Impressions that SDKs report: what a browser has shown, in the form of the events of Unleash's SDKs.
//!
//! The members of an event are read one by one from its text, so that an error names the member and nothing is allocated
//! before its size is checked.

use std::fmt;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::message::request::MAX_FLAG_NAME_BYTES;

use super::context::{MAX_CONTEXT_BYTES, SdkContext};

/// Maximum impressions of one report.
pub const MAX_REPORTED_IMPRESSIONS: usize = 1_000;
/// Maximum length of the id and of the variant of a reported impression, in bytes.
pub const MAX_REPORTED_TEXT_BYTES: usize = 255;
/// Maximum bytes of a character in JSON text (`\u0061`).
const MAX_ESCAPED_BYTES: usize = 6;
/// Name by which SDKs report that there is no variant.
const NO_VARIANT: &str = "disabled";

/// An impression as an SDK reports it.
#[derive(Debug, PartialEq)]
pub struct ReportedImpression {
    /// Text before the names of its members in errors: `[1].` for the second event of a list, nothing for a single one.
    pub at: String,
    /// Id that the SDK gave to the event.
    pub id: Option<String>,
    pub flag: String,
    pub enabled: bool,
    pub asked: Asked,
    pub context: SdkContext,
}

/// The question that the application asked its SDK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// Whether the flag is on. The variant is not reported.
    Enabled,
    /// The variant: its name, or `None` if there is none.
    Variant(Option<String>),
}

/// Reason why a report is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImpressionError {
    #[error("expected an impression event or a list of them as JSON: {0}")]
    Form(String),
    #[error("expected at most {MAX_REPORTED_IMPRESSIONS} events, got {0}")]
    TooMany(usize),
    #[error("{field}: {message}")]
    Field { field: String, message: String },
}

/// Members of an event that are used, as JSON text. All others are ignored.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Members<'b> {
    #[serde(borrow)]
    event_type: Option<&'b RawValue>,
    #[serde(borrow)]
    event_id: Option<&'b RawValue>,
    #[serde(borrow)]
    feature_name: Option<&'b RawValue>,
    #[serde(borrow)]
    enabled: Option<&'b RawValue>,
    #[serde(borrow)]
    variant: Option<&'b RawValue>,
    #[serde(borrow)]
    context: Option<&'b RawValue>,
}

/// Reads the body of a report: one event, or a list of them.
pub fn read(body: &[u8]) -> Result<Vec<ReportedImpression>, ImpressionError> {
    let is_list = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    if !is_list {
        return Ok(vec![impression(parse(body)?, "")?]);
    }
    let Listed { events, count } = parse(body)?;
    if count > MAX_REPORTED_IMPRESSIONS {
        return Err(ImpressionError::TooMany(count));
    }
    let read = |(index, event): (usize, &RawValue)| {
        let members = serde_json::from_str(event.get())
            .map_err(|error| field("", &format!("[{index}]"), error.to_string()))?;
        impression(members, &format!("[{index}]."))
    };
    events.into_iter().enumerate().map(read).collect()
}

fn parse<'b, T: Deserialize<'b>>(body: &'b [u8]) -> Result<T, ImpressionError> {
    serde_json::from_slice(body).map_err(|error| ImpressionError::Form(error.to_string()))
}

/// Reads one event. `at` precedes the names of members in errors.
fn impression(members: Members<'_>, at: &str) -> Result<ReportedImpression, ImpressionError> {
    let Members { event_type, event_id, feature_name, enabled, variant, context } = members;
    let kind = text(event_type, at, "eventType", MAX_REPORTED_TEXT_BYTES)?;
    let variant = text(variant, at, "variant", MAX_REPORTED_TEXT_BYTES)?;
    let asked = match kind.as_deref() {
        Some("isEnabled") => Asked::Enabled,
        Some("getVariant") => Asked::Variant(variant.filter(|name| name != NO_VARIANT)),
        _ => return Err(field(at, "eventType", r#"expected "isEnabled" or "getVariant""#)),
    };
    let flag = text(feature_name, at, "featureName", MAX_FLAG_NAME_BYTES)?.filter(|name| !name.is_empty());
    let flag = flag.ok_or_else(|| field(at, "featureName", "expected the name of a flag"))?;
    let enabled = match enabled.map(RawValue::get) {
        Some("true") => true,
        Some("false") => false,
        _ => return Err(field(at, "enabled", "expected true or false")),
    };
    let id = text(event_id, at, "eventId", MAX_REPORTED_TEXT_BYTES)?;
    let context = match context {
        Some(context) if context.get().len() > MAX_CONTEXT_BYTES => {
            let message = format!("expected at most {MAX_CONTEXT_BYTES} bytes, got {}", context.get().len());
            return Err(field(at, "context", message));
        }
        Some(context) => match serde_json::from_str(context.get()) {
            Ok(members) => SdkContext::of_members(members),
            Err(_) => return Err(field(at, "context", "expected an object")),
        },
        None => SdkContext::default(),
    };
    Ok(ReportedImpression { at: at.to_owned(), id, flag, enabled, asked, context })
}

/// Reads a string of limited length; `None` if it is absent or `null`.
fn text(
    value: Option<&RawValue>,
    at: &str,
    name: &str,
    max_bytes: usize,
) -> Result<Option<String>, ImpressionError> {
    let Some(value) = value else { return Ok(None) };
    let expected = || field(at, name, format!("expected a string of at most {max_bytes} bytes"));
    // Checked before the text is decoded, which makes it no longer.
    if value.get().len() > max_bytes * MAX_ESCAPED_BYTES + 2 {
        return Err(expected());
    }
    let text: String = serde_json::from_str(value.get()).map_err(|_| expected())?;
    if text.len() > max_bytes { Err(expected()) } else { Ok(Some(text)) }
}

fn field(at: &str, name: &str, message: impl Into<String>) -> ImpressionError {
    ImpressionError::Field { field: format!("{at}{name}"), message: message.into() }
}

/// The events of a list as JSON text, up to the limit, and their number.
struct Listed<'b> {
    events: Vec<&'b RawValue>,
    count: usize,
}

impl<'b> Deserialize<'b> for Listed<'b> {
    fn deserialize<D: Deserializer<'b>>(from: D) -> Result<Self, D::Error> {
        struct Events;

        impl<'b> Visitor<'b> for Events {
            type Value = Listed<'b>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a list of events")
            }

            fn visit_seq<A: SeqAccess<'b>>(self, mut sequence: A) -> Result<Listed<'b>, A::Error> {
                let mut events = Vec::new();
                while events.len() < MAX_REPORTED_IMPRESSIONS
                    && let Some(event) = sequence.next_element()?
                {
                    events.push(event);
                }
                let mut count = events.len();
                while sequence.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Listed { events, count })
            }
        }

        from.deserialize_seq(Events)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(body: &Value) -> Result<Vec<ReportedImpression>, ImpressionError> {
        read(body.to_string().as_bytes())
    }

    fn event() -> Value {
        json!({"eventType": "isEnabled", "eventId": "e-1", "enabled": true, "featureName": "a",
            "impressionData": true, "context": {"userId": "u", "appName": "shop"}})
    }

    fn with(name: &str, value: Value) -> Value {
        let mut event = event();
        event[name] = value;
        event
    }

    #[test]
    fn an_event_or_a_list_of_events_is_read() {
        let [one] = of(&event()).unwrap().try_into().unwrap();
        let context = SdkContext::of_query("userId=u&appName=shop");
        let (at, id, flag) = (String::new(), Some("e-1".to_owned()), "a".to_owned());
        assert_eq!(one, ReportedImpression { at, id, flag, enabled: true, asked: Asked::Enabled, context });
        let asked = |variant: Value| {
            let mut event = with("eventType", json!("getVariant"));
            event["variant"] = variant;
            of(&json!([event])).unwrap().remove(0).asked
        };
        assert_eq!(asked(json!("blue")), Asked::Variant(Some("blue".to_owned())));
        assert_eq!(
            (asked(json!("disabled")), asked(Value::Null)),
            (Asked::Variant(None), Asked::Variant(None))
        );
        assert_eq!(of(&json!([event(), event()])).unwrap().len(), 2);
        assert!(of(&json!([])).unwrap().is_empty());
        // The context, the id and the variant may be missing.
        let short = json!({"eventType": "getVariant", "enabled": false, "featureName": "a", "context": null});
        let short = of(&short).unwrap().remove(0);
        assert_eq!((short.id, short.context), (None, SdkContext::default()));
    }

    #[test]
    fn an_error_names_the_member() {
        let refused = |body: &Value| match of(body).unwrap_err() {
            ImpressionError::Field { field, .. } => field,
            other => other.to_string(),
        };
        let long = |bytes: usize| json!("x".repeat(bytes));
        for (name, value) in [
            ("eventType", json!("click")),
            ("eventType", Value::Null),
            ("eventId", json!(5)),
            ("eventId", long(MAX_REPORTED_TEXT_BYTES + 1)),
            ("featureName", json!("")),
            ("featureName", json!(["a"])),
            ("featureName", long(MAX_FLAG_NAME_BYTES + 1)),
            ("enabled", json!("true")),
            ("variant", json!({"name": "blue"})),
            ("variant", long(10_000)),
            ("context", json!("u")),
            ("context", json!({"a": "x".repeat(MAX_CONTEXT_BYTES)})),
        ] {
            assert_eq!(refused(&with(name, value.clone())), name, "{value}");
            assert_eq!(refused(&json!([event(), with(name, value)])), format!("[1].{name}"));
        }
        assert_eq!(refused(&json!([event(), 5])), "[1]");
        assert!(matches!(read(b"{"), Err(ImpressionError::Form(_))));
        assert!(matches!(read(b""), Err(ImpressionError::Form(_))));
        assert!(matches!(read(b"5"), Err(ImpressionError::Form(_))));
    }

    #[test]
    fn a_list_is_limited() {
        let many = |count: usize| of(&Value::Array(vec![event(); count]));
        assert_eq!(many(MAX_REPORTED_IMPRESSIONS).unwrap().len(), MAX_REPORTED_IMPRESSIONS);
        let count = MAX_REPORTED_IMPRESSIONS + 1;
        assert_eq!(many(count), Err(ImpressionError::TooMany(count)));
    }
}
