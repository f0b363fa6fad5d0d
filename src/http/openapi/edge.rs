//! Response bodies of the edge API, for the OpenAPI document.

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
    /// Present, and true, only if a kill switch turned the flag off.
    #[schema(nullable = false)]
    killed: Option<bool>,
    #[schema(required)]
    error_code: Option<ErrorCodeName>,
    #[schema(required)]
    error_message: Option<String>,
    /// Version of the definition that was evaluated.
    #[schema(required)]
    flag_version: Option<u64>,
    environment: String,
    /// Id of the event in Kafka.
    event_id: String,
    #[schema(format = DateTime)]
    evaluated_at: String,
    #[serde(rename = "_cache")]
    cache: CacheName,
}

/// Whether a flag is on for a user, and the flag's state.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct EdgeFlag {
    #[schema(inline)]
    #[serde(flatten)]
    check: EdgeCheck,
    /// `null` if the flags are not loaded and Redis does not hold the flag.
    #[schema(required)]
    flag_data: Option<FlagData>,
}

/// A flag after a change.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct EdgeUpdated {
    flag_name: String,
    /// State that is in force on the answering instance; `null` if there is no such flag.
    #[schema(required)]
    flag_data: Option<FlagData>,
    environment: String,
}

/// State of a flag, independent of any user.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct FlagData {
    /// Whether the flag is switched on and not killed. Its strategies decide for which users.
    enabled: bool,
    /// Present, and true, only if a kill switch turned the flag off.
    #[schema(nullable = false)]
    killed: Option<bool>,
    /// Largest rollout percentage of the strategies that apply to all users; if there are none, the largest of the
    /// targeted strategies.
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
    /// Names of the variants.
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
    /// Number of removed keys.
    pub removed_keys: u64,
}

/// Counters since this process started.
#[derive(Debug, Serialize, ToSchema)]
pub struct CacheStats {
    pub hits: u64,
    pub misses: u64,
    /// Hits divided by all reads, 0 to 1.
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
    /// `up`, `down` or `off`; `memory` in `flagstream dev` without Redis, where values are kept in the process.
    pub state: String,
    /// Number of keys in the Redis database, including those of other programs. With `memory`: number of values in the
    /// process.
    #[schema(required)]
    pub keys: Option<u64>,
}
