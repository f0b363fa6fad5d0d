//! Origin of a flag definition.

use serde::{Deserialize, Serialize};

/// Origin of a definition.
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
