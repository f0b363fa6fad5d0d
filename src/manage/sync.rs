//! Reads the source of an environment's flags now, and waits until its flags are in force.

use std::collections::HashSet;

use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use crate::feed::answer::Answer;
use crate::feed::{AdminFlag, FetchResult, FlagSource};
use crate::flag::definition::{checksum, inline_segments};
use crate::flag::{CompiledFlag, Snapshot};
use crate::log_limit::limited;
use crate::message::definition::Source;

use super::effective_state::IN_FORCE_TIMEOUT;
use super::{ManageError, Manager};

/// Result of a sync.
#[derive(Debug, Clone, Serialize)]
pub struct Synced {
    pub synced_count: usize,
    pub environment: String,
    pub refused_count: usize,
    pub admin: bool,
}

/// Flags of the source, as they will be in force.
pub(super) struct Expected {
    pub(super) source: Source,
    /// Name and checksum of each flag.
    pub(super) flags: Vec<(String, String)>,
    refused: HashSet<String>,
}

impl Manager {
    pub async fn sync(&self, environment: &str) -> Result<Synced, ManageError> {
        let here = |flag_source: &&FlagSource| flag_source.environment() == Some(environment);
        let mut flag_source = self
            .flag_sources
            .iter()
            .find(here)
            .cloned()
            .ok_or_else(|| ManageError::NoSource(environment.to_owned()))?;
        let answer = match flag_source.look().await? {
            FetchResult::Answer { answer, .. } => answer,
            // Cannot happen: this clone of the source has read nothing before that it could compare with.
            FetchResult::Unchanged | FetchResult::Local { .. } => Answer::default(),
        };
        let source = flag_source.source();
        let name = environment.to_owned();
        let expected = tokio::task::spawn_blocking(move || expect(&name, source, &answer)).await;
        let expected = expected.map_err(|error| ManageError::Late(error.to_string()))?;
        self.bring_in_force(environment, &expected).await?;
        let told = self.told(&flag_source).await?;
        let admin = told.is_some();
        let (synced, refused) = (expected.flags.len(), expected.refused.len());
        tracing::info!(environment, source = source.as_str(), synced, refused, admin, "flags synced");
        self.note_synced(environment, &expected, told.unwrap_or_default()).await?;
        Ok(Synced {
            synced_count: expected.flags.len(),
            environment: environment.to_owned(),
            refused_count: expected.refused.len(),
            admin,
        })
    }

    /// Flags from Unleash's Admin API; `None` without a token for it.
    async fn told(&self, flag_source: &FlagSource) -> Result<Option<Vec<AdminFlag>>, ManageError> {
        match (flag_source, &self.config.unleash.admin_token) {
            (FlagSource::Unleash(unleash), Some(token)) => Ok(Some(unleash.admin_flags(token).await?)),
            _ => Ok(None),
        }
    }

    async fn bring_in_force(&self, environment: &str, expected: &Expected) -> Result<(), ManageError> {
        if missing(&self.store.load(), environment, expected).is_none() {
            return Ok(());
        }
        let hint = async {
            if let Err(error) = self.hints.everything(environment).await {
                limited!(
                    warn,
                    environment,
                    %error,
                    "the notification of a sync could not be written to Kafka",
                );
            }
        };
        tokio::join!(hint, self.wait_for(environment, expected)).1
    }

    async fn wait_for(&self, environment: &str, expected: &Expected) -> Result<(), ManageError> {
        let deadline = Instant::now() + IN_FORCE_TIMEOUT;
        let mut versions = self.store.versions();
        loop {
            versions.mark_unchanged();
            let Some(missing) = missing(&self.store.load(), environment, expected) else {
                return Ok(());
            };
            if !matches!(timeout_at(deadline, versions.changed()).await, Ok(Ok(()))) {
                return Err(ManageError::Late(missing));
            }
        }
    }
}

fn expect(environment: &str, source: Source, answer: &Answer) -> Expected {
    let mut refused: HashSet<String> = answer.refused.iter().map(|refused| refused.flag.clone()).collect();
    let mut flags = Vec::with_capacity(answer.features.len());
    for feature in &answer.features {
        let canonical = inline_segments(feature.json.get(), &answer.segments);
        let canonical = canonical.ok().filter(|text| CompiledFlag::compile(environment, 0, text).is_ok());
        match canonical {
            Some(canonical) => flags.push((feature.name.clone(), checksum(&canonical))),
            None => drop(refused.insert(feature.name.clone())),
        }
    }
    Expected { source, flags, refused }
}

/// Name of a flag whose definition in force differs from the source's, or that the source no longer has.
fn missing(snapshot: &Snapshot, environment: &str, expected: &Expected) -> Option<String> {
    let Expected { source, flags, refused } = expected;
    let in_force = snapshot.environment(environment);
    let stands = |name: &str, checksum: &str| {
        let flag = in_force.and_then(|flags| flags.get(name));
        let provenance = flag.and_then(|flag| flag.provenance.as_ref());
        provenance.is_some_and(|known| known.source == *source && &*known.checksum == checksum)
    };
    if let Some((name, _)) = flags.iter().find(|(name, checksum)| !stands(name, checksum)) {
        return Some(name.clone());
    }
    let names: HashSet<&str> = flags.iter().map(|(name, _)| name.as_str()).collect();
    let gone = |flag: &CompiledFlag| {
        flag.provenance.as_ref().is_some_and(|known| known.source == *source)
            && !names.contains(&*flag.name)
            && !refused.contains(&*flag.name)
    };
    let mut lingering = in_force.into_iter().flat_map(|flags| flags.iter()).filter(|flag| gone(flag));
    lingering.next().map(|flag| flag.name.to_string())
}
