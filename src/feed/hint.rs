//! Hints on `feature-flag-changes`: which source to poll. Only the sources are authoritative, so the content
//! of a hint is never applied.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::message::definition::Source;

/// Maximum size of a body in bytes; larger ones are not read.
pub const HINT_BYTES_MAX: usize = 256 * 1024;

/// Maximum length of a person's name in characters; longer names are shortened.
pub const ACTOR_CHARS_MAX: usize = 200;

/// Scope of a hint. `None` stands for all environments or all flags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hint {
    pub environment: Option<String>,
    pub flag: Option<String>,
    /// Whether the hint concerns a local flag, so that Unleash need not be polled.
    pub local: bool,
    /// Author of the change according to Unleash's webhook or to the hint's sender.
    pub actor: Option<String>,
}

/// Result of reading a record of the changes topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    Understood(Hint),
    /// The content is not understood, so anything may have changed and every source is polled.
    NotUnderstood,
    TooLarge,
}

/// A change event (`event_type`, `flag_name`) or the body of an Unleash webhook (`type`, `featureName`).
#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    event_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    flag_name: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "type")]
    webhook_type: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "featureName")]
    feature_name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    environment: Option<Cow<'a, str>>,
    #[serde(borrow)]
    source: Option<Cow<'a, str>>,
    /// Author in a webhook. An Unleash webhook is distinguished from webhooks of other services by at least
    /// one of Unleash's own fields.
    #[serde(borrow, rename = "createdBy")]
    created_by: Option<&'a RawValue>,
    /// Author in a hint of flagstream's own form.
    #[serde(borrow)]
    actor: Option<&'a RawValue>,
}

impl Reading {
    pub fn label(&self) -> &'static str {
        match self {
            Self::Understood(_) => "understood",
            Self::NotUnderstood => "not_understood",
            Self::TooLarge => "too_large",
        }
    }
}

/// Reads one record of the changes topic.
pub fn read(body: Option<&[u8]>) -> Reading {
    let body = body.unwrap_or_default();
    if body.len() > HINT_BYTES_MAX {
        return Reading::TooLarge;
    }
    let Ok(body) = serde_json::from_slice::<Body<'_>>(body) else {
        return Reading::NotUnderstood;
    };
    let flag = match (body.event_type.as_deref(), &body.webhook_type) {
        (Some("FEATURE_FLAG_CREATED" | "FEATURE_FLAG_UPDATED" | "FEATURE_FLAG_DELETED"), _) => body.flag_name,
        (None, Some(_)) if body.feature_name.is_some() || body.created_by.is_some() => body.feature_name,
        _ => return Reading::NotUnderstood,
    };
    Reading::Understood(Hint {
        // Unleash writes `*` or nothing for a change in all environments.
        environment: body.environment.filter(|name| !matches!(name.as_ref(), "" | "*")).map(Cow::into_owned),
        flag: flag.filter(|name| !name.is_empty()).map(Cow::into_owned),
        local: body.source.as_deref() == Some(Source::Local.as_str()),
        actor: body
            .created_by
            .or(body.actor)
            .and_then(|by| serde_json::from_str::<String>(by.get()).ok())
            .as_deref()
            .and_then(person),
    })
}

/// Normalized name of a person: limited in length, without control characters; `None` if it is empty.
pub(super) fn person(name: &str) -> Option<String> {
    let plain: String = name.chars().filter(|char| !char.is_control()).take(ACTOR_CHARS_MAX).collect();
    Some(plain.trim().to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn understood(body: &str) -> (Option<String>, Option<String>) {
        match read(Some(body.as_bytes())) {
            Reading::Understood(Hint { environment, flag, .. }) => (environment, flag),
            other => panic!("{other:?}: {body}"),
        }
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn change_events_are_hints() {
        let body = r#"{"event_type":"FEATURE_FLAG_UPDATED","flag_name":"a","environment":"dev","version":7}"#;
        assert_eq!(understood(body), (some("dev"), some("a")));
        assert_eq!(
            understood(r#"{"event_type":"FEATURE_FLAG_DELETED","environment":"dev"}"#),
            (some("dev"), None)
        );
        assert_eq!(understood(r#"{"event_type":"FEATURE_FLAG_CREATED"}"#), (None, None));
    }

    #[test]
    fn a_hint_may_be_about_local_flags_only() {
        let hint = |source: &str| {
            let body =
                format!(r#"{{"event_type":"FEATURE_FLAG_UPDATED","flag_name":"a","source":"{source}"}}"#);
            matches!(read(Some(body.as_bytes())), Reading::Understood(Hint { local: true, .. }))
        };
        assert!(hint("local"));
        assert!(!hint("unleash"));
    }

    #[test]
    fn webhook_bodies_are_hints() {
        let body = r#"{"id":5,"type":"feature-environment-enabled","createdBy":"admin","createdAt":"2026-01-15T10:30:00Z",
            "data":{"name":"x"},"preData":null,"tags":[],"featureName":"a","project":"default","environment":"dev"}"#;
        assert_eq!(understood(body), (some("dev"), some("a")));
        let archived =
            r#"{"type":"feature-archived","createdBy":"admin","featureName":"a","environment":null}"#;
        assert_eq!(understood(archived), (None, some("a")));
        let segment = r#"{"type":"segment-updated","createdBy":"admin","data":{"id":1},"environment":"*"}"#;
        assert_eq!(understood(segment), (None, None));
    }

    #[test]
    fn the_webhook_says_who_made_the_change() {
        let actor = |by: &str| {
            let body = format!(r#"{{"type":"feature-updated","featureName":"a","createdBy":{by}}}"#);
            match read(Some(body.as_bytes())) {
                Reading::Understood(hint) => hint.actor,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(actor(r#"" ann\n""#).as_deref(), Some("ann"));
        assert_eq!(
            actor(&format!("\"{}\"", "x".repeat(1_000))).map(|name| name.len()),
            Some(ACTOR_CHARS_MAX)
        );
        for nobody in [r#""""#, "7", "null", r#"{"id":1}"#] {
            assert_eq!(actor(nobody), None, "{nobody}");
        }
    }

    #[test]
    fn a_hint_may_say_who_made_the_change() {
        let actor = |by: &str| {
            let body = format!(r#"{{"event_type":"FEATURE_FLAG_UPDATED","flag_name":"a","actor":{by}}}"#);
            match read(Some(body.as_bytes())) {
                Reading::Understood(hint) => hint.actor,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(actor(r#""ann""#).as_deref(), Some("ann"));
        for nobody in [r#""""#, "7", "null"] {
            assert_eq!(actor(nobody), None, "{nobody}");
        }
    }

    #[test]
    fn what_is_not_understood_means_everything() {
        let bodies = [
            "",
            "x",
            "[]",
            "7",
            "{}",
            r#"{"event_type":"FEATURE_FLAG_EVALUATED","flag_name":"a"}"#,
            r#"{"event_type":"FEATURE_FLAG_UPDATED","flag_name":7}"#,
            r#"{"type":"push","repository":"x"}"#,
        ];
        for body in bodies {
            assert_eq!(read(Some(body.as_bytes())), Reading::NotUnderstood, "{body}");
        }
        assert_eq!(read(None), Reading::NotUnderstood);
        assert_eq!(read(Some(b"\xff\xfe")), Reading::NotUnderstood);
    }

    #[test]
    fn large_bodies_are_not_read() {
        let body = format!(r#"{{"event_type":"FEATURE_FLAG_UPDATED","x":"{}"}}"#, "y".repeat(HINT_BYTES_MAX));
        assert_eq!(read(Some(body.as_bytes())), Reading::TooLarge);
    }
}
