//! Cached outcomes. They contain neither value type nor default value, so that answers for all of them can be derived.

use std::borrow::Cow;

use serde::Deserialize;

use crate::flag::value::{Lookup, OutcomeParts};
use crate::flag::{Outcome, Payload, Reason};
use crate::message::json::write_string;

/// Outcome read from the cache.
#[derive(Debug, Clone, PartialEq)]
pub struct CachedOutcome {
    pub enabled: bool,
    /// Whether the flag is disabled by its kill switch.
    pub killed: bool,
    /// Name and payload of the variant.
    pub variant: Option<(String, Option<Payload>)>,
    pub flag_version: u64,
    /// The highest version that the outcome is based on: the flag's own, or that of a flag it depends on.
    pub basis: u64,
    /// Time of the evaluation in RFC 3339, UTC.
    pub evaluated_at: String,
    /// Choice of the variant, as a JSON object; `None` for flags that are not experiments.
    pub assignment: Option<String>,
}

#[derive(Deserialize)]
struct Stored<'a> {
    basis_version: Option<u64>,
    flag_version: u64,
    enabled: bool,
    #[serde(default)]
    killed: bool,
    #[serde(borrow)]
    variant: Option<Cow<'a, str>>,
    payload: Option<StoredPayload>,
    evaluated_at: String,
    assignment: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct StoredPayload {
    r#type: String,
    value: String,
}

impl CachedOutcome {
    /// Decodes a value. `None` if it is not in flagstream's format.
    pub fn read(value: &[u8]) -> Option<Self> {
        let stored: Stored<'_> = serde_json::from_slice(value).ok()?;
        let payload = stored.payload.map(|payload| Payload::parse(&payload.r#type, &payload.value));
        Some(Self {
            enabled: stored.enabled,
            killed: stored.killed,
            variant: stored.variant.map(|name| (name.into_owned(), payload)),
            flag_version: stored.flag_version,
            basis: stored.basis_version.unwrap_or(stored.flag_version),
            evaluated_at: stored.evaluated_at,
            assignment: stored.assignment.map(|assignment| assignment.to_string()),
        })
    }

    /// Converts to the input of [`answer`](crate::flag::answer), as if the outcome came from a snapshot.
    pub fn lookup(&self) -> Lookup<'_> {
        let variant = self.variant.as_ref().map(|(name, payload)| (name.as_str(), payload.as_ref()));
        Lookup::OutcomeParts(OutcomeParts {
            enabled: self.enabled,
            killed: self.killed,
            variant,
            unmet: None,
            flag_version: self.flag_version,
            assignment: self.assignment.as_deref(),
        })
    }
}

/// Writes the value of `feature_flag:eval:…`.
///
/// The value begins with the version that Redis compares (`script`): `basis_version` if it differs from the flag's own.
pub(super) fn write(out: &mut Vec<u8>, outcome: &Outcome<'_>, basis: u64, evaluated_at: &str) {
    begin(out, outcome, basis);
    out.extend_from_slice(br#","variant":"#);
    match outcome.variant {
        Some((_, variant)) => write_string(out, &variant.name),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(br#","payload":"#);
    match outcome.variant.and_then(|(_, variant)| variant.payload.as_ref()) {
        Some(payload) => {
            out.extend_from_slice(br#"{"type":"#);
            write_string(out, &payload.kind);
            out.extend_from_slice(br#","value":"#);
            write_string(out, &payload.text);
            out.push(b'}');
        }
        None => out.extend_from_slice(b"null"),
    }
    let reason = match (outcome.enabled, outcome.killed) {
        (true, _) => Reason::TargetingMatch,
        (false, true) => Reason::Disabled,
        (false, false) => Reason::Default,
    };
    out.extend_from_slice(br#","reason":""#);
    out.extend_from_slice(reason.as_str().as_bytes());
    out.extend_from_slice(br#"","evaluated_at":"#);
    write_string(out, evaluated_at);
    if let Some(assignment) = outcome.assignment {
        out.extend_from_slice(br#","assignment":"#);
        out.extend_from_slice(assignment.as_bytes());
    }
    out.push(b'}');
}

/// Writes the value of `ff_eval:…`. It also begins with a version, by which Redis compares values.
pub(super) fn write_plain(out: &mut Vec<u8>, outcome: &Outcome<'_>, basis: u64, evaluated_at: &str) {
    begin(out, outcome, basis);
    out.extend_from_slice(br#","cached_at":"#);
    write_string(out, evaluated_at);
    out.push(b'}');
}

fn begin(out: &mut Vec<u8>, outcome: &Outcome<'_>, basis: u64) {
    let mut number = itoa::Buffer::new();
    out.push(b'{');
    if basis != outcome.flag.version {
        out.extend_from_slice(br#""basis_version":"#);
        out.extend_from_slice(number.format(basis).as_bytes());
        out.push(b',');
    }
    out.extend_from_slice(br#""flag_version":"#);
    out.extend_from_slice(number.format(outcome.flag.version).as_bytes());
    let enabled: &[u8] = if outcome.enabled { br#","enabled":true"# } else { br#","enabled":false"# };
    out.extend_from_slice(enabled);
    if outcome.killed {
        out.extend_from_slice(br#","killed":true"#);
    }
}

#[cfg(test)]
#[path = "cached_outcome/tests.rs"]
mod tests;
