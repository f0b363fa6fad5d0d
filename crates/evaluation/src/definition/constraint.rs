//! Constraints: validates the operator and converts the value into the notation of the engine's grammar.
//!
//! A constraint with an unknown operator, or with a value that is not a valid number, date or version, never
//! holds, whether inverted or not. It is kept as [`Operator::Unknown`], with the reason in place of the
//! operator's name. Its strategy then never matches; the flag's other strategies are not affected.

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, SecondsFormat, Utc};
use unleash_types::client_features::{Constraint, Operator};

use super::MAX_VALUES_PER_CONSTRAINT;
use super::place::{JsonNode, Refusal, shorten};

pub(super) fn read(place: &JsonNode<'_>) -> Result<Constraint, Refusal> {
    let mut constraint = Constraint {
        context_name: place.required_name("contextName")?,
        operator: operator(place)?,
        case_insensitive: place.optional_boolean("caseInsensitive")?.unwrap_or(false),
        inverted: place.optional_boolean("inverted")?.unwrap_or(false),
        values: place.texts("values", MAX_VALUES_PER_CONSTRAINT)?,
        value: place.optional_text("value")?,
    };
    if let Err(message) = normalize(&mut constraint) {
        let message = if constraint.value.is_some() { message } else { "is required".to_owned() };
        constraint.operator = Operator::Unknown(place.refuse_member("value", message).to_string());
    }
    Ok(constraint)
}

fn operator(place: &JsonNode<'_>) -> Result<Operator, Refusal> {
    let name = place.required_text("operator")?;
    let unknown = || {
        let message = format!("unknown operator {:?}", shorten(&name, 100));
        Operator::Unknown(place.refuse_member("operator", message).to_string())
    };
    // Deserializing an operator never fails: an unknown name becomes `Unknown`.
    Ok(match serde_json::from_value(name.clone().into()) {
        Ok(Operator::Unknown(_)) | Err(_) => unknown(),
        Ok(operator) => operator,
    })
}

/// Converts `value` into exactly the form that the engine's grammar requires for the operator, because the
/// value goes into the text of a rule unquoted.
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
        // Regular expressions are compiled with the flag, because the limits apply to all of its expressions
        // together.
        Operator::RegexMatch
        | Operator::In
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

/// Normalizes a number. Rust formats a finite `f64` without an exponent, and the text parses back to the same
/// number.
fn number(text: &str) -> Result<String, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number.to_string()),
        _ => Err(format!("expected a number, not {:?}", shorten(text, 100))),
    }
}

fn date(text: &str) -> Result<String, String> {
    let refusal = || format!("expected a date in RFC 3339 format, not {:?}", shorten(text, 100));
    let date = moment(text).ok_or_else(refusal)?;
    // The grammar requires a year of four digits.
    if !(0..=9999).contains(&date.year()) {
        return Err(refusal());
    }
    Ok(date.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// Parses a time in one of the forms that Unleash's server accepts: RFC 3339, the same without seconds,
/// offset or time (then in UTC, as Unleash's SDK for Node.js reads them), and RFC 2822.
fn moment(text: &str) -> Option<DateTime<Utc>> {
    let local = text.strip_suffix(['Z', 'z']).unwrap_or(text);
    let day = || NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0);
    let time = || {
        let forms = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M"];
        forms.iter().find_map(|form| NaiveDateTime::parse_from_str(local, form).ok())
    };
    let offset = || DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M%:z").ok().map(|date| date.to_utc());
    let mail = || DateTime::parse_from_rfc2822(text).ok().map(|date| date.to_utc());
    let utc = || time().or_else(day).map(|date| date.and_utc());
    text.parse().ok().or_else(offset).or_else(utc).or_else(mail)
}

/// Normalizes a version. The client specification allows versions with a leading `v` in definitions: such a
/// constraint never holds.
fn version(text: &str) -> Result<String, String> {
    if text.starts_with('v') {
        return Ok(text.to_owned());
    }
    match semver::Version::parse(text) {
        Ok(version) => Ok(version.to_string()),
        Err(_) => Err(format!("expected a semantic version, not {:?}", shorten(text, 100))),
    }
}
