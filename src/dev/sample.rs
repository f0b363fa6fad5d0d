//! The sample flags, one of every kind, in the format of Unleash's client API.

use std::io;
use std::path::{Path, PathBuf};

use crate::private_files;

/// The content of the flag file that is written if none is given.
pub const FLAGS: &str = include_str!("sample-flags.json");

/// The flags of the sample requests, each with its default as JSON, which determines the type.
pub const ASKS: [(&str, &str); 14] = [
    ("new-ui-enabled", "false"),
    ("theme-variant", "\"light\""),
    ("max-retries", "3"),
    ("api-max-retries", "3"),
    ("request-timeout", "5.0"),
    ("feature-config", r#"{"enabled":false,"threshold":0.5}"#),
    ("new-algorithm", "false"),
    ("premium-features", "false"),
    ("ab-test-variant", "\"control\""),
    ("payment-processing", "false"),
    ("new_checkout_flow", "false"),
    ("beta_features", "false"),
    ("dark_mode", "false"),
    ("experimental_api", "false"),
];

/// Writes the sample flags to a file in `folder` and returns its path. An existing file is left unchanged.
pub fn write(folder: &Path) -> io::Result<PathBuf> {
    let path = folder.join("flags.json");
    if !path.try_exists()? {
        private_files::create_folder(folder)?;
        private_files::write(&path, FLAGS.as_bytes())?;
    }
    Ok(path)
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::flag::value::Lookup;
    use crate::flag::{EvaluationContext, Moment, Reason, ValueType};
    use crate::message::request::Request;

    #[test]
    fn every_sample_flag_answers_its_sample_request() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(&folder.path().join("new")).unwrap();
        let snapshot = crate::flag_file::load(&path, "development").unwrap().snapshot;
        let flags = snapshot.environment("development").unwrap();
        let local = crate::dev::local::names().unwrap();
        assert_eq!(flags.len() + local.len(), ASKS.len());
        let moment = Moment { now: "2026-01-15T10:30:00Z", hostname: "", app_name: "" };
        for (flag, default) in ASKS.into_iter().filter(|(flag, _)| !local.iter().any(|local| local == flag)) {
            let body = format!(r#"{{"flag_name":"{flag}","user_id":"u","default_value":{default}}}"#);
            let request = Request::decode(body.as_bytes()).unwrap();
            let ask = request.asks.as_slice().first().unwrap();
            let outcome = flags.evaluate(flag, &EvaluationContext::default(), &moment).unwrap();
            let answer = crate::flag::value::answer(
                flag,
                Lookup::Found(outcome),
                ask.value_type,
                ask.default.as_ref(),
            );
            assert_ne!(answer.reason, Reason::Error, "{flag}: {answer:?}");
            if ask.value_type != ValueType::Boolean {
                assert_eq!(answer.reason, Reason::TargetingMatch, "{flag}");
            }
        }
    }

    #[test]
    fn the_file_of_the_examples_has_the_flags_that_they_ask_for() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let file = crate::flag_file::load(&folder.join("examples/dev-flags.json"), "production").unwrap();
        assert!(file.refused.is_empty(), "{:?}", file.refused);
        let flags = file.snapshot.environment("production").unwrap();
        let vectors = fs::read_to_string(folder.join("clients/vectors.json")).unwrap();
        let vectors: serde_json::Value = serde_json::from_str(&vectors).unwrap();
        for flag in vectors["flags"].as_array().unwrap() {
            assert!(flags.get(flag["name"].as_str().unwrap()).is_some(), "{flag}");
        }
    }

    #[test]
    fn an_edited_file_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path()).unwrap();
        fs::write(&path, "edited").unwrap();
        assert_eq!(write(folder.path()).unwrap(), path);
        assert_eq!(fs::read_to_string(&path).unwrap(), "edited");
    }
}
