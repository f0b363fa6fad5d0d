//! Configuration: parsed once, before any port is bound, into validated structs.

pub mod secret;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use secret::Secret;

/// What is wrong with the configuration: every problem found, each with the name of its setting.
#[derive(Debug, thiserror::Error)]
#[error("configuration: {}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

/// Reads environment variables over `file` (or `./flagstream.toml`) over defaults.
pub fn load(_file: Option<&std::path::Path>) -> Result<Config, ConfigError> {
    Err(ConfigError(vec!["not built yet".into()]))
}

/// Everything that can be configured. Fields that later roles use are parsed and validated already.
#[derive(Debug, Clone)]
pub struct Config {
    pub instance: String,
    /// This instance's own folder below `FLAGSTREAM_STATE_DIR`.
    pub state_dir: PathBuf,
    pub kafka: KafkaConfig,
    pub topics: TopicsConfig,
    pub unleash: UnleashConfig,
    pub delivery: DeliveryConfig,
    pub reply: ReplyConfig,
    pub http: HttpConfig,
    pub log: LogConfig,
}

#[derive(Debug, Clone)]
pub struct KafkaConfig {
    pub bootstrap_servers: String,
    pub group_id: String,
    /// librdkafka properties (`security.protocol`, …) laid over our own.
    pub client: BTreeMap<String, Secret>,
}

#[derive(Debug, Clone)]
pub struct TopicsConfig {
    pub requests: String,
    pub events: String,
    pub changes: String,
    pub definitions: String,
    pub updates: String,
    pub dead_letters: String,
    pub conversions: String,
    pub partitions: i32,
    /// `None`: the broker's default.
    pub replication: Option<i32>,
}

#[derive(Debug, Clone)]
pub struct UnleashConfig {
    /// Base URL without a trailing `/api`; `None` without an Unleash.
    pub url: Option<String>,
    pub environments: Vec<UnleashEnvironment>,
    /// `UNLEASH_ENVIRONMENT`.
    pub default_environment: String,
    pub app_name: String,
    pub instance_id: String,
    pub refresh_interval: Duration,
    /// `None`: metrics are disabled.
    pub metrics_interval: Option<Duration>,
    pub admin_token: Option<Secret>,
    pub webhook_secret: Option<Secret>,
}

#[derive(Debug, Clone)]
pub struct UnleashEnvironment {
    pub name: String,
    pub token: Secret,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryMode {
    Transactional,
    AtLeastOnce,
}

#[derive(Debug, Clone)]
pub struct DeliveryConfig {
    pub mode: DeliveryMode,
    /// Request workers of this process: each has its own consumer and producer.
    pub workers: usize,
    /// Longest time a batch stays open under load.
    pub batch_max: Duration,
    pub batch_max_messages: usize,
    pub batch_max_bytes: usize,
    pub session_timeout: Duration,
    pub transaction_timeout: Duration,
}

#[derive(Debug, Clone)]
pub struct ReplyConfig {
    pub allowed_prefixes: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct HttpConfig {
    pub listen: SocketAddr,
    /// A listener of its own for health and metrics.
    pub admin_listen: Option<SocketAddr>,
}

#[derive(Debug, Clone)]
pub struct LogConfig {
    /// A `tracing` filter, such as `info` or `flagstream=debug`.
    pub filter: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}
