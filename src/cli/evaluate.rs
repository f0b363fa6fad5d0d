//! `flagstream evaluate`: evaluates a flag in a running service, or from a file with the same result.
//!
//! Without a default and a type, the flag's own type is used. Exit code 1 if the reason is `ERROR`.

mod explained;
mod own_type;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use chrono::{SecondsFormat, Utc};
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::config::Config;
use crate::flag::value::{Lookup, answer, natural_answer};
use crate::flag::{Answer, Moment, Reason, Snapshot};
use crate::flag_file;
use crate::message::event::{member, write_result};
use crate::message::json::write_string;
use crate::message::request::Request;

use super::service::{self, Service};
use super::{Global, Output, ask, print, render};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The flag to evaluate
    pub flag: String,
    #[command(flatten)]
    pub options: ask::Options,
    /// Environment (default: UNLEASH_ENVIRONMENT)
    #[arg(long)]
    pub environment: Option<String>,
    /// Evaluate the flags of this file locally, in the format of Unleash's client API
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    pub flags: Option<PathBuf>,
    /// Say why: which strategy decided, and which constraint of the others failed. A service requires a token with
    /// the scope read for this
    #[arg(long)]
    pub explain: bool,
    #[command(flatten)]
    pub service: service::Options,
}

pub async fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    let environment = args.environment.as_deref().unwrap_or(&config.unleash.default_environment);
    let body = ask::body(std::slice::from_ref(&args.flag), &args.options, environment)?;
    let (result, explained) = match &args.flags {
        Some(path) => {
            let file = flag_file::load(path, environment)?;
            for (name, error) in &file.refused {
                print::note(format_args!("flagstream: refused: {error}"));
                anyhow::ensure!(*name != args.flag, "flag {name} cannot be evaluated");
            }
            let own_type = args.options.asks_for_own_type();
            let app_name = &config.unleash.app_name;
            let result = evaluate(&args.flag, &body, own_type, &file.snapshot, app_name)?;
            let explained =
                args.explain.then(|| explained::by_file(&file, &args.flag, &body, app_name)).transpose()?;
            (result, explained)
        }
        None => {
            let result = ask_service(&args, &config, &body).await?;
            let explained = match args.explain {
                true => {
                    let service = Service::new(&args.service, &config)?;
                    Some(explained::by_service(&service, &args.flag, &args.options, environment).await?)
                }
                false => None,
            };
            (result, explained)
        }
    };
    let is_error = is_error(&result);
    match (global.output, explained) {
        (Output::Json, None) => print::line(&result)?,
        (Output::Json, Some(explained)) => {
            let members = result.strip_suffix('}').context("the result is not an object")?;
            print::line(&format!("{members},\"explanation\":{explained}}}"))?
        }
        (Output::Text, explained) => {
            print::line(&text(&args.flag, &result)?)?;
            for line in explained.iter().flat_map(explained::lines) {
                print::line(&line)?;
            }
            true
        }
    };
    Ok(if is_error { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Whether the reason is `ERROR`: the value is the default because the flag could not be evaluated.
fn is_error(result: &str) -> bool {
    let result: Value = serde_json::from_str(result).unwrap_or_default();
    result.get("reason").and_then(Value::as_str) == Some(Reason::Error.as_str())
}

/// The unchanged answer of a running service.
async fn ask_service(args: &Args, config: &Config, body: &ask::Body) -> anyhow::Result<String> {
    let service = Service::new(&args.service, config)?;
    if args.options.asks_for_own_type() {
        let environment = args.environment.as_deref().unwrap_or(&config.unleash.default_environment);
        return own_type::ask(&service, &args.flag, &args.options, environment).await;
    }
    let answered = service.call(Method::POST, "/api/v1/feature-flags/evaluate", None, Some(body)).await?;
    Ok(answered.body)
}

fn evaluate(
    flag: &str,
    body: &ask::Body,
    own_type: bool,
    snapshot: &Snapshot,
    app_name: &str,
) -> anyhow::Result<String> {
    let text = body.text()?;
    let request = Request::decode(text.as_bytes())?;
    let asked = request.asks.as_slice().first().context("the request names no flag")?;
    let (now, hostname) = (
        Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true),
        gethostname::gethostname().to_string_lossy().into_owned(),
    );
    let moment = Moment { now: &now, hostname: &hostname, app_name };
    let environment = request.environment.as_deref().unwrap_or_default();
    let flags = snapshot.environment(environment);
    let lookup = Lookup::evaluate(flags, environment, flag, &request.context, &moment);
    let answer = match own_type {
        true => natural_answer(flag, lookup),
        false => answer(flag, lookup, asked.value_type, asked.default.as_ref()),
    };
    Ok(result(flag, &request, &answer))
}

/// The result as JSON, with the same members as in an event.
fn result(flag: &str, request: &Request<'_>, answer: &Answer<'_>) -> String {
    let mut out = b"{\"flag_name\":".to_vec();
    write_string(&mut out, flag);
    member(&mut out, "user_id", request.context.user_id.as_deref());
    member(&mut out, "environment", request.environment.as_deref());
    write_result(&mut out, answer);
    out.push(b'}');
    String::from_utf8_lossy(&out).into_owned()
}

/// The value of a result, exactly as written. A local evaluation has a typed value beside the value, as events do.
#[derive(Deserialize)]
struct Answered<'a> {
    #[serde(borrow)]
    typed_value: Option<&'a RawValue>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
}

