//! The evaluation context: who asks, when, and with which properties.

use std::borrow::Cow;

use chrono::DateTime;

/// The name of the session beside a context, taken inside it too.
pub(crate) const SESSION_PROPERTY: &str = "session_id";

/// Contexts with more properties than this are sorted once, so that a look-up does not search all of them.
pub(crate) const UNSORTED_PROPERTIES_MAX: usize = 16;

/// OpenFeature's evaluation context in Unleash's terms. All texts may be borrowed from the request.
#[derive(Debug, Default, Clone)]
pub struct EvaluationContext<'a> {
    /// Unleash's `userId`, OpenFeature's targeting key.
    pub user_id: Option<Cow<'a, str>>,
    pub session_id: Option<Cow<'a, str>>,
    /// Stands in for the session where a draw of default stickiness finds neither a user nor a session, so that all
    /// flags of one call are drawn alike. `None`: such a draw is random.
    pub anonymous_id: Option<Cow<'a, str>>,
    pub remote_address: Option<Cow<'a, str>>,
    /// RFC 3339; overrides [`Moment::now`].
    pub current_time: Option<Cow<'a, str>>,
    /// Overrides [`Moment::app_name`].
    pub app_name: Option<Cow<'a, str>>,
    /// Everything else, in the order of the request. On a repeated name the last one counts.
    pub properties: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// Whether `properties` are sorted by name and each name is there once. `false` is always right.
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

    /// Sorts many properties by name; of a repeated name the last one stays.
    pub fn sort_properties(&mut self) {
        if self.properties.len() <= UNSORTED_PROPERTIES_MAX {
            return;
        }
        // Stable. After the reversal the last one of a name is the first, which is the one that `dedup` keeps.
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
