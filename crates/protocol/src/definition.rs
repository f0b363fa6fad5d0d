//! A flag's definition on `feature-flag-definitions` (compacted; key `environment/flag_name`). A tombstone is
//! a deletion, with its version in the header `version` and the actor in `actor`.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use flagstream_evaluation::Source;

/// Body of a definition record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Definition {
    pub environment: String,
    pub flag_name: String,
    pub source: Source,
    /// Author of the change; the source itself if the author is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    pub version: u64,
    /// SHA-256 of the canonical definition, in hex.
    pub checksum: String,
    /// Unleash's client feature JSON with inlined segments.
    pub definition: Box<RawValue>,
}
