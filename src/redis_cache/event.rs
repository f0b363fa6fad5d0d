//! Fields of an event that the warmer reads.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Subject;

/// Evaluation event, or any other event.
#[derive(Debug, Deserialize)]
pub struct Event<'a> {
    #[serde(borrow)]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    flag_name: Cow<'a, str>,
    #[serde(borrow)]
    environment: Cow<'a, str>,
    user_id: Option<String>,
    session_id: Option<String>,
    pub flag_version: Option<u64>,
    #[serde(borrow)]
    context: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub evaluated_at: Cow<'a, str>,
}

impl<'a> Event<'a> {
    pub fn read(payload: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(payload).ok()
    }

    pub fn is_evaluation(&self) -> bool {
        self.event_type == "FEATURE_FLAG_EVALUATED"
    }

    pub fn subject(&self) -> Subject<'_> {
        Subject {
            environment: &self.environment,
            flag: &self.flag_name,
            user: self.user_id.as_deref(),
            session: self.session_id.as_deref(),
            context: self.context.map_or("{}", RawValue::get),
        }
    }
}
