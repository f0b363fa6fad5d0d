//! Checks that Unleash is reachable and that each token is valid for its environment.

use reqwest::{Method, StatusCode};
use serde::Deserialize;

use crate::config::{Config, Secret};
use crate::feed::unleash::{Client, chain};

use super::{Finding, State};

const PART: &str = "unleash";

pub async fn look(config: &Config) -> Vec<Finding> {
    let client = match Client::new(&config.unleash) {
        Ok(Some(client)) => client,
        Ok(None) => {
            return vec![Finding::well(
                PART,
                "not configured (optional): local flags and the definitions topic only",
            )];
        }
        Err(error) => {
            return vec![Finding::wrong(PART, error, "correct UNLEASH_APP_NAME and UNLEASH_INSTANCE_ID")];
        }
    };
    let mut findings = Vec::new();
    for environment in &config.unleash.environments {
        let request = client.request(Method::GET, "features", &environment.token);
        findings.push(of_answer(&format!("environment {}", environment.name), request).await);
    }
    if let Some(token) = &config.unleash.admin_token {
        findings.push(admin(&client, token).await);
    }
    findings
}

/// Checks the Admin API, which is the only one that reports Unleash's version.
async fn admin(client: &Client, token: &Secret) -> Finding {
    let mut finding = of_answer("Admin API", client.admin(Method::GET, "projects", token)).await;
    if finding.state == State::Well
        && let Some(version) = version(client, token).await
    {
        finding.found.push_str(&format!(", Unleash {version}"));
    }
    finding
}

async fn version(client: &Client, token: &Secret) -> Option<String> {
    #[derive(Deserialize)]
    struct Settings {
        version: String,
    }
    let answer = client.admin(Method::GET, "ui-config", token).send().await.ok()?;
    Some(answer.json::<Settings>().await.ok()?.version)
}

async fn of_answer(what: &str, request: reqwest::RequestBuilder) -> Finding {
    match request.send().await.map(|response| response.status()) {
        Ok(StatusCode::OK) => Finding::well(PART, format!("{what}: answers")),
        Ok(status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)) => {
            let advice = "create a new token in Unleash: a client token of this environment for UNLEASH_API_TOKEN, \
                an admin token for UNLEASH_ADMIN_TOKEN";
            Finding::wrong(PART, format!("{what}: {status}"), advice)
        }
        Ok(status) => Finding::wrong(
            PART,
            format!("{what}: {status}"),
            "check that UNLEASH_URL is the URL of an Unleash server",
        ),
        Err(error) => Finding::wrong(
            PART,
            format!("{what}: {}", chain(error)),
            "check UNLEASH_URL, and that Unleash is running",
        ),
    }
}
