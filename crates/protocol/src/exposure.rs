//! Exposure: the first evaluation of a user under a version of an experiment's flag, as an event for analytics.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

/// The only value of `event_type`.
pub const EVENT_TYPE: &str = "FEATURE_FLAG_EXPOSED";
/// Maximum size of the metadata in bytes. Larger metadata is left out.
pub const EXPOSURE_METADATA_MAX_BYTES: usize = 16 * 1_024;

/// Exposure in the form it has in the topic.
#[derive(Debug, Clone, Serialize)]
pub struct Exposure<'a> {
    pub event_type: &'static str,
    /// Id of the exposure. The same if the event is written again, also with an earlier `exposed_at`.
    pub event_id: Uuid,
    pub experiment: &'a str,
    pub environment: &'a str,
    pub flag_name: &'a str,
    /// Version of the flag's definition that the user was exposed to.
    pub flag_version: i64,
    pub variant: &'a str,
    /// Choice of the variant, as in the event of the evaluation. `None`: it was not recorded.
    pub assignment: Option<&'a RawValue>,
    /// The user, or its hash if the privacy settings require one.
    pub user_id: &'a str,
    #[serde(serialize_with = "rfc3339")]
    pub exposed_at: DateTime<Utc>,
    /// `event_id` of the evaluation. `None`: the exposure was read from rows when its experiment started.
    pub evaluation_id: Option<Uuid>,
    /// Context of the evaluation as its event contains it. `None`: it is larger than
    /// [`EXPOSURE_METADATA_MAX_BYTES`], or the exposure was read from rows.
    pub metadata: Option<&'a RawValue>,
}

impl Exposure<'_> {
    /// Context as metadata of an exposure. `None` if it is too large, or not JSON.
    pub fn metadata(context: &str) -> Option<&RawValue> {
        let fits = context.len() <= EXPOSURE_METADATA_MAX_BYTES;
        fits.then(|| serde_json::from_str(context).ok()).flatten()
    }
}

fn rfc3339<S: serde::Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&at.to_rfc3339_opts(SecondsFormat::Micros, true))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_exposure_has_the_documented_form() {
        let assignment = r#"{"how":"drawn","rule":null,"weights":{"a":500,"b":500}}"#;
        let exposure = Exposure {
            event_type: EVENT_TYPE,
            event_id: Uuid::from_u128(7),
            experiment: "e",
            environment: "production",
            flag_name: "f",
            flag_version: 3,
            variant: "a",
            assignment: Some(serde_json::from_str(assignment).unwrap()),
            user_id: "u",
            exposed_at: DateTime::from_timestamp_micros(1_768_473_000_000_001).unwrap(),
            evaluation_id: None,
            metadata: Exposure::metadata(r#"{"plan":"gold"}"#),
        };
        let text = serde_json::to_string(&exposure).unwrap();
        let expected = format!(
            r#"{{"event_type":"FEATURE_FLAG_EXPOSED","event_id":"00000000-0000-0000-0000-000000000007","experiment":"e","environment":"production","flag_name":"f","flag_version":3,"variant":"a","assignment":{assignment},"user_id":"u","exposed_at":"2026-01-15T10:30:00.000001Z","evaluation_id":null,"metadata":{{"plan":"gold"}}}}"#
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn a_context_that_is_too_large_is_no_metadata() {
        let context = |bytes: usize| format!(r#"{{"a":"{}"}}"#, "x".repeat(bytes - 8));
        assert!(Exposure::metadata(&context(EXPOSURE_METADATA_MAX_BYTES)).is_some());
        assert!(Exposure::metadata(&context(EXPOSURE_METADATA_MAX_BYTES + 1)).is_none());
        assert!(Exposure::metadata("{").is_none());
    }
}