fn text(flag: &str, result: &str) -> serde_json::Result<String> {
    let answered: Answered<'_> = serde_json::from_str(result)?;
    let value = answered.typed_value.or(answered.value).map_or("null", RawValue::get);
    let result: Value = serde_json::from_str(result)?;
    Ok(render::printable(&format!("{flag} = {}", render::answered(value, &result))))
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;

    /// Evaluates a sample flag.
    fn sample(flag: &str, context: &str, default: Option<&str>) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = crate::dev::sample::write(folder.path()).unwrap();
        let snapshot = flag_file::load(&path, "e").unwrap().snapshot;
        let options = ask::Options {
            user: Some("someone".to_owned()),
            context: Some(context.to_owned()),
            defaults: default.into_iter().map(str::to_owned).collect(),
            ..ask::Options::default()
        };
        let body = ask::body(&[flag.to_owned()], &options, "e").unwrap();
        evaluate(flag, &body, options.asks_for_own_type(), &snapshot, "flagstream").unwrap()
    }

    fn read(result: String) -> Value {
        serde_json::from_str(&result).unwrap()
    }

    #[test]
    fn every_type_and_reason() {
        let config = read(sample("feature-config", "{}", Some("{}")));
        assert_eq!(config["typed_value"]["regions"][1], "eu");
        assert_eq!(
            config["value"],
            r#"{"enabled": true, "threshold": 0.8, "regions": ["us", "eu"]}"#.replace(' ', "")
        );
        assert_eq!(
            text("max-retries", &sample("max-retries", "{}", Some("3"))).unwrap(),
            "max-retries = 5  TARGETING_MATCH, variant five"
        );
        assert_eq!(read(sample("premium-features", "{}", None))["reason"], "DEFAULT");
        assert_eq!(
            read(sample("premium-features", r#"{"subscription_tier":"gold"}"#, None))["value"],
            "true"
        );
        let unknown = read(sample("unknown", "{}", Some("\"x\"")));
        assert_eq!((&unknown["value"], &unknown["error_code"]), (&"x".into(), &"FLAG_NOT_FOUND".into()));
        let huge = "12345678901234567890123";
        let shown = text("unknown", &sample("unknown", "{}", Some(huge))).unwrap();
        assert!(shown.starts_with(&format!("unknown = {huge} ")), "{shown}");
        let mismatch = read(sample("theme-variant", "{}", Some("5")));
        assert_eq!((&mismatch["typed_value"], &mismatch["reason"]), (&5.into(), &"ERROR".into()));
    }

    #[test]
    fn an_explanation_names_the_constraint_that_failed() {
        let folder = tempfile::tempdir().unwrap();
        let path = crate::dev::sample::write(folder.path()).unwrap();
        let file = flag_file::load(&path, "e").unwrap();
        let explain = |context: &str| {
            let options = ask::Options { context: Some(context.to_owned()), ..ask::Options::default() };
            let body = ask::body(&["premium-features".to_owned()], &options, "e").unwrap();
            explained::by_file(&file, "premium-features", &body, "flagstream").unwrap()
        };
        let off = explain(r#"{"subscription_tier":"silver"}"#);
        assert_eq!(off["decision"], "no_strategy_matched");
        let lines = explained::lines(&off).join("\n");
        assert!(lines.contains("subscription_tier IN") && lines.contains("the value is silver"), "{lines}");
        let on = explained::lines(&explain(r#"{"subscription_tier":"gold"}"#));
        assert!(on[0].contains("is on because strategy 1") && on[1].ends_with("matches"), "{on:?}");
    }

    #[test]
    fn without_a_default_the_flag_has_its_own_type() {
        let theme = sample("theme-variant", "{}", None);
        assert!(read(theme.clone())["typed_value"].is_string(), "{theme}");
        assert!(!is_error(&theme));
        assert_eq!(read(sample("max-retries", "{}", None))["typed_value"], 5);
        assert_eq!(read(sample("new-ui-enabled", "{}", None))["typed_value"], true);
    }

    #[test]
    fn an_error_is_told_from_a_value() {
        let mismatch = sample("theme-variant", "{}", Some("5"));
        assert!(is_error(&mismatch));
        let text = text("theme-variant", &mismatch).unwrap();
        assert!(text.starts_with("theme-variant = 5 (default)  TYPE_MISMATCH: "), "{text}");
        assert!(!is_error(&sample("unknown", "{}", Some("\"x\""))));
    }
}
