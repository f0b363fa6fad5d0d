//! Evaluation as a watcher receives it.

use chrono::{DateTime, SecondsFormat};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::audit::evaluation::{Evaluation, Source};

/// Largest context or value that is sent, in bytes.
const JSON_MAX_BYTES: usize = 16 << 10;

/// A committed evaluation. The members are those of a recorded one.
#[derive(Debug, Serialize)]
pub struct LiveEvent {
    event_id: String,
    flag_name: String,
    environment: String,
    evaluated_at: String,
    request_id: Option<String>,
    user_id: Option<String>,
    session_id: Option<String>,
    value: Option<Box<RawValue>>,
    enabled: bool,
    variant: Option<String>,
    reason: String,
    error_code: Option<String>,
    error_message: Option<String>,
    flag_version: Option<i64>,
    flags_version: Option<i64>,
    value_type: Option<String>,
    default_value: Option<Box<RawValue>>,
    /// `None` if the watcher may not see it, or if it is too large.
    context: Option<Box<RawValue>>,
    /// Attributes that tables added to the context. `None` if there are none, or if the watcher may not see them.
    attributes: Option<Box<RawValue>>,
    source: serde_json::Value,
}

impl LiveEvent {
    /// Copies an evaluation. Without `with_users`, everything that identifies a user is left out.
    pub(super) fn of(row: &Evaluation<'_>, with_users: bool) -> Self {
        let owned = |text: &Option<std::borrow::Cow<'_, str>>| text.as_deref().map(str::to_owned);
        let hidden = |text: &Option<std::borrow::Cow<'_, str>>| owned(text).filter(|_| with_users);
        let raw = |text: Option<String>| {
            text.filter(|text| text.len() <= JSON_MAX_BYTES).and_then(|text| RawValue::from_string(text).ok())
        };
        let at = DateTime::from_timestamp_micros(row.evaluated_at).unwrap_or_default();
        let value = row.result.map(|result| result.to_string()).or_else(|| owned(&row.evaluated_value));
        Self {
            event_id: row.event_id.to_string(),
            flag_name: row.flag_name.clone().into_owned(),
            environment: row.environment.clone().into_owned(),
            evaluated_at: at.to_rfc3339_opts(SecondsFormat::Micros, true),
            request_id: hidden(&row.request_id),
            user_id: hidden(&row.user_id),
            session_id: hidden(&row.session_id),
            value: raw(value),
            enabled: row.enabled,
            variant: owned(&row.variant),
            reason: row.reason.clone().into_owned(),
            error_code: owned(&row.error_code),
            error_message: owned(&row.error_message),
            flag_version: row.flag_version,
            flags_version: row.flags_version,
            value_type: owned(&row.value_type),
            default_value: raw(hidden(&row.default_value)),
            context: raw(Some(row.context.clone().into_owned()).filter(|_| with_users)),
            attributes: raw(hidden(&row.attributes)),
            source: match &row.source {
                Source::Kafka { topic, partition, offset, index, tap: None, .. } => serde_json::json!({
                    "topic": topic, "partition": partition, "offset": offset, "index": index,
                }),
                Source::Kafka { topic, partition, offset, index, tap, .. } => serde_json::json!({
                    "topic": topic, "partition": partition, "offset": offset, "index": index, "tap": tap,
                }),
                Source::Api(api) => serde_json::json!({"api": api}),
                Source::Unknown => serde_json::json!({"api": null}),
            },
        }
    }
}
