//! Evaluates a flag in its own type through OpenFeature's remote evaluation protocol, the only one without a requested
//! type. The answer is converted to the format of the other calls.

use anyhow::{Context, bail};
use reqwest::{Method, StatusCode};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use crate::cli::UsageError;
use crate::cli::ask;
use crate::cli::service::Service;
use crate::flag::{ErrorCode, Reason};
use crate::http::segment;

/// The service's response, with a value or an error.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    reason: Option<String>,
    variant: Option<String>,
    metadata: Option<Metadata>,
    #[serde(rename = "errorCode")]
    error_code: Option<String>,
    #[serde(rename = "errorDetails")]
    error_details: Option<String>,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(deserialize_with = "version")]
    version: u64,
    #[serde(default)]
    killed: bool,
}

/// Reads a version, which is text. Services of earlier releases return a number.
fn version<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Version {
        Number(u64),
        Text(String),
    }
    match Version::deserialize(from)? {
        Version::Number(version) => Ok(version),
        Version::Text(text) => {
            text.parse().map_err(|_| D::Error::custom("expected a version: an integer as text"))
        }
    }
}

/// Calls `service`. The result is JSON with the members of an evaluation.
pub async fn ask(
    service: &Service,
    flag: &str,
    options: &ask::Options,
    environment: &str,
) -> anyhow::Result<String> {
    let path = format!("/ofrep/v1/evaluate/flags/{}?environment={}", segment(flag), segment(environment));
    let body = json!({"context": context(options)?}).to_string();
    let body: Box<RawValue> = RawValue::from_string(body)?;
    let answered = service.send(Method::POST, &path, None, Some(&body)).await?;
    if matches!(answered.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        return service.refused(&answered);
    }
    of_answer(flag, environment, &answered.body)
}

/// The context including user and session. The values are sent exactly as given.
fn context(options: &ask::Options) -> Result<Box<RawValue>, UsageError> {
    let mut members = Vec::new();
    for (name, text) in [("targetingKey", &options.user), ("sessionId", &options.session)] {
        if let Some(text) = text {
            members.push(format!("\"{name}\":{}", Value::from(text.as_str())));
        }
    }
    if let Some(text) = &options.context {
        let given = ask::context(text)?;
        let inner = given.get().trim().trim_start_matches('{');
        let inner = inner.strip_suffix('}').unwrap_or(inner).trim();
        members.extend((!inner.is_empty()).then(|| inner.to_owned()));
    }
    RawValue::from_string(format!("{{{}}}", members.join(",")))
        .map_err(|error| UsageError(format!("--context: {error}")))
}

fn of_answer(flag: &str, environment: &str, body: &str) -> anyhow::Result<String> {
    let answer: Answer<'_> =
        serde_json::from_str(body).context("the response is not from flagstream; check --url")?;
    if answer.error_code.is_none() && answer.reason.is_none() {
        bail!("the response is not from flagstream; check --url");
    }
    let null = to_raw_value(&())?;
    let killed = answer.metadata.as_ref().is_some_and(|metadata| metadata.killed);
    let reason = match (&answer.error_code, answer.reason.as_deref()) {
        (Some(code), _) if code == ErrorCode::FlagNotFound.as_str() => Reason::Default,
        (Some(_), _) => Reason::Error,
        (None, _) if killed => Reason::Disabled,
        (None, Some("DISABLED" | "DEFAULT")) => Reason::Default,
        (None, _) => Reason::TargetingMatch,
    };
    // For a flag without variants, the protocol returns variant names of its own.
    let variant = answer.variant.filter(|variant| variant != "enabled" && variant != "disabled");
    let details = answer
        .error_details
        .map(|details| details.strip_prefix(&format!("{flag}: ")).map(str::to_owned).unwrap_or(details));
    let value = answer.value.unwrap_or(&null).get();
    let members = [
        ("flag_name", json!(flag)),
        ("variant", json!(variant)),
        ("reason", json!(reason.as_str())),
        ("error_code", json!(answer.error_code)),
        ("error_message", json!(details)),
        ("flag_version", json!(answer.metadata.map(|metadata| metadata.version))),
        ("environment", json!(environment)),
    ];
    let mut out = Vec::with_capacity(members.len() + 1);
    for (name, member) in members {
        out.push(format!("\"{name}\":{member}"));
        if name == "flag_name" {
            out.push(format!("\"value\":{value}"));
        }
    }
    Ok(format!("{{{}}}", out.join(",")))
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Value {
        serde_json::from_str(&of_answer("f", "e", body).unwrap()).unwrap()
    }

    #[test]
    fn an_answer_has_the_members_of_an_evaluation() {
        let split = read(
            r#"{"key":"f","value":"dark","reason":"SPLIT","variant":"dark","metadata":{"version":"7"}}"#,
        );
        assert_eq!(
            split,
            json!({"flag_name": "f", "value": "dark", "variant": "dark", "reason": "TARGETING_MATCH", "error_code": null,
                "error_message": null, "flag_version": 7, "environment": "e"})
        );
        let off = read(
            r#"{"key":"f","value":false,"reason":"DISABLED","variant":"disabled","metadata":{"version":7}}"#,
        );
        assert_eq!(
            (&off["value"], &off["variant"], &off["reason"]),
            (&json!(false), &Value::Null, &json!("DEFAULT"))
        );
        let killed =
            r#"{"key":"f","reason":"DISABLED","variant":"disabled","metadata":{"version":7,"killed":true}}"#;
        assert_eq!((&read(killed)["value"], &read(killed)["reason"]), (&Value::Null, &json!("DISABLED")));
    }

    #[test]
    fn errors_are_told_from_flags_that_are_not_there() {
        let unknown = read(r#"{"key":"f","errorCode":"FLAG_NOT_FOUND","errorDetails":"f: no such flag"}"#);
        assert_eq!(
            (&unknown["reason"], &unknown["error_message"]),
            (&json!("DEFAULT"), &json!("no such flag"))
        );
        let unready = read(r#"{"key":"f","errorCode":"PROVIDER_NOT_READY","errorDetails":"not served"}"#);
        assert_eq!(unready["reason"], "ERROR");
        assert!(of_answer("f", "e", "{}").is_err() && of_answer("f", "e", "<html>").is_err());
    }

    #[test]
    fn the_context_stands_as_it_was_written() {
        let options = ask::Options {
            user: Some("a\"b".to_owned()),
            context: Some(r#" {"n": 1.0e2, "b": 1, "a": 2} "#.to_owned()),
            ..ask::Options::default()
        };
        assert_eq!(context(&options).unwrap().get(), r#"{"targetingKey":"a\"b","n": 1.0e2, "b": 1, "a": 2}"#);
        assert_eq!(context(&ask::Options::default()).unwrap().get(), "{}");
    }
}
