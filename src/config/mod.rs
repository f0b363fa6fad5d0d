//! The configuration, parsed into validated structs once, before any port is bound.

mod attributes;
mod auth;
mod build;
mod dev_env;
mod environment;
mod file;
mod formats;
mod layer;
mod mask;
mod parse;
mod sections;
mod settings;
mod show;
mod taps;
#[cfg(test)]
mod tests;
mod topics;
mod unleash;
mod unleash_api;
mod values;

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

pub use attributes::{AttributeTable, AttributesConfig};
pub use auth::{AuthConfig, Scope};
pub use dev_env::{DevEnv, DevEnvError, ENV_FILE};
pub use formats::{
    BulkForm, EventsConfig, FormatsConfig, InputFormat, OutputFormat, SchemaRegistryConfig, SubjectStrategy,
};
pub use settings::markdown;
pub use show::SettingInForce;
pub use taps::{OnMissingUser, Selector, TapAudit, TapConfig, TapRoute, TapWrite};
pub use unleash_api::{PretrustedToken, RecordedEvents, StreamingMode, TokenKind, UnleashApiConfig};
pub use values::Origin;

pub use crate::kafka::{GroupProtocol, KafkaConfig, Secret};

use values::Values;

/// All problems of a configuration, each with the name of its setting.
#[derive(Debug, thiserror::Error)]
pub struct ConfigError(pub Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [problem] => write!(f, "configuration: {problem}"),
            problems => {
                write!(f, "configuration: {} problems", problems.len())?;
                problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

/// Selects the defaults in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    Service,
    /// Commands that end by themselves. They use the service's defaults, and the environment file of a `flagstream dev`
    /// that runs in this folder.
    Command,
    /// `flagstream dev`: reachable only from this machine, with all scopes for anonymous callers.
    Dev,
}

/// A configuration with information about its origin.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// All settings with their values; secrets are masked.
    pub settings: Vec<SettingInForce>,
    /// Warnings about accepted settings.
    pub notices: Vec<String>,
}

/// Loads the configuration: environment variables override `file`, which overrides defaults. Without `file`,
/// `./flagstream.toml` is used if it exists. For a command without `file`, the environment file of a running `dev`
/// takes precedence over `./flagstream.toml`.
pub fn load(file: Option<&Path>, profile: Profile) -> Result<Loaded, ConfigError> {
    let default = Path::new("flagstream.toml");
    let is_named = file.is_some();
    let file = file.or_else(|| default.exists().then_some(default));
    let text = match file {
        Some(path) => {
            let text = std::fs::read_to_string(path);
            Some(text.map_err(|error| ConfigError(vec![format!("{}: {error}", path.display())]))?)
        }
        None => None,
    };
    let mut values = values_of(file.zip(text.as_deref()), profile);
    if profile == Profile::Command && !is_named {
        values.begin_layer();
        dev_env::read(&mut values);
    }
    finish(values, std::env::vars_os())
}

/// Loads the configuration from the given texts. `file` is the file's name, for messages, and its text.
pub fn load_from(
    file: Option<(&Path, &str)>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    profile: Profile,
) -> Result<Loaded, ConfigError> {
    finish(values_of(file, profile), variables)
}

fn values_of(file: Option<(&Path, &str)>, profile: Profile) -> Values {
    let mut values = Values::new(profile == Profile::Dev);
    if let Some((path, text)) = file {
        values.begin_layer();
        file::read(path, text, &mut values);
    }
    values
}

