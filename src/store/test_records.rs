//! Records for the tests of the store.

use crate::message::definition::{Definition, Source};

/// The value of a record: a flag that is on or off.
pub(super) fn value(key: &str, version: u64, enabled: bool) -> Vec<u8> {
    let (environment, flag) = key.split_once('/').unwrap();
    let definition = serde_json::json!({ "name": flag, "enabled": enabled, "strategies": [] });
    let body = Definition {
        environment: environment.to_owned(),
        flag_name: flag.to_owned(),
        source: Source::File,
        actor: None,
        version,
        checksum: String::new(),
        definition: serde_json::value::to_raw_value(&definition).unwrap(),
    };
    serde_json::to_vec(&body).unwrap()
}

/// A value that is a definition, of a flag that cannot be compiled.
pub(super) fn uncompilable(key: &str, version: u64) -> Vec<u8> {
    let text = String::from_utf8(value(key, version, true)).unwrap();
    text.replace(r#""strategies":[]"#, r#""strategies":7"#).into_bytes()
}
