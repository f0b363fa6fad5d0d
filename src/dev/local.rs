//! Sample local flags, which can be changed over HTTP: those of the edge API's walkthrough.

use std::time::Duration;

use anyhow::Context;
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use crate::flag::local;
use crate::manage::Repository;
use crate::manage::repository::{ChangeRequest, Decision};
use crate::message::change::ChangeKind;
use crate::store::Store;

const FLAGS: &str = include_str!("sample-local-flags.json");
/// The actor that is recorded for their creation.
const ACTOR: &str = "flagstream dev";
/// Timeout for the flags to become active.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval of the checks whether they are active.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The names of the flags.
pub fn names() -> anyhow::Result<Vec<String>> {
    let names = flags()?.into_iter().filter_map(|flag| Some(flag.get("name")?.as_str()?.to_owned()));
    Ok(names.collect())
}

/// Creates the flags in each environment that never had a flag of the same name, and waits until they are active. A
/// deleted flag is not created again.
pub async fn create(repository: &Repository, store: &Store, environments: &[String]) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_TIMEOUT;
    timeout_at(deadline, repository.ready()).await.context("the database is not ready")?;
    let known = repository.all().await?;
    let mut made = Vec::new();
    for environment in environments {
        for flag in flags()? {
            let mut flag = flag;
            flag.insert("environment".to_owned(), environment.as_str().into());
            let body = Value::Object(flag).to_string();
            let (name, environment, flag) = local::created(body.as_bytes())
                .map_err(|invalid| anyhow::anyhow!("sample flags: {invalid:?}"))?;
            let is_known = known.iter().any(|row| row.environment == environment && row.name == name);
            let is_elsewhere =
                store.load().environment(&environment).is_some_and(|flags| flags.get(&name).is_some());
            if is_known || is_elsewhere {
                continue;
            }
            let request = ChangeRequest {
                environment: &environment,
                name: &name,
                kind: ChangeKind::Created,
                action: "created",
                actor: ACTOR,
                reason: Some("sample flag"),
            };
            repository
                .change(request, |before| match before {
                    Some(_) => Decision::Leave(()),
                    None => Decision::Write(Some(flag)),
                })
                .await?;
            made.push((environment, name));
        }
    }
    let is_active = |(environment, name): &(String, String)| {
        store.load().environment(environment).is_some_and(|flags| flags.get(name).is_some())
    };
    while !made.iter().all(is_active) {
        anyhow::ensure!(Instant::now() < deadline, "the sample flags are not active after {READY_TIMEOUT:?}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

fn flags() -> anyhow::Result<Vec<Map<String, Value>>> {
    Ok(serde_json::from_str(FLAGS)?)
}
