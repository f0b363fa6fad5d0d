//! Records for the tests of the store.

use crate::message::definition::{Definition, Source};

/// Record value of a flag that is on or off.
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

/// Record value with a valid envelope and a definition that cannot be compiled.
pub(super) fn uncompilable(key: &str, version: u64) -> Vec<u8> {
    let text = String::from_utf8(value(key, version, true)).unwrap();
    text.replace(r#""strategies":[]"#, r#""strategies":7"#).into_bytes()
}

/// Record value of a kill switch.
pub(super) fn switch(key: &str, version: u64, state: &str) -> Vec<u8> {
    switch_of_change(key, version, state, 0)
}

/// Record value of a kill switch that was written by the change with this id.
pub(super) fn switch_of_change(key: &str, version: u64, state: &str, change: u128) -> Vec<u8> {
    let (environment, flag) = key.split_once('/').unwrap();
    let body = serde_json::json!({"environment": environment, "flag_name": flag, "state": state, "version": version,
        "definition_version": null, "actor": "a", "reason": "r", "changed_at": "2026-01-15T10:30:00Z",
        "expires_at": null, "change_id": uuid::Uuid::from_u128(change)});
    serde_json::to_vec(&body).unwrap()
}
