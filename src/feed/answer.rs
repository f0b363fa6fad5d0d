//! Response of a source, validated before it is used.
//!
//! A response that is not a well-formed list of features is refused as a whole. A single invalid feature is
//! refused by name and does not affect the others.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::error::Category;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::flag::definition::Segments;

use super::refusal::Refused;

/// SHA-256 of everything that determines a feature's definition, in the source's notation.
pub type Digest = [u8; 32];

/// Maximum size of a response in bytes; reading stops beyond it.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Reason why a whole response is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    #[error("the response is empty")]
    Empty,
    #[error("the response is truncated: its JSON ends after {bytes} bytes")]
    Truncated { bytes: usize },
    #[error("the response is not JSON: {0}")]
    NotJson(String),
    #[error("the response has no list `features`: {0}")]
    NoFeatures(String),
    /// The response is refused because flags without their segments would have another meaning.
    #[error("the response's list `segments` cannot be read: {0}")]
    BadSegments(String),
}

/// Complete, well-formed list of features.
#[derive(Debug, Default)]
pub struct Answer {
    /// Features with unique names.
    pub features: Vec<Feature>,
    pub segments: Segments,
    /// Features with a name that cannot be used.
    pub refused: Vec<Refused>,
    /// Number of features without a readable name. Each might be any flag, so no flag may be treated as
    /// absent.
    pub unnamed: usize,
    /// Flags that were deleted explicitly, with the actors. Only local flags can be.
    pub deleted: BTreeMap<String, String>,
}

/// One feature in the source's notation.
#[derive(Debug, Clone)]
pub struct Feature {
    pub name: String,
    pub json: Box<RawValue>,
    pub digest: Digest,
    /// Author of the change, if the source provides it.
    pub actor: Option<String>,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    features: Option<&'a RawValue>,
    #[serde(borrow, default)]
    segments: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

impl AnswerError {
    /// Value of the metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Truncated { .. } => "truncated",
            Self::NotJson(_) => "not_json",
            Self::NoFeatures(_) | Self::BadSegments(_) => "not_features",
        }
    }
}

impl Answer {
    /// Reads the body of a response from `/api/client/features`.
    pub fn read(body: &[u8]) -> Result<Self, AnswerError> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(AnswerError::Empty);
        }
        let Body { features, segments } =
            serde_json::from_slice(body).map_err(|error| refuse_body(&error, body.len()))?;
        let features = features.ok_or_else(|| AnswerError::NoFeatures("it is missing".to_owned()))?;
        let features: Vec<&RawValue> = serde_json::from_str(features.get())
            .map_err(|error| AnswerError::NoFeatures(error.to_string()))?;

        let mut answer = Self { segments: read_segments(segments)?, ..Self::default() };
        answer.take(&features, segments.map_or("", RawValue::get));
        Ok(answer)
    }

    /// Adds a feature of a source that provides no list. Its name must be known and unique.
    pub fn add(&mut self, name: String, json: Box<RawValue>, actor: Option<String>) {
        let digest = Sha256::digest(json.get()).into();
        self.features.push(Feature { name, json, digest, actor });
    }

    /// Adds the features of a list. If a name is repeated, the last feature counts, as in Unleash's SDKs.
    fn take(&mut self, features: &[&RawValue], segments: &str) {
        let segments: Digest = Sha256::digest(segments).into();
        let mut places: HashMap<String, usize> = HashMap::with_capacity(features.len());
        for json in features {
            let Some(name) = name_of(json) else {
                self.unnamed += 1;
                continue;
            };
            let digest = feature_digest(json, &segments);
            let json = (*json).to_owned();
            let feature = Feature { name: name.clone(), json, digest, actor: None };
            match places.get(&name).and_then(|place| self.features.get_mut(*place)) {
                Some(earlier) => {
                    tracing::debug!(flag = name, "the source lists this flag twice; the last entry is used");
                    *earlier = feature;
                }
                None => {
                    places.insert(name, self.features.len());
                    self.features.push(feature);
                }
            }
        }
    }
}

fn refuse_body(error: &serde_json::Error, bytes: usize) -> AnswerError {
    match error.classify() {
        Category::Eof => AnswerError::Truncated { bytes },
        Category::Data => AnswerError::NoFeatures(error.to_string()),
        Category::Io | Category::Syntax => AnswerError::NotJson(error.to_string()),
    }
}