fn finish(
    mut values: Values,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Loaded, ConfigError> {
    values.begin_layer();
    environment::read(variables, &mut values);
    values.merge();
    let config = build::config(&mut values);
    let config = values.finish(config)?;
    Ok(Loaded { settings: show::in_force(&values), notices: show::notices(&config), config })
}

/// The whole configuration of a process.
#[derive(Debug, Clone)]
pub struct Config {
    pub instance: String,
    /// The instance's own folder inside `FLAGSTREAM_STATE_DIR`.
    pub state_dir: PathBuf,
    pub kafka: KafkaConfig,
    pub topics: TopicsConfig,
    pub unleash: UnleashConfig,
    pub unleash_api: UnleashApiConfig,
    pub delivery: DeliveryConfig,
    pub reply: ReplyConfig,
    pub evaluation: EvaluationConfig,
    pub http: HttpConfig,
    pub log: LogConfig,
    pub database: DatabaseConfig,
    pub audit: AuditConfig,
    pub experiments: ExperimentsConfig,
    pub flags: FlagsConfig,
    pub feed: FeedConfig,
    pub privacy: PrivacyConfig,
    pub attributes: AttributesConfig,
    pub redis: RedisConfig,
    pub auth: AuthConfig,
    pub api: ApiConfig,
    pub console: ConsoleConfig,
    pub formats: FormatsConfig,
    pub events: EventsConfig,
    pub schema_registry: SchemaRegistryConfig,
    pub health: HealthConfig,
    pub metrics: MetricsConfig,
    pub taps: Vec<TapConfig>,
}

/// Metrics that are not collected by default.
#[derive(Debug, Clone, Default)]
pub struct MetricsConfig {
    /// Flags whose evaluations are counted by flag. A name that ends in `*` stands for all with this beginning.
    pub flags: Vec<String>,
}

/// The web console.
#[derive(Debug, Clone)]
pub struct ConsoleConfig {
    pub enabled: bool,
    /// Folder that the files are read from; `None`: the files in the binary.
    pub directory: Option<PathBuf>,
}

/// Reporting of partitions without progress.
#[derive(Debug, Clone, Copy)]
pub struct HealthConfig {
    pub stuck_after: Duration,
    /// Whether stuck partitions make the process not ready.
    pub stuck_not_ready: bool,
}

impl Config {
    /// Whether tables of attributes complete contexts.
    pub fn has_tables(&self) -> bool {
        !self.attributes.tables.is_empty()
    }

    /// A warning if anonymous access from other machines is enabled by default rather than by a setting.
    pub fn anonymous_warning(&self) -> Option<String> {
        let AuthConfig { anonymous_scopes, anonymous_by_default, .. } = &self.auth;
        let listen = self.http.listen;
        let is_open = *anonymous_by_default && !anonymous_scopes.is_empty() && !listen.ip().is_loopback();
        let scopes: Vec<_> = anonymous_scopes.iter().map(|scope| scope.name()).collect();
        is_open.then(|| {
            format!(
                "every client that can reach {listen} may {} without a token: set \
                 FLAGSTREAM_AUTH__ANONYMOUS_SCOPES to `none` to require tokens, or to `evaluate` if this is intended",
                scopes.join(", ")
            )
        })
    }
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
    /// Topic of the exposures of experiments. No other feature uses it.
    pub exposures: String,
    /// Topic of kill switches.
    pub overrides: String,
    /// Topic of the audit trail's hash chain checkpoints. No other feature uses it.
    pub audit_checkpoints: String,
    /// Topic of the reports of running instances.
    pub instances: String,
    /// Topic of what Unleash's SDKs report. Only the API for SDKs needs it.
    pub client_metrics: String,
    pub needs_client_metrics: bool,
    /// Topic of attributes by user id, also if the feature is off.
    pub attributes_topic: String,
    /// Tables of attributes, each with its topic; empty if the feature is off.
    pub attributes: Vec<AttributeTable>,
    pub partitions: i32,
    /// Replication factor of created topics; `None` means the broker's default.
    pub replication: Option<i32>,
    pub retention: Duration,
    pub dead_letters_retention: Duration,
}

impl TopicsConfig {
    /// The path of each topic's setting, with the topic's name.
    pub fn names(&self) -> Vec<(&'static str, &str)> {
        let own = [
            ("topics.requests", &self.requests),
            ("topics.events", &self.events),
            ("topics.changes", &self.changes),
            ("topics.definitions", &self.definitions),
            ("topics.updates", &self.updates),
            ("topics.dead_letters", &self.dead_letters),
            ("topics.conversions", &self.conversions),
            ("topics.exposures", &self.exposures),
            ("topics.overrides", &self.overrides),
            ("topics.audit_checkpoints", &self.audit_checkpoints),
            ("topics.instances", &self.instances),
            ("topics.client_metrics", &self.client_metrics),
        ];
        let own = own.into_iter().map(|(path, name): (_, &String)| (path, name.as_str()));
        let tables = self.attributes.iter().enumerate().map(|(index, table)| {
            let path = if index == 0 { "topics.attributes" } else { "attributes.tables" };
            (path, table.topic.as_str())
        });
        own.chain(tables).collect()
    }
}

#[derive(Debug, Clone)]
pub struct UnleashConfig {
    /// Base URL without a trailing `/api`; `None` if there is no Unleash.
    pub url: Option<String>,
    pub environments: Vec<UnleashEnvironment>,
    /// The environment of requests that name none (`UNLEASH_ENVIRONMENT`).
    pub default_environment: String,
    pub app_name: String,
    pub instance_id: String,
    pub refresh_interval: Duration,
    /// Interval of metrics reports; `None` if they are disabled.
    pub metrics_interval: Option<Duration>,
    pub admin_token: Option<Secret>,
    pub webhook_secret: Option<Secret>,
    /// PEM file of certificates that are trusted in addition to the system's.
    pub ca_certificate: Option<PathBuf>,
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
    /// Number of request workers in this process. Each has its own consumer and producer.
    pub workers: usize,
    /// Maximum time that a batch stays open under load.
    pub batch_max: Duration,
    /// Time from the arrival of a request to the commit of its results that batches are made for; `None`: batches are
    /// as short as the cost of commits allows.
    pub target_latency: Option<Duration>,
    pub batch_max_messages: usize,
    pub batch_max_bytes: usize,
    pub session_timeout: Duration,
    pub transaction_timeout: Duration,
}

#[derive(Debug, Clone)]
pub struct ReplyConfig {
    pub allowed_prefixes: Vec<String>,
    /// Whether a missing reply topic is created when a request names it. Only the embedded broker of `dev` supports
    /// that.
    pub create_missing: bool,
}

#[derive(Debug, Clone, Copy)]
pub struct EvaluationConfig {
    pub read_path: ReadPath,
}

/// The first source of an evaluation over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadPath {
    /// The flags in memory first; Redis while the flags are not loaded.
    StoreFirst,
    /// Redis first, except for values older than the flags in memory; then memory.
    RedisFirst,
}

