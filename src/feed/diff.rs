//! What an answer changes: a pure function from the definitions in force and an answer to the changes.

use std::collections::{BTreeMap, HashSet};

use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

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
    /// Where the definition comes from; of a deletion, where it came from.
    pub source: Source,
    pub actor: Option<String>,
    /// Somebody deleted this flag by name: that needs no second answer.
    pub asked: bool,
}

/// The local flags of an environment by name, whether in force or shadowed.
pub type Locals = BTreeMap<String, Feature>;

/// What an answer is compared with.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'s> {
    pub environment: &'s str,
    pub known: &'s Environment,
    pub refusals: &'s Refusals,
    pub locals: &'s Locals,
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
    /// Flags that are gone without anybody having said so.
    pub fn deletions(&self) -> impl Iterator<Item = &str> {
        let deleted = self.changes.iter().filter(|change| change.content.is_none() && !change.asked);
        deleted.map(|change| change.flag.as_str())
    }
}

/// Compares `answer` from `source` with what is in force.
///
/// A flag is deleted only if it came from the same source: what Unleash lacks may be a local flag. A local flag
/// of a name that Unleash has is superseded, and is in force again as soon as Unleash has it no longer.
pub fn diff(standing: Standing<'_>, answer: &Answer, source: Source) -> Diff {
    let mut diff = Diff { refused: answer.refused.clone(), ..Diff::default() };
    for feature in &answer.features {
        let old = standing.known.get(&feature.name);
        if old.is_some_and(|old| old.source == source && old.digest == Some(feature.digest)) {
            continue;
        }
        // Shadowed.
        if source == Source::Local && old.is_some_and(|old| old.source != source) {
            continue;
        }
        if let Some(refused) = standing.refusals.of(&feature.name, &feature.digest) {
            diff.refuse(refused.clone(), old, feature, source);
            continue;
        }
        diff.compare(standing.environment, old, feature, &answer.segments, source);
    }
    if answer.unnamed == 0 {
        diff.delete_absent(standing, answer, source);
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
        let Feature { name, json, digest, actor } = feature;
        let content = match content(environment, json, segments, *digest) {
            Ok(content) => content,
            Err(reason) => return self.refuse(Refused::of(name, reason, *digest), old, feature, source),
        };
        match old {
            Some(old) if old.checksum == content.checksum && old.source == source => {
                self.same.push((name.clone(), *digest));
            }
            old => self.changes.push(Planned {
                flag: name.clone(),
                previous_version: old.map(|old| old.version),
                content: Some(content),
                source,
                actor: actor.clone(),
                asked: false,
            }),
        }
    }

    /// The last good version stays in force. A flag that has none is published as one that cannot be evaluated, so that
    /// callers get the reason and not an unknown flag.
    fn refuse(&mut self, refused: Refused, old: Option<&Known>, feature: &Feature, source: Source) {
        let content = match old {
            Some(_) => None,
            None => unusable(&feature.name, &refused.reason),
        };
        self.refused.push(refused);
        self.changes.extend(content.map(|content| Planned {
            flag: feature.name.clone(),
            previous_version: None,
            content: Some(content),
            source,
            actor: feature.actor.clone(),
            asked: false,
        }));
    }

    fn delete_absent(&mut self, standing: Standing<'_>, answer: &Answer, source: Source) {
        let present: HashSet<&str> = answer
            .features
            .iter()
            .map(|feature| feature.name.as_str())
            .chain(answer.refused.iter().map(|refused| refused.flag.as_str()))
            .collect();
        for (flag, old) in standing.known {
            if old.source != source || present.contains(flag.as_str()) {
                continue;
            }
            // Not deleted first and made anew later: between the two it would be unknown.
            if let Some(local) = standing.locals.get(flag).filter(|_| source != Source::Local) {
                let before = self.changes.len();
                self.compare(standing.environment, Some(old), local, &Segments::default(), Source::Local);
                if self.changes.len() > before {
                    continue;
                }
            }
            let actor = answer.deleted.get(flag);
            self.changes.push(Planned {
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

/// What is published in the place of a definition that is refused. Its digest is its own and not the source's, so that
/// the source's text is still compared, and refused, at every look.
fn unusable(name: &str, reason: &str) -> Option<Content> {
    let text = definition::unusable(name, reason);
    let (checksum, digest) = (definition::checksum(&text), Sha256::digest(&text).into());
    Some(Content { definition: RawValue::from_string(text).ok()?, checksum, digest })
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
