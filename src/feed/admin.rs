//! Unleash's Admin API: metadata about flags that the client API does not provide.

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde::Deserialize;

use crate::config::Secret;

use super::answer::AnswerError;
use super::fetch::FetchError;
use super::hint::person;
use super::unleash::{Client, read_body, refuse_request, refuse_status};

/// Maximum number of flags per page in Unleash's API.
const PAGE_FLAGS: usize = 100;
/// Largest page of the Admin API that is read, in bytes.
const PAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Maximum number of flags that are read.
const ADMIN_FLAGS_MAX: usize = 20_000;

/// Flag with the metadata of the Admin API.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdminFlag {
    pub name: String,
    #[serde(default)]
    pub description: Option<String>,
    #[serde(default)]
    pub r#type: Option<String>,
    #[serde(default)]
    pub project: Option<String>,
    #[serde(default)]
    pub created_at: Option<DateTime<Utc>>,
    #[serde(default)]
    created_by: Option<CreatedBy>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct CreatedBy {
    #[serde(default)]
    name: Option<String>,
}

/// Author and time of the last change of a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastChange {
    pub by: String,
    pub at: DateTime<Utc>,
}

#[derive(Deserialize)]
struct EventLog {
    events: Vec<Event>,
}

/// Entry of Unleash's event log.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    #[serde(default)]
    created_by: Option<String>,
    created_at: DateTime<Utc>,
    #[serde(default)]
    environment: Option<String>,
}

#[derive(Deserialize)]
struct Page {
    features: Vec<AdminFlag>,
    total: usize,
}

impl AdminFlag {
    /// Creator of the flag, which Unleash treats as its owner; `None` if unknown.
    pub fn owner(&self) -> Option<&str> {
        self.created_by.as_ref()?.name.as_deref()
    }
}

/// Reads all flags of all projects, page by page.
pub(super) async fn flags(client: &Client, token: &Secret) -> Result<Vec<AdminFlag>, FetchError> {
    let mut flags = Vec::new();
    loop {
        let offset = flags.len();
        let path = format!("search/features?limit={PAGE_FLAGS}&offset={offset}&sortBy=name&sortOrder=asc");
        let response = client.admin(Method::GET, &path, token).send().await.map_err(refuse_request)?;
        if !response.status().is_success() {
            return Err(refuse_status(response).await);
        }
        let body = read_body(response, PAGE_BYTES_MAX).await?;
        let page: Page =
            serde_json::from_slice(&body).map_err(|error| AnswerError::NoFeatures(error.to_string()))?;
        let last = page.features.len() < PAGE_FLAGS;
        flags.extend(page.features);
        if last || flags.len() >= page.total.min(ADMIN_FLAGS_MAX) {
            return Ok(flags);
        }
    }
}

/// The last change of a flag in an environment or in all environments. `None` if the log has none, or if the
/// flag's name cannot be part of a path.
pub(super) async fn last_change(
    client: &Client,
    token: &Secret,
    flag: &str,
    environment: &str,
) -> Result<Option<LastChange>, FetchError> {
    // Unleash allows only these characters in names.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    if !flag.bytes().all(is_plain) {
        return Ok(None);
    }
    let request = client.admin(Method::GET, &format!("events/{flag}"), token);
    let response = request.send().await.map_err(refuse_request)?;
    if !response.status().is_success() {
        return Err(refuse_status(response).await);
    }
    let body = read_body(response, PAGE_BYTES_MAX).await?;
    let log: EventLog =
        serde_json::from_slice(&body).map_err(|error| AnswerError::NotJson(error.to_string()))?;
    Ok(latest(log.events, environment))
}

fn latest(events: Vec<Event>, environment: &str) -> Option<LastChange> {
    let ours = events.into_iter().filter(|event| {
        event.environment.as_deref().is_none_or(|of| matches!(of, "" | "*") || of == environment)
    });
    let latest = ours.max_by_key(|event| event.created_at)?;
    Some(LastChange { by: latest.created_by.as_deref().and_then(person)?, at: latest.created_at })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_change_is_the_latest_of_this_environment_or_of_all() {
        let log = r#"{"events": [
            {"type": "feature-environment-enabled", "createdBy": "other", "createdAt": "2026-01-15T10:33:00Z", "environment": "prod"},
            {"type": "feature-created", "createdBy": "ann", "createdAt": "2026-01-15T10:30:00Z", "environment": null},
            {"type": "feature-strategy-update", "createdBy": " bob\n ", "createdAt": "2026-01-15T10:32:00Z", "environment": "dev"}]}"#;
        let log = || serde_json::from_str::<EventLog>(log).unwrap().events;
        assert_eq!(latest(log(), "dev").map(|change| change.by).as_deref(), Some("bob"));
        assert_eq!(latest(log(), "staging").map(|change| change.by).as_deref(), Some("ann"));
        assert_eq!(latest(Vec::new(), "dev"), None);
    }

    #[test]
    fn what_an_older_unleash_lacks_is_absent() {
        let page = r#"{"total": 2, "features": [{"name": "a", "createdAt": "2026-11-21T11:08:37.266Z",
            "createdBy": {"id": 1, "name": "ann"}, "project": "p", "environments": []}, {"name": "b"}]}"#;
        let page: Page = serde_json::from_str(page).unwrap();
        assert_eq!((page.features[0].owner(), page.features[0].project.as_deref()), (Some("ann"), Some("p")));
        assert_eq!((page.features[1].owner(), page.features[1].created_at), (None, None));
    }
}