fn read_segments(segments: Option<&RawValue>) -> Result<Segments, AnswerError> {
    let refuse = |reason: String| AnswerError::BadSegments(reason);
    let Some(segments) = segments else {
        return Ok(Segments::default());
    };
    let segments = serde_json::from_str(segments.get()).map_err(|error| refuse(error.to_string()))?;
    Segments::read(&segments).map_err(|error| refuse(error.to_string()))
}

fn name_of(json: &RawValue) -> Option<String> {
    let named: Named<'_> = serde_json::from_str(json.get()).ok()?;
    (!named.name.is_empty()).then(|| named.name.into_owned())
}

/// Digest of a feature. Segments are included only for features that may use one, so that a changed segment
/// does not affect all flags.
fn feature_digest(json: &RawValue, segments: &Digest) -> Digest {
    let mut hasher = Sha256::new();
    hasher.update(json.get());
    if json.get().contains("segments") {
        hasher.update([0]);
        hasher.update(segments);
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Answer, AnswerError> {
        Answer::read(body.as_bytes())
    }

    fn names(answer: &Answer) -> Vec<&str> {
        answer.features.iter().map(|feature| feature.name.as_str()).collect()
    }

    #[test]
    fn a_whole_list_is_read() {
        let answer = read(r#"{"version":2,"features":[{"name":"a"},{"name":"b"}],"meta":{}}"#).unwrap();
        assert_eq!(names(&answer), ["a", "b"]);
        assert!(answer.refused.is_empty());
        assert!(read(r#"{"features":[]}"#).unwrap().features.is_empty());
    }

    #[test]
    fn what_is_not_a_whole_list_is_refused_with_its_reason() {
        let cases = [
            ("", "empty"),
            (" \r\n ", "empty"),
            (r#"{"features":[{"name":"a"},"#, "truncated"),
            (r#"{"features":[{"name":"a"}]"#, "truncated"),
            ("<html>502 Bad Gateway</html>", "not_json"),
            (r#"{"features":[{"name":}]}"#, "not_json"),
            ("{}", "not_features"),
            ("[]", "not_features"),
            ("null", "not_features"),
            (r#"{"features":null}"#, "not_features"),
            (r#"{"features":{"name":"a"}}"#, "not_features"),
            (r#"{"features":[],"features":[]}"#, "not_features"),
            (r#"{"features":[],"segments":{}}"#, "not_features"),
        ];
        for (body, reason) in cases {
            assert_eq!(read(body).unwrap_err().reason(), reason, "{body}");
        }
        assert_eq!(Answer::read(b"{\"features\":[\"\xff\"]}").unwrap_err().reason(), "not_json");
    }

    #[test]
    fn a_feature_without_a_name_leaves_the_others_alone() {
        let body = r#"{"features":[{"name":"a"},{"enabled":true},{"name":7},{"name":""},7,null]}"#;
        let answer = read(body).unwrap();
        assert_eq!((names(&answer), answer.unnamed), (vec!["a"], 5));
    }

    #[test]
    fn of_a_name_that_comes_twice_the_last_one_counts() {
        let body = r#"{"features":[{"name":"a"},{"name":"b"},{"name":"a"},{"name":"a","enabled":true}]}"#;
        let answer = read(body).unwrap();
        assert_eq!(names(&answer), ["a", "b"]);
        assert_eq!(answer.features[0].json.get(), r#"{"name":"a","enabled":true}"#);
        assert!(answer.refused.is_empty());
    }

    #[test]
    fn a_changed_segment_changes_the_digest_of_its_users_only() {
        let body = |value: &str| {
            let segments = format!(r#"[{{"id":1,"constraints":[{{"value":"{value}"}}]}}]"#);
            format!(r#"{{"features":[{{"name":"a","segments":[1]}},{{"name":"b"}}],"segments":{segments}}}"#)
        };
        let (old, new) = (read(&body("x")).unwrap(), read(&body("y")).unwrap());
        let changed: Vec<_> = old
            .features
            .iter()
            .zip(&new.features)
            .filter(|(old, new)| old.digest != new.digest)
            .map(|(old, _)| old.name.as_str())
            .collect();
        assert_eq!(changed, ["a"]);
    }
}
