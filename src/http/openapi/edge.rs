//! The bodies of the edge API, as the document describes them.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::schema::{ErrorCodeName, ReasonName};

/// Whether a flag is on for a user.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct EdgeCheck {
    #[schema(example = "new_checkout_flow")]
    flag_name: String,
    enabled: bool,
    #[schema(required)]
    variant: Option<String>,
    reason: ReasonName,
    #[schema(required)]
    error_code: Option<ErrorCodeName>,
    #[schema(required)]
    error_message: Option<String>,
    /// Of the definition that answered.
    #[schema(required)]
    flag_version: Option<u64>,
    environment: String,
    /// Of the event in Kafka.
    event_id: String,
    #[schema(format = DateTime)]
    evaluated_at: String,
    #[serde(rename = "_cache")]
    cache: CacheName,
}

/// The same, and what the flag is.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct EdgeFlag {
    #[schema(inline)]
    #[serde(flatten)]
    check: EdgeCheck,
    /// `null` while the flags are not loaded and Redis does not have it.
    #[schema(required)]
    flag_data: Option<FlagData>,
}

/// A flag after a change.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct EdgeUpdated {
    flag_name: String,
    /// As it is in force here.
    #[schema(required)]
    flag_data: Option<FlagData>,
    environment: String,
}

/// What a flag is, whoever asks.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct FlagData {
    /// Switched on; whom for, its strategies say.
    enabled: bool,
    /// The largest share that a strategy lets through: of everybody; if all have constraints, of those who fit them.
    rollout_percentage: f64,
    metadata: FlagMetadata,
}

#[derive(ToSchema)]
#[allow(dead_code)]
pub struct FlagMetadata {
    version: u64,
    #[schema(required)]
    r#type: Option<String>,
    #[schema(required)]
    project: Option<String>,
    #[schema(required)]
    description: Option<String>,
    stale: bool,
    /// Their names.
    variants: Vec<String>,
}

#[derive(ToSchema)]
#[allow(dead_code)]
pub struct EdgeList {
    flags: Vec<EdgeListed>,
    environment: String,
    flags_version: u64,
    #[serde(rename = "_cache")]
    cache: CacheName,
}

#[derive(ToSchema)]
#[allow(dead_code)]
pub struct EdgeListed {
    flag_name: String,
    #[schema(inline)]
    #[serde(flatten)]
    data: FlagData,
}

/// Whether the answer was found in Redis.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(dead_code)]
pub enum CacheName {
    Hit,
    Miss,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct CacheCleared {
    pub flag_name: String,
    pub environment: String,
    /// So many there were.
    pub removed_keys: u64,
}

/// Since this process started.
#[derive(Debug, Serialize, ToSchema)]
pub struct CacheStats {
    pub hits: u64,
    pub misses: u64,
    /// Hits of all reads, 0 to 1.
    pub hit_rate: f64,
    pub layers: BTreeMap<String, CacheLayer>,
    pub ttl_seconds: BTreeMap<String, u64>,
    pub redis: CacheRedis,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct CacheLayer {
    pub hits: u64,
    pub misses: u64,
    pub hit_rate: f64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct CacheRedis {
    /// `up`, `down` or `off`; `memory` in `flagstream dev` without a Redis, where values are kept in the process.
    pub state: String,
    /// All keys of the Redis database, whoever they are from. With `memory` the values that are kept.
    #[schema(required)]
    pub keys: Option<u64>,
}
