//! The local flags of a running service.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::cli::service::Service;
use crate::flag::local::LocalFlag;

use super::files::{FlagKey, Flags};

/// Number of flags per request.
const PAGE: usize = 100;

/// The flags of a service.
#[derive(Debug, Default)]
pub struct Remote {
    pub flags: Flags,
    /// Flags that are not managed locally, each with its source.
    pub elsewhere: BTreeMap<FlagKey, String>,
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Map<String, Value>>,
    total: usize,
}

/// All flags of an environment, or of all environments of the token.
pub async fn read(service: &Service, environment: Option<&str>) -> anyhow::Result<Remote> {
    let mut remote = Remote::default();
    let mut offset = 0;
    loop {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("limit", &PAGE.to_string()).append_pair("offset", &offset.to_string());
        if let Some(environment) = environment {
            query.append_pair("environment", environment);
        }
        let path = format!("/api/v1/feature-flags?{}", query.finish());
        let answered = service.call(Method::GET, &path, None, None::<&Value>).await?;
        let page: Page = serde_json::from_str(&answered.body)
            .context("the response is not a list of flags from flagstream; check --url")?;
        offset += page.items.len();
        let last = page.items.is_empty() || offset >= page.total;
        page.items.into_iter().try_for_each(|item| remote.add(item))?;
        if last {
            return Ok(remote);
        }
    }
}

/// All flags of several environments.
pub async fn read_all(service: &Service, environments: &BTreeSet<&str>) -> anyhow::Result<Remote> {
    let mut all = Remote::default();
    for environment in environments {
        let mut of_one = read(service, Some(environment)).await?;
        all.flags.append(&mut of_one.flags);
        all.elsewhere.append(&mut of_one.elsewhere);
    }
    Ok(all)
}

impl Remote {
    fn add(&mut self, mut item: Map<String, Value>) -> anyhow::Result<()> {
        let text = |item: &Map<String, Value>, name: &str| {
            item.get(name)
                .and_then(Value::as_str)
                .map(str::to_owned)
                .context("the response is not a list of flags from flagstream; check --url")
        };
        let (place, source) = ((text(&item, "environment")?, text(&item, "name")?), text(&item, "source")?);
        if source != "local" {
            let shadowed = item.remove("shadowed");
            self.elsewhere.insert(place.clone(), source);
            match shadowed {
                Some(Value::Object(local)) => item = local,
                _ => return Ok(()),
            }
        }
        let read = || format!("flag {} of {}", place.1, place.0);
        let flag: LocalFlag = serde_json::from_value(Value::Object(item)).with_context(read)?;
        self.flags.insert(place, flag);
        Ok(())
    }
}
