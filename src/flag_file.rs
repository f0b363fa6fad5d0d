//! Reads a flag file in the format of Unleash's `/api/client/features`, for evaluation without Kafka.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::flag::definition::{Segments, inline_segments};
use crate::flag::{CompileError, CompiledFlag, FlagChange, Snapshot};

/// The content of a flag file.
#[derive(Debug)]
pub struct FlagFile {
    pub snapshot: Snapshot,
    /// Definitions of the flags that can be evaluated, by name.
    pub definitions: BTreeMap<String, String>,
    /// Flags that cannot be evaluated, each with the reason. All others can.
    pub refused: Vec<(String, CompileError)>,
}

/// Reason why a file cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum FlagFileError {
    #[error("{path}: {error}", path = path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{path}: not in the format of Unleash's /api/client/features: {message}", path = path.display())]
    Format { path: PathBuf, message: String },
}

#[derive(Deserialize)]
struct Body<'b> {
    #[serde(borrow)]
    features: Vec<&'b RawValue>,
    #[serde(default)]
    segments: Value,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// Reads a file as the flags of `environment`. The version of every flag is the file's modification time, in Unix
/// milliseconds.
pub fn load(path: &Path, environment: &str) -> Result<FlagFile, FlagFileError> {
    let read = || -> io::Result<(String, u64)> {
        let modified = std::fs::metadata(path)?.modified()?;
        let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok((std::fs::read_to_string(path)?, u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
    };
    let (text, version) = read().map_err(|error| FlagFileError::Io { path: path.to_owned(), error })?;
    parse(&text, environment, version)
        .map_err(|message| FlagFileError::Format { path: path.to_owned(), message })
}

fn parse(text: &str, environment: &str, version: u64) -> Result<FlagFile, String> {
    let body: Body<'_> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let segments = Segments::read(&body.segments).map_err(|error| error.to_string())?;
    let (mut changes, mut refused, mut definitions) = (Vec::new(), Vec::new(), BTreeMap::new());
    for (index, feature) in body.features.iter().enumerate() {
        let compiled = inline_segments(feature.get(), &segments).and_then(|definition| {
            Ok((CompiledFlag::compile(environment, version, &definition)?, definition))
        });
        match compiled {
            Ok((flag, definition)) => {
                definitions.insert(flag.name.to_string(), definition);
                changes.push(FlagChange::Set(Arc::new(flag)));
            }
            Err(error) => {
                let named = serde_json::from_str::<Named>(feature.get());
                let name = named.map_or_else(|_| format!("features[{index}]"), |named| named.name);
                let reason = format!("{}: {}", error.field, error.message);
                let unusable = CompiledFlag::unusable(environment, &name, version, &reason);
                changes.push(FlagChange::Set(Arc::new(unusable)));
                refused.push((name, error));
            }
        }
    }
    let snapshot = Snapshot::default().serving([environment]).with(changes);
    Ok(FlagFile { snapshot, definitions, refused })
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_flag_is_refused_by_name_and_the_others_are_there() {
        let text = r#"{"version":2,"features":[{"name":"a","enabled":true},{"name":"b","strategies":7},{"enabled":true}]}"#;
        let file = parse(text, "e", 9).unwrap();
        let flags = file.snapshot.environment("e").unwrap();
        assert!(flags.get("a").unwrap().unusable_because().is_none());
        assert!(flags.get("b").unwrap().unusable_because().unwrap().starts_with("enabled"));
        assert_eq!(file.snapshot.version(), 9);
        let refused: Vec<&str> = file.refused.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(refused, ["b", "features[2]"]);
    }

    #[test]
    fn segments_are_inlined() {
        let text = r#"{"features":[{"name":"a","enabled":true,"strategies":[{"name":"default","segments":[1]}]}],
            "segments":[{"id":1,"constraints":[{"contextName":"userId","operator":"IN","values":["u"]}]}]}"#;
        assert!(parse(text, "e", 9).unwrap().refused.is_empty());
    }

    #[test]
    fn what_is_no_flag_file_is_refused() {
        for text in ["", "[]", "{}", "{\"features\":3}"] {
            assert!(parse(text, "e", 9).is_err(), "{text}");
        }
        assert!(matches!(load(Path::new("/not/there"), "e"), Err(FlagFileError::Io { .. })));
    }
}
