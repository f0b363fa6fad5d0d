//! Reads proposed definitions from files.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::flag::CompiledFlag;
use crate::flag::definition::{Segments, inline_segments};
use crate::flag::local;

/// Definition to evaluate instead of the recorded ones.
#[derive(Debug, Clone)]
pub struct Proposal {
    pub environment: String,
    pub flag: String,
    /// Definition in the format of the definitions topic.
    pub definition: String,
}

#[derive(Deserialize)]
struct Features<'t> {
    #[serde(borrow)]
    features: Vec<&'t RawValue>,
    #[serde(default)]
    segments: Value,
}

/// Reads flags in the format of Unleash's `/api/client/features`, which get the given `environment`, or one local flag
/// or a list of local flags in the format of `flags apply`. A schedule of a local flag counts as far as it is ahead of
/// `at`. `Err`: all errors, one per line.
pub fn read(text: &str, environment: &str, at: DateTime<Utc>) -> Result<Vec<Proposal>, String> {
    let whole: &RawValue = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
    if whole.get().starts_with('[') {
        let documents: Vec<&RawValue> =
            serde_json::from_str(whole.get()).map_err(|error| error.to_string())?;
        let read = documents.iter().enumerate().map(|(index, document)| {
            local_flag(document.get(), at).map_err(|error| prefixed(&format!("[{index}]: "), &error))
        });
        return all(read);
    }
    match serde_json::from_str::<Features<'_>>(whole.get()) {
        Ok(file) => {
            let segments = Segments::read(&file.segments).map_err(|error| error.to_string())?;
            all(file.features.iter().map(|feature| unleash_flag(feature.get(), &segments, environment)))
        }
        Err(_) => all([local_flag(whole.get(), at)]),
    }
}

/// Reads a flag in Unleash's format.
pub fn unleash_flag(feature: &str, segments: &Segments, environment: &str) -> Result<Proposal, String> {
    let definition = inline_segments(feature, segments).map_err(|error| error.to_string())?;
    checked(environment, definition)
}

/// Reads a local flag.
pub fn local_flag(document: &str, at: DateTime<Utc>) -> Result<Proposal, String> {
    let (name, environment, flag) = local::created(document.as_bytes()).map_err(|wrong| {
        let lines = wrong.iter().map(|it| format!("{}: {}", it.field, it.message));
        lines.collect::<Vec<_>>().join("\n")
    })?;
    checked(&environment, local::feature(&name, &flag, 0, at).to_string())
}

fn checked(environment: &str, definition: String) -> Result<Proposal, String> {
    let compiled = CompiledFlag::compile(environment, 0, &definition).map_err(|error| error.to_string())?;
    Ok(Proposal { environment: environment.to_owned(), flag: compiled.name.to_string(), definition })
}

fn all(read: impl IntoIterator<Item = Result<Proposal, String>>) -> Result<Vec<Proposal>, String> {
    let (mut proposals, mut wrong) = (Vec::new(), Vec::new());
    for read in read {
        match read {
            Ok(proposal) => proposals.push(proposal),
            Err(error) => wrong.push(error),
        }
    }
    if wrong.is_empty() { Ok(proposals) } else { Err(wrong.join("\n")) }
}

fn prefixed(prefix: &str, lines: &str) -> String {
    lines.lines().map(|line| format!("{prefix}{line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Result<Vec<String>, String> {
        let read = read(text, "e", DateTime::UNIX_EPOCH)?;
        Ok(read.into_iter().map(|it| format!("{}/{}", it.environment, it.flag)).collect())
    }

    #[test]
    fn both_formats_and_what_is_wrong_with_them() {
        let unleash = r#"{"features":[{"name":"a","enabled":true},{"name":"b","enabled":false}]}"#;
        assert_eq!(names(unleash), Ok(vec!["e/a".to_owned(), "e/b".to_owned()]));
        let local = r#"{"name":"c","environment":"prod","is_enabled":true}"#;
        assert_eq!(names(local), Ok(vec!["prod/c".to_owned()]));
        assert_eq!(names(&format!("[{local},{local}]")).map(|names| names.len()), Ok(2));
        let wrong = names(&format!("[{local},{{\"name\":\"d\",\"surprise\":1}}]"));
        assert!(wrong.is_err_and(|error| error.lines().all(|line| line.starts_with("[1]: "))));
        assert!(names(r#"{"features":[{"name":"a"}]}"#).is_err_and(|error| error.contains("enabled")));
        assert!(names("{").is_err_and(|error| error.contains("not JSON")));
    }
}