#[derive(Debug, Clone)]
pub struct HttpConfig {
    pub listen: SocketAddr,
    /// Address of a separate listener for health and metrics.
    pub admin_listen: Option<SocketAddr>,
    /// TLS of `listen`. The admin listener never uses TLS.
    pub tls: Option<TlsConfig>,
    /// Maximum number of open connections of one address to one listener.
    pub connections_per_address: usize,
    /// Maximum number of open streams.
    pub listeners: usize,
    /// Maximum number of open streams of one address.
    pub listeners_per_address: usize,
    /// Accepted names in the `Host` header, in lower case; `None` accepts any. Numeric addresses are always accepted.
    pub allowed_hosts: Option<Vec<String>>,
    /// Time between reporting not ready and closing the listener at shutdown.
    pub drain_delay: Duration,
}

/// PEM files of a TLS certificate and its key.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// The certificate, followed by its intermediate certificates.
    pub certificate: PathBuf,
    pub key: PathBuf,
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

#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    pub url: Option<Secret>,
    /// Whether `run` migrates the database schema.
    pub migrate: bool,
}

#[derive(Debug, Clone)]
pub struct FlagsConfig {
    /// Days after which archived local flags are removed by the nightly cleanup. `None`: no cleanup.
    pub cleanup_after_days: Option<u32>,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct FeedConfig {
    /// Whether to report ready before every source of flags was read for the first time.
    pub start_without_source: bool,
}

#[derive(Debug, Clone)]
pub struct AuditConfig {
    pub retention_days: u32,
    /// Maximum time that a batch stays open.
    pub batch_max: Duration,
    pub batch_max_rows: usize,
    /// Upper bound in bytes, applied separately to the batch's events and to its encoded rows.
    pub batch_max_bytes: usize,
    /// Key of the digests in the hash chains and of the signatures of checkpoints.
    pub chain_key: Option<Secret>,
    /// Interval of the checkpoints of the hash chains.
    pub checkpoint_interval: Duration,
    /// Substitute for Kafka's topic id, which the embedded broker does not report. A new value is generated on every
    /// start of that broker.
    pub log_id: Option<String>,
}

impl AuditConfig {
    /// Start of the retention period; older evaluations are removed.
    pub fn oldest(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        now - TimeDelta::days(self.retention_days.into())
    }
}

impl Config {
    /// Times of conversions that are accepted: since the start of the retention period, and ahead by the tolerated
    /// difference between clocks.
    pub fn accepted_conversions(&self, now: DateTime<Utc>) -> RangeInclusive<DateTime<Utc>> {
        self.audit.oldest(now)..=now + self.experiments.clock_skew()
    }
}

#[derive(Debug, Clone, Copy)]
pub struct ExperimentsConfig {
    /// Tolerated difference between the clocks of evaluators and of services that report conversions.
    pub clock_skew: Duration,
    /// Whether exposures become events in the topic of exposures.
    pub exposure_events: bool,
}

impl ExperimentsConfig {
    pub fn clock_skew(&self) -> TimeDelta {
        TimeDelta::from_std(self.clock_skew).unwrap_or_default()
    }
}

/// Attributes and user ids that are not written unchanged.
#[derive(Debug, Clone)]
pub struct PrivacyConfig {
    pub drop_attributes: Vec<String>,
    pub hash_attributes: Vec<String>,
    pub hash_user_ids: bool,
    /// Key of the hashes; always `Some` if anything is hashed.
    pub hash_key: Option<Secret>,
}

impl PrivacyConfig {
    /// Whether any input is dropped or hashed before it is written.
    pub fn hides_anything(&self) -> bool {
        self.hash_user_ids || !(self.drop_attributes.is_empty() && self.hash_attributes.is_empty())
    }
}

#[derive(Debug, Clone)]
pub struct RedisConfig {
    pub url: Option<Secret>,
    pub cache_ttl: Duration,
    /// Whether the edge API's values are stored in this process because there is no Redis. Only in `dev`.
    pub edge_in_memory: bool,
}

/// Parses a duration in the format of settings (`90d`). The error states the expected format.
pub fn lifetime(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    parse::duration(text, range)
}

/// Parses an environment's name by the rules of settings. The error states the expected format.
pub fn environment_name(text: &str) -> Result<String, String> {
    parse::environment(text)
}

#[derive(Debug, Clone)]
pub struct ApiConfig {
    pub durability: Durability,
    /// Upper bound of the spool on disk, in bytes.
    pub spool_max_bytes: u64,
    /// Browser origins that may call; empty disables CORS.
    pub cors_origins: Vec<String>,
}

/// Storage that must hold an event before its HTTP response is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    Spool,
    Memory,
    Sync,
}
