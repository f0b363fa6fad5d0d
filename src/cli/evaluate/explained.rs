//! `evaluate --explain`: why the flag is on or off.

use anyhow::Context;
use chrono::{SecondsFormat, Utc};
use reqwest::Method;
use serde_json::Value;

use crate::cli::ask;
use crate::cli::render;
use crate::cli::service::Service;
use crate::flag::{Explanation, Moment};
use crate::flag_file::FlagFile;
use crate::http::segment;
use crate::message::request::Request;

/// Explains the evaluation of a flag in a running service.
pub async fn by_service(
    service: &Service,
    flag: &str,
    options: &ask::Options,
    environment: &str,
) -> anyhow::Result<Value> {
    let mut body = ask::Body::default();
    options.user.as_ref().map(|user| body.put("user_id", user)).transpose()?;
    options.session.as_ref().map(|session| body.put("session_id", session)).transpose()?;
    if let Some(text) = &options.context {
        body.put("context", &ask::context(text)?)?;
    }
    let (flag, environment) = (segment(flag), segment(environment));
    let path = format!("/api/v1/feature-flags/{flag}/explain?environment={environment}");
    let answered = service.call(Method::POST, &path, None, Some(&body)).await?;
    let explained: Value =
        serde_json::from_str(&answered.body).context("the response is not from flagstream")?;
    // The same members as for a file.
    let members = explained.as_object().into_iter().flatten();
    let members = members.filter(|(name, _)| Explanation::members().contains(&name.as_str()));
    Ok(members.map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// Explains the evaluation of a flag of a file.
pub fn by_file(file: &FlagFile, flag: &str, body: &ask::Body, app_name: &str) -> anyhow::Result<Value> {
    let text = body.text()?;
    let request = Request::decode(text.as_bytes())?;
    let environment = request.environment.as_deref().unwrap_or_default();
    let found = file.definitions.get(flag).zip(file.snapshot.environment(environment));
    let (definition, flags) = found.with_context(|| format!("the file has no flag {flag}"))?;
    let (now, hostname) = (
        Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true),
        gethostname::gethostname().to_string_lossy().into_owned(),
    );
    let moment = Moment { now: &now, hostname: &hostname, app_name };
    let explained = flags.explain(definition, &request.context, &moment)?;
    Ok(serde_json::to_value(explained)?)
}

/// Lines for people: the summary, and each strategy that was tried.
pub fn lines(explained: &Value) -> Vec<String> {
    let text =
        |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut lines = vec![format!("  {}", text(explained, "summary"))];
    for tried in explained.get("strategies").and_then(Value::as_array).into_iter().flatten() {
        let number = tried.get("index").and_then(Value::as_u64).unwrap_or_default() + 1;
        let result = match tried.get("failure").filter(|failure| !failure.is_null()) {
            None => "matches".to_owned(),
            Some(failure) => format!("does not match: {}", why(failure)),
        };
        lines.push(format!("  strategy {number} ({}) {result}", text(tried, "name")));
    }
    lines.iter().map(|line| render::printable(line)).collect()
}

fn why(failure: &Value) -> String {
    let text = |name: &str| failure.get(name).and_then(Value::as_str).unwrap_or_default();
    match text("kind") {
        "constraint" => {
            let values = failure.get("values").and_then(Value::as_array).into_iter().flatten();
            let values: Vec<&str> = values.filter_map(Value::as_str).collect();
            let not = if failure.get("inverted") == Some(&Value::Bool(true)) { "not " } else { "" };
            let actual = match failure.get("actual").and_then(Value::as_str) {
                Some(actual) => format!("the value is {actual}"),
                None => "the context has no value".to_owned(),
            };
            format!("{not}{} {} {}: {actual}", text("context_name"), text("operator"), values.join(", "))
        }
        "rollout" => {
            let place = failure.get("bucket").and_then(Value::as_u64);
            let place =
                place.map_or_else(|| "drawn at random".to_owned(), |place| format!("at {place} of 100"));
            format!("outside the rollout of {} % by {}, {place}", text("percentage"), text("stickiness"))
        }
        "not_listed" => format!("not among {}", text("parameter")),
        "anonymous" => "the rollout needs a user or a session".to_owned(),
        "missing_segment" => "a segment does not exist".to_owned(),
        "not_examined" => "the definition is too large to say why".to_owned(),
        _ => "the strategy is unknown or lacks a parameter".to_owned(),
    }
}
