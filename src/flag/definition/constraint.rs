//! Constraints: the operator known, the value well-formed and in the notation of the engine's grammar.

use chrono::{DateTime, Datelike, SecondsFormat, Utc};
use regex::RegexBuilder;
use unleash_types::client_features::{Constraint, Operator};

use super::place::{Place, Refusal, shorten};
use super::{MAX_REGEX_BYTES, MAX_VALUES_PER_CONSTRAINT};

pub(super) fn read(place: &Place<'_>) -> Result<Constraint, Refusal> {
    let mut constraint = Constraint {
        context_name: place.required_name("contextName")?,
        operator: operator(place)?,
        case_insensitive: place.optional_boolean("caseInsensitive")?.unwrap_or(false),
        inverted: place.optional_boolean("inverted")?.unwrap_or(false),
        values: place.texts("values", MAX_VALUES_PER_CONSTRAINT)?,
        value: place.optional_text("value")?,
    };
    normalize(&mut constraint).map_err(|message| match constraint.value {
        Some(_) => place.refuse_member("value", message),
        None => place.refuse_member("value", "is required"),
    })?;
    Ok(constraint)
}

fn operator(place: &Place<'_>) -> Result<Operator, Refusal> {
    let name = place.required_text("operator")?;
    // The type's own reading never fails: what it doesn't know it keeps as `Unknown`.
    match serde_json::from_value(name.clone().into()) {
        Ok(Operator::Unknown(_)) | Err(_) => {
            Err(place.refuse_member("operator", format!("unknown operator {:?}", shorten(&name, 100))))
        }
        Ok(operator) => Ok(operator),
    }
}

/// Brings `value` into the form that the engine's grammar takes for the operator, and into no other: it goes into
/// the text of a rule unquoted.
fn normalize(constraint: &mut Constraint) -> Result<(), String> {
    let value = constraint.value.as_deref().unwrap_or_default().trim();
    let normal = match constraint.operator {
        Operator::NumEq | Operator::NumGt | Operator::NumGte | Operator::NumLt | Operator::NumLte => {
            number(value)?
        }
        Operator::DateAfter | Operator::DateBefore => date(value)?,
        Operator::SemverEq
        | Operator::SemverGt
        | Operator::SemverGte
        | Operator::SemverLt
        | Operator::SemverLte => version(value)?,
        Operator::RegexMatch => return regex(constraint),
        Operator::In
        | Operator::NotIn
        | Operator::InCidr
        | Operator::StrContains
        | Operator::StrStartsWith
        | Operator::StrEndsWith
        | Operator::Unknown(_) => return Ok(()),
    };
    constraint.value = Some(normal);
    Ok(())
}

/// Rust writes a finite `f64` without an exponent and so that it reads back as the same number.
fn number(text: &str) -> Result<String, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number.to_string()),
        _ => Err(format!("expected a number, not {:?}", shorten(text, 100))),
    }
}

fn date(text: &str) -> Result<String, String> {
    let refusal = || format!("expected a date as in RFC 3339, not {:?}", shorten(text, 100));
    let date: DateTime<Utc> = text.parse().map_err(|_| refusal())?;
    // The grammar has four digits for the year.
    if !(0..=9999).contains(&date.year()) {
        return Err(refusal());
    }
    Ok(date.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// The client specification has versions with a leading `v` in definitions: such a constraint never holds.
fn version(text: &str) -> Result<String, String> {
    if text.starts_with('v') {
        return Ok(text.to_owned());
    }
    match semver::Version::parse(text) {
        Ok(version) => Ok(version.to_string()),
        Err(_) => Err(format!("expected a semantic version, not {:?}", shorten(text, 100))),
    }
}

/// An ill-formed expression matches nothing, in the client specification too; one that is too large is refused.
fn regex(constraint: &Constraint) -> Result<(), String> {
    let compiled = RegexBuilder::new(constraint.value.as_deref().unwrap_or_default())
        .case_insensitive(constraint.case_insensitive)
        .size_limit(MAX_REGEX_BYTES)
        .build();
    match compiled {
        Err(regex::Error::CompiledTooBig(_)) => {
            Err(format!("takes more than {MAX_REGEX_BYTES} bytes as a compiled regular expression"))
        }
        _ => Ok(()),
    }
}
