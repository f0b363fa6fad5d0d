//! A flag's definition on `feature-flag-definitions` (compacted; key `environment/flag_name`; tombstone = deleted,
//! with its version in the header `version`, and who deleted it in `actor`).

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Where a definition comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    Unleash,
    Local,
    File,
}

impl Source {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unleash => "unleash",
            Self::Local => "local",
            Self::File => "file",
        }
    }
}

/// The message body.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Definition {
    pub environment: String,
    pub flag_name: String,
    pub source: Source,
    /// Who made it so; the source itself where nobody can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    pub version: u64,
    /// SHA-256 of the canonical definition, hex.
    pub checksum: String,
    /// Unleash's client feature JSON, segments inlined.
    pub definition: Box<RawValue>,
}
