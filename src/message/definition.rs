//! A flag's definition on `feature-flag-definitions` (compacted; key `environment/flag_name`; tombstone = deleted,
//! with its version in the header `version`).

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Where a definition comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    Unleash,
    Local,
    File,
}

/// The message body.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Definition {
    pub environment: String,
    pub flag_name: String,
    pub source: Source,
    pub version: u64,
    /// SHA-256 of the canonical definition, hex.
    pub checksum: String,
    /// Unleash's client feature JSON, segments inlined.
    pub definition: Box<RawValue>,
}
