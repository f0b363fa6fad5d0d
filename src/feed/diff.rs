//! Computes the changes that a response makes to the definitions in force; a pure function.

use std::collections::{BTreeMap, HashSet};

use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::flag::definition::{self, Segments};
use crate::flag::{CompileError, CompiledFlag};
use crate::message::change::ChangeKind;
use crate::message::definition::Source;

use super::answer::{Answer, Digest, Feature};
use super::refusal::{Refusals, Refused};
use super::state::{Environment, KnownDefinition};

/// All changes that a response makes in its environment.
#[derive(Debug, Default)]
pub struct Diff {
    pub changes: Vec<PlannedChange>,
    /// All flags that are refused by name, both newly and previously.
    pub refused: Vec<Refused>,
    /// Flags whose text in the source changed but whose definition did not, with the new digests.
    pub same: Vec<(String, Digest)>,
}

/// Change without a version.
#[derive(Debug)]
pub struct PlannedChange {
    pub flag: String,
    pub previous_version: Option<u64>,
    /// New definition; `None` if the flag is deleted.
    pub content: Option<Content>,
    /// Source of the definition; for a deletion, its previous source.
    pub source: Source,
    pub actor: Option<String>,
    /// Whether the flag was deleted explicitly, so that no second response is needed.
    pub asked: bool,
}

/// Local flags of an environment by name, including those shadowed by another source.
pub type Locals = BTreeMap<String, Feature>;

/// State that a response is compared with.
#[derive(Debug, Clone, Copy)]
pub struct DiffInput<'s> {
    pub environment: &'s str,
    pub known: &'s Environment,
    pub refusals: &'s Refusals,
    pub locals: &'s Locals,
}

/// New definition of a flag.
#[derive(Debug)]
pub struct Content {
    pub definition: Box<RawValue>,
    pub checksum: String,
    pub digest: Digest,
}

impl PlannedChange {
    pub fn kind(&self) -> ChangeKind {
        match (&self.content, self.previous_version) {
            (None, _) => ChangeKind::Deleted,
            (Some(_), None) => ChangeKind::Created,
            (Some(_), Some(_)) => ChangeKind::Updated,
        }
    }
}

impl Diff {
    /// Names of the flags that are absent without having been deleted explicitly.
    pub fn deletions(&self) -> impl Iterator<Item = &str> {
        let deleted = self.changes.iter().filter(|change| change.content.is_none() && !change.asked);
        deleted.map(|change| change.flag.as_str())
    }
}

/// Compares `answer` from `source` with the definitions in force.
///
/// A flag is deleted only if its definition came from the same source: a flag that Unleash lacks may be a
/// local flag. A local flag with the name of an Unleash flag is shadowed, and comes into force as soon as
/// Unleash no longer has the flag.
pub fn diff(input: DiffInput<'_>, answer: &Answer, source: Source) -> Diff {
    let mut diff = Diff { refused: answer.refused.clone(), ..Diff::default() };
    for feature in &answer.features {
        let old = input.known.get(&feature.name);
        if old.is_some_and(|old| old.source == source && old.digest == Some(feature.digest)) {
            continue;
        }
        // The local flag is shadowed by another source.
        if source == Source::Local && old.is_some_and(|old| old.source != source) {
            continue;
        }
        if let Some(refused) = input.refusals.of(&feature.name, &feature.digest) {
            diff.refuse(refused.clone(), old, feature, source);
            continue;
        }
        diff.compare(input.environment, old, feature, &answer.segments, source);
    }
    if answer.unnamed == 0 {
        diff.delete_absent(input, answer, source);
    }
    diff
}

impl Diff {
    fn compare(
        &mut self,
        environment: &str,
        old: Option<&KnownDefinition>,
        feature: &Feature,
        segments: &Segments,
        source: Source,
    ) {
        let Feature { name, json, digest, actor } = feature;
        let content = match content(environment, json, segments, *digest) {
            Ok(content) => content,
            Err(reason) => return self.refuse(Refused::of(name, reason, *digest), old, feature, source),
        };
        match old {
            Some(old) if old.checksum == content.checksum && old.source == source => {
                self.same.push((name.clone(), *digest));
            }
            old => self.changes.push(PlannedChange {
                flag: name.clone(),
                previous_version: old.map(|old| old.version),
                content: Some(content),
                source,
                actor: actor.clone(),
                asked: false,
            }),
        }
    }

    /// Refuses a feature, so that its last valid version stays in force. If there is none, a definition that
    /// cannot be evaluated is published instead, so that callers get the reason and not an unknown flag.
    fn refuse(&mut self, refused: Refused, old: Option<&KnownDefinition>, feature: &Feature, source: Source) {
        let content = match old {
            Some(_) => None,
            None => unusable(&feature.name, &refused.reason),
        };
        self.refused.push(refused);
        self.changes.extend(content.map(|content| PlannedChange {
            flag: feature.name.clone(),
            previous_version: None,
            content: Some(content),
            source,
            actor: feature.actor.clone(),
            asked: false,
        }));
    }

    fn delete_absent(&mut self, input: DiffInput<'_>, answer: &Answer, source: Source) {
        let present: HashSet<&str> = answer
            .features
            .iter()
            .map(|feature| feature.name.as_str())
            .chain(answer.refused.iter().map(|refused| refused.flag.as_str()))
            .collect();
        for (flag, old) in input.known {
            if old.source != source || present.contains(flag.as_str()) {
                continue;
            }
            // The local flag replaces the deleted flag directly. With a deletion first, the flag would be
            // unknown for a moment.
            if let Some(local) = input.locals.get(flag).filter(|_| source != Source::Local) {
                let before = self.changes.len();
                self.compare(input.environment, Some(old), local, &Segments::default(), Source::Local);
                if self.changes.len() > before {
                    continue;
                }
            }
            let actor = answer.deleted.get(flag);
            self.changes.push(PlannedChange {
                flag: flag.clone(),
                previous_version: Some(old.version),
                content: None,
                source,
                actor: actor.cloned(),
                asked: actor.is_some(),
            });
        }
    }
}

/// Definition that is published instead of a refused one. It has its own digest and not the source's, so that
/// the source's text is compared and refused again at every poll.
fn unusable(name: &str, reason: &str) -> Option<Content> {
    let text = definition::unusable(name, reason);
    let (checksum, digest) = (definition::checksum(&text), Sha256::digest(&text).into());
    Some(Content { definition: RawValue::from_string(text).ok()?, checksum, digest })
}

/// The definition in its published form: segments inlined, canonical, and checked to compile.
fn content(
    environment: &str,
    json: &RawValue,
    segments: &Segments,
    digest: Digest,
) -> Result<Content, String> {
    let refuse = |error: CompileError| format!("{}: {}", error.field, error.message);
    let canonical = definition::inline_segments(json.get(), segments).map_err(refuse)?;
    // Compilation does not depend on the version.
    CompiledFlag::compile(environment, 0, &canonical).map_err(refuse)?;
    let checksum = definition::checksum(&canonical);
    let definition = RawValue::from_string(canonical).map_err(|error| error.to_string())?;
    Ok(Content { definition, checksum, digest })
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
