//! The Unleash section: a URL, and one token per environment.

use std::path::PathBuf;
use std::time::Duration;

use super::values::Values;
use super::{Secret, UnleashConfig, UnleashEnvironment, parse};

const HOUR: Duration = Duration::from_secs(3_600);
/// Minimum length of the webhook secret, so that it cannot be guessed.
const WEBHOOK_SECRET_CHARS_MIN: usize = 16;

pub(super) fn config(values: &mut Values, instance: Option<&str>) -> Option<UnleashConfig> {
    let url = values.optional("unleash.url", parse::unleash_url);
    let default_environment = values.required("unleash.environment", parse::environment);
    let environments = environments(values, default_environment.as_deref());
    let app_name = values.required("unleash.app_name", parse::token);
    let instance_id = values.optional("unleash.instance_id", parse::token);
    let refresh = |text: &str| parse::duration(text, Duration::from_millis(100)..=24 * HOUR);
    let refresh_interval = values.required("unleash.refresh_interval", refresh);
    let metrics = |text: &str| parse::duration(text, Duration::from_secs(1)..=24 * HOUR);
    let metrics_interval = values.required("unleash.metrics_interval", metrics);
    let disable_metrics = values.required("unleash.disable_metrics", parse::flag);
    let admin_token = values.optional("unleash.admin_token", parse::token);
    let webhook_secret = values.optional("unleash.webhook_secret", |text| match parse::token(text)? {
        secret if secret.len() < WEBHOOK_SECRET_CHARS_MIN => {
            Err(format!("expected at least {WEBHOOK_SECRET_CHARS_MIN} characters"))
        }
        secret => Ok(secret),
    });
    let ca_certificate = values.optional("unleash.ca_certificate", parse::text);
    let (url, environments) = (url?, environments?);
    match (&url, environments.is_empty()) {
        (Some(_), true) => {
            let advice = "must be set together with UNLEASH_URL (or `[[unleash.environments]]` in the file)";
            return values.refuse("unleash.api_token", advice);
        }
        (None, false) => return values.refuse("unleash.url", "must be set together with a token"),
        _ => {}
    }
    let instance_id = match instance_id? {
        Some(instance_id) => instance_id,
        None => {
            values.computed("unleash.instance_id", instance?);
            instance?.to_owned()
        }
    };
    Some(UnleashConfig {
        url,
        environments,
        default_environment: default_environment?,
        app_name: app_name?,
        instance_id,
        refresh_interval: refresh_interval?,
        metrics_interval: metrics_interval.filter(|_| disable_metrics == Some(false)),
        admin_token: admin_token?.map(Secret::new),
        webhook_secret: webhook_secret?.map(Secret::new),
        ca_certificate: ca_certificate?.map(PathBuf::from),
    })
}

/// The environment of `UNLEASH_API_TOKEN` and those in the file.
fn environments(values: &mut Values, default: Option<&str>) -> Option<Vec<UnleashEnvironment>> {
    let token = values.optional("unleash.api_token", parse::token)?;
    let mut environments = Vec::new();
    if let (Some(token), Some(default)) = (token, default) {
        environments.push(UnleashEnvironment { name: default.to_owned(), token: Secret::new(token) });
    }
    let mut problems = Vec::new();
    for entry in &values.environments {
        let part = |name: &str, text: &Option<String>, parse: fn(&str) -> parse::Parsed<String>| {
            let parsed = text.as_deref().map_or_else(|| Err("must be set".into()), parse);
            parsed.map_err(|problem| format!("{}: unleash.environments.{name}: {problem}", entry.origin))
        };
        match (part("name", &entry.name, parse::environment), part("token", &entry.token, parse::token)) {
            (Ok(name), Ok(_)) if environments.iter().any(|known| known.name == name) => {
                problems
                    .push(format!("{}: unleash.environments: duplicate environment `{name}`", entry.origin));
            }
            (Ok(name), Ok(token)) => {
                environments.push(UnleashEnvironment { name, token: Secret::new(token) })
            }
            (name, token) => problems.extend(name.err().into_iter().chain(token.err())),
        }
    }
    let none = problems.is_empty();
    problems.into_iter().for_each(|problem| values.problem(problem));
    none.then_some(environments)
}

/// The environment that a client token belongs to (`project:environment.secret`).
pub(super) fn environment_of(token: &Secret) -> Option<&str> {
    let (_, rest) = token.expose().split_once(':')?;
    rest.split_once('.').map(|(environment, _)| environment)
}
