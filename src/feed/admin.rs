//! Unleash's Admin API: what people wrote about their flags, which clients are not told.

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde::Deserialize;

use crate::config::Secret;

use super::answer::AnswerError;
use super::look::LookError;
use super::unleash::{Client, read_body, refuse_request, refuse_status};

/// Unleash gives no more at once.
const PAGE_FLAGS: usize = 100;
const PAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// More are not read.
const ADMIN_FLAGS_MAX: usize = 20_000;

/// A flag as its makers see it.
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

#[derive(Deserialize)]
struct Page {
    features: Vec<AdminFlag>,
    total: usize,
}

impl AdminFlag {
    /// Who made it, which is the owner that Unleash knows.
    pub fn owner(&self) -> Option<&str> {
        self.created_by.as_ref()?.name.as_deref()
    }
}

/// All flags of all projects, page by page.
pub(super) async fn flags(client: &Client, token: &Secret) -> Result<Vec<AdminFlag>, LookError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_older_unleash_lacks_is_absent() {
        let page = r#"{"total": 2, "features": [{"name": "a", "createdAt": "2026-11-21T11:08:37.266Z",
            "createdBy": {"id": 1, "name": "ann"}, "project": "p", "environments": []}, {"name": "b"}]}"#;
        let page: Page = serde_json::from_str(page).unwrap();
        assert_eq!((page.features[0].owner(), page.features[0].project.as_deref()), (Some("ann"), Some("p")));
        assert_eq!((page.features[1].owner(), page.features[1].created_at), (None, None));
    }
}
