//! The evaluation context: who asks, when, and with which properties.

use std::borrow::Cow;

use chrono::DateTime;

/// OpenFeature's evaluation context in Unleash's terms. All texts may be borrowed from the request.
#[derive(Debug, Default, Clone)]
pub struct EvaluationContext<'a> {
    /// Unleash's `userId`, OpenFeature's targeting key.
    pub user_id: Option<Cow<'a, str>>,
    pub session_id: Option<Cow<'a, str>>,
    pub remote_address: Option<Cow<'a, str>>,
    /// RFC 3339; overrides [`Moment::now`].
    pub current_time: Option<Cow<'a, str>>,
    /// Overrides [`Moment::app_name`].
    pub app_name: Option<Cow<'a, str>>,
    /// Everything else, in the order of the request. On a repeated name the last one counts.
    pub properties: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> EvaluationContext<'a> {
    /// The property of this name, or `None`.
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_ref())
    }
}

/// What evaluation would otherwise have to ask the machine for.
#[derive(Debug, Clone, Copy)]
pub struct Moment<'a> {
    /// RFC 3339, UTC, for constraints on `currentTime` and for kill switches that expire.
    pub now: &'a str,
    /// For the `applicationHostname` strategy.
    pub hostname: &'a str,
    pub app_name: &'a str,
}

impl Moment<'_> {
    /// In milliseconds since 1970; `None` if `now` is no time.
    pub fn now_ms(&self) -> Option<i64> {
        Some(DateTime::parse_from_rfc3339(self.now).ok()?.timestamp_millis())
    }
}
