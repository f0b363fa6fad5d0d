//! What an answer changes: a pure function from the definitions in force and an answer to the changes.

use std::collections::HashSet;

use serde_json::value::RawValue;

use crate::flag::definition::{self, Segments};
use crate::flag::{CompileError, CompiledFlag};
use crate::message::change::ChangeKind;
use crate::message::definition::Source;

use super::answer::{Answer, Digest, Feature};
use super::refusal::{Refusals, Refused};
use super::state::{Environment, Known};

/// Everything an answer changes in its environment.
#[derive(Debug, Default)]
pub struct Diff {
    pub changes: Vec<Planned>,
    /// All flags refused by name, old and new.
    pub refused: Vec<Refused>,
    /// Written differently by the source, yet the same definition.
    pub same: Vec<(String, Digest)>,
}

/// One change, before it has a version.
#[derive(Debug)]
pub struct Planned {
    pub flag: String,
    pub previous_version: Option<u64>,
    /// `None`: the flag is deleted.
    pub content: Option<Content>,
}

/// The new definition of a flag.
#[derive(Debug)]
pub struct Content {
    pub definition: Box<RawValue>,
    pub checksum: String,
    pub digest: Digest,
}

impl Planned {
    pub fn kind(&self) -> ChangeKind {
        match (&self.content, self.previous_version) {
            (None, _) => ChangeKind::Deleted,
            (Some(_), None) => ChangeKind::Created,
            (Some(_), Some(_)) => ChangeKind::Updated,
        }
    }
}

impl Diff {
    pub fn deletions(&self) -> impl Iterator<Item = &str> {
        let deleted = self.changes.iter().filter(|change| change.content.is_none());
        deleted.map(|change| change.flag.as_str())
    }
}

/// Compares `answer` from `source` with what is in force in `environment`.
///
/// A flag is deleted only if it came from the same source: what Unleash lacks may be a local flag. A local flag
/// of a name that the source has is superseded.
pub fn diff(
    environment: &str,
    known: &Environment,
    answer: &Answer,
    source: Source,
    refusals: &Refusals,
) -> Diff {
    let mut diff = Diff { refused: answer.refused.clone(), ..Diff::default() };
    for feature in &answer.features {
        let old = known.get(&feature.name);
        if old.is_some_and(|old| old.source == source && old.digest == Some(feature.digest)) {
            continue;
        }
        if let Some(refused) = refusals.of(&feature.name, &feature.digest) {
            diff.refused.push(refused.clone());
            continue;
        }
        diff.compare(environment, old, feature, &answer.segments, source);
    }
    if answer.unnamed == 0 {
        diff.delete_absent(known, answer, source);
    }
    diff
}

impl Diff {
    fn compare(
        &mut self,
        environment: &str,
        old: Option<&Known>,
        feature: &Feature,
        segments: &Segments,
        source: Source,
    ) {
        let Feature { name, json, digest } = feature;
        let content = match content(environment, json, segments, *digest) {
            Ok(content) => content,
            Err(reason) => return self.refused.push(Refused::of(name, reason, *digest)),
        };
        match old {
            Some(old) if old.checksum == content.checksum && old.source == source => {
                self.same.push((name.clone(), *digest));
            }
            old => self.changes.push(Planned {
                flag: name.clone(),
                previous_version: old.map(|old| old.version),
                content: Some(content),
            }),
        }
    }

    fn delete_absent(&mut self, known: &Environment, answer: &Answer, source: Source) {
        let present: HashSet<&str> = answer
            .features
            .iter()
            .map(|feature| feature.name.as_str())
            .chain(answer.refused.iter().map(|refused| refused.flag.as_str()))
            .collect();
        for (flag, old) in known {
            if old.source == source && !present.contains(flag.as_str()) {
                let previous_version = Some(old.version);
                self.changes.push(Planned { flag: flag.clone(), previous_version, content: None });
            }
        }
    }
}

/// The definition as it is published: segments inlined, canonical, known to compile.
fn content(
    environment: &str,
    json: &RawValue,
    segments: &Segments,
    digest: Digest,
) -> Result<Content, String> {
    let refuse = |error: CompileError| format!("{}: {}", error.field, error.message);
    let canonical = definition::inline_segments(json.get(), segments).map_err(refuse)?;
    // The version plays no part in whether it compiles.
    CompiledFlag::compile(environment, 0, &canonical).map_err(refuse)?;
    let checksum = definition::checksum(&canonical);
    let definition = RawValue::from_string(canonical).map_err(|error| error.to_string())?;
    Ok(Content { definition, checksum, digest })
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
