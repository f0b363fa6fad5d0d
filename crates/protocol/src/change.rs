//! Change events, invalidations and hints.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeKind {
    #[serde(rename = "FEATURE_FLAG_CREATED")]
    Created,
    #[serde(rename = "FEATURE_FLAG_UPDATED")]
    Updated,
    #[serde(rename = "FEATURE_FLAG_DELETED")]
    Deleted,
}

/// Body of an invalidation (`feature-flag-updates`). Without `previous_version` it is the body of a change
/// event.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Change {
    pub event_type: ChangeKind,
    pub flag_name: String,
    pub environment: String,
    pub version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_version: Option<u64>,
    pub changed_at: String,
    pub published_at: String,
    pub actor: String,
}
