//! The evaluation context: the user, the time and the properties of a request.

use std::borrow::Cow;

use chrono::DateTime;

/// Name of the session id in requests. A property of this name inside a context is read as the session too.
pub const SESSION_PROPERTY: &str = "session_id";

/// Contexts with more properties than this are sorted once, so that a look-up can use binary search.
pub const UNSORTED_PROPERTIES_MAX: usize = 16;

/// OpenFeature's evaluation context in Unleash's terms. All texts may be borrowed from the request.
#[derive(Debug, Default, Clone)]
pub struct EvaluationContext<'a> {
    /// Unleash's `userId`, OpenFeature's targeting key.
    pub user_id: Option<Cow<'a, str>>,
    pub session_id: Option<Cow<'a, str>>,
    /// Replaces the session in a draw with default stickiness if the context has neither a user nor a
    /// session, so that all flags of one call get consistent draws. `None`: such a draw is random.
    pub anonymous_id: Option<Cow<'a, str>>,
    pub remote_address: Option<Cow<'a, str>>,
    /// RFC 3339; overrides [`Moment::now`].
    pub current_time: Option<Cow<'a, str>>,
    /// Overrides [`Moment::app_name`].
    pub app_name: Option<Cow<'a, str>>,
    /// All other properties, in the order of the request. If a name is repeated, the last value counts.
    pub properties: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// Whether `properties` are sorted by name without duplicates. `false` is always correct.
    pub properties_sorted: bool,
}

impl<'a> EvaluationContext<'a> {
    /// The property of this name, or `None`. `session_id` is another name of the session.
    pub fn property(&self, name: &str) -> Option<&str> {
        if name == SESSION_PROPERTY {
            return self.session_id.as_deref();
        }
        if self.properties_sorted {
            let found = self.properties.binary_search_by(|(key, _)| key.as_ref().cmp(name)).ok()?;
            return self.properties.get(found).map(|(_, value)| value.as_ref());
        }
        self.properties.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_ref())
    }

    /// Sorts the properties by name if there are more than `UNSORTED_PROPERTIES_MAX`. If a name is
    /// repeated, the last value is kept.
    pub fn sort_properties(&mut self) {
        if self.properties.len() <= UNSORTED_PROPERTIES_MAX {
            return;
        }
        // The sort is stable. After the reversal, the last value of a name comes first, and `dedup` keeps the
        // first.
        self.properties.reverse();
        self.properties.sort_by(|(one, _), (other, _)| one.cmp(other));
        self.properties.dedup_by(|(later, _), (earlier, _)| later == earlier);
        self.properties_sorted = true;
    }

    /// Whether neither a user nor a session is known.
    pub fn is_anonymous(&self) -> bool {
        self.user_id.is_none() && self.session_id.is_none()
    }
}

/// Values that evaluation would otherwise have to read from the system.
#[derive(Debug, Clone, Copy)]
pub struct Moment<'a> {
    /// Current time (RFC 3339, UTC) for constraints on `currentTime` and for expiry of kill switches.
    pub now: &'a str,
    /// Host name for the `applicationHostname` strategy.
    pub hostname: &'a str,
    pub app_name: &'a str,
}

impl Moment<'_> {
    /// The time in milliseconds since 1970; `None` if `now` is not a valid time.
    pub fn now_ms(&self) -> Option<i64> {
        Some(DateTime::parse_from_rfc3339(self.now).ok()?.timestamp_millis())
    }
}
