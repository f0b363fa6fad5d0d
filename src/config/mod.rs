//! Configuration: parsed once, before any port is bound, into validated structs.

mod build;
mod client;
mod dev_env;
mod environment;
mod file;
mod formats;
mod mask;
mod parse;
pub mod secret;
mod settings;
mod show;
#[cfg(test)]
mod tests;
mod topics;
mod unleash;
mod values;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

pub use dev_env::{DevEnv, DevEnvError, ENV_FILE};
pub use formats::{FormatsConfig, InputFormat, OutputFormat, SchemaRegistryConfig, SubjectStrategy};
pub use secret::Secret;
pub use settings::markdown;
pub use show::SettingInForce;
pub use values::Origin;

use values::Values;

/// What is wrong with the configuration: every problem found, each with the name of its setting.
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

/// Whose defaults are in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    Service,
    /// Commands that end by themselves: as the service, and while `flagstream dev` runs in this folder, with what it uses.
    Command,
    /// `flagstream dev`: reachable from this machine only, everything allowed.
    Dev,
}

/// A configuration, and how it came about.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// Every setting with its value, secrets masked.
    pub settings: Vec<SettingInForce>,
    /// What is accepted but worth a warning.
    pub notices: Vec<String>,
}

/// Reads the process's environment variables over `file` (or `./flagstream.toml`, where there is one) over defaults. For a
/// command without `file`, the environment file of a running `dev` stands between the variables and `./flagstream.toml`.
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
        dev_env::read(&mut values);
    }
    finish(values, std::env::vars_os())
}

/// The same from texts at hand; `file` is its name (for messages) and its text.
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
        file::read(path, text, &mut values);
    }
    values
}

fn finish(
    mut values: Values,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Loaded, ConfigError> {
    environment::read(variables, &mut values);
    let config = build::config(&mut values);
    let config = values.finish(config)?;
    Ok(Loaded { settings: show::in_force(&values), notices: show::notices(&config), config })
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
    pub evaluation: EvaluationConfig,
    pub http: HttpConfig,
    pub log: LogConfig,
    pub database: DatabaseConfig,
    pub audit: AuditConfig,
    pub flags: FlagsConfig,
    pub feed: FeedConfig,
    pub privacy: PrivacyConfig,
    pub redis: RedisConfig,
    pub auth: AuthConfig,
    pub api: ApiConfig,
    pub formats: FormatsConfig,
    pub schema_registry: SchemaRegistryConfig,
    pub health: HealthConfig,
}

/// When a partition that does not move is reported, and what follows from it.
#[derive(Debug, Clone, Copy)]
pub struct HealthConfig {
    pub stuck_after: Duration,
    /// Whether stuck partitions make the process not ready.
    pub stuck_not_ready: bool,
}

impl Config {
    /// A warning for an operator who has not decided whether everybody who reaches the service may call it.
    pub fn anonymous_warning(&self) -> Option<String> {
        let AuthConfig { anonymous_scopes, anonymous_by_default, .. } = &self.auth;
        let listen = self.http.listen;
        let is_open = *anonymous_by_default && !anonymous_scopes.is_empty() && !listen.ip().is_loopback();
        let scopes: Vec<_> = anonymous_scopes.iter().map(|scope| scope.name()).collect();
        is_open.then(|| {
            format!(
                "everybody who can reach {listen} may {} without a token: set FLAGSTREAM_AUTH__ANONYMOUS_SCOPES to \
                 `none` to require tokens, or to `evaluate` if this is meant",
                scopes.join(", ")
            )
        })
    }
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
    /// Kill switches.
    pub overrides: String,
    /// Checkpoints of the audit trail's hash chains. Nothing else needs this topic.
    pub audit_checkpoints: String,
    pub partitions: i32,
    /// `None`: the broker's default.
    pub replication: Option<i32>,
    pub retention: Duration,
    pub dead_letters_retention: Duration,
}

impl TopicsConfig {
    /// Each topic's name, after the path of its setting.
    pub fn names(&self) -> [(&'static str, &str); 9] {
        [
            ("topics.requests", &self.requests),
            ("topics.events", &self.events),
            ("topics.changes", &self.changes),
            ("topics.definitions", &self.definitions),
            ("topics.updates", &self.updates),
            ("topics.dead_letters", &self.dead_letters),
            ("topics.conversions", &self.conversions),
            ("topics.overrides", &self.overrides),
            ("topics.audit_checkpoints", &self.audit_checkpoints),
        ]
    }
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
    /// Certificates in PEM that are trusted beside the system's.
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
    /// Whether a reply topic that does not exist is created when a request names it. Only `dev`'s own broker can.
    pub create_missing: bool,
}

#[derive(Debug, Clone, Copy)]
pub struct EvaluationConfig {
    pub read_path: ReadPath,
}

/// Where an evaluation over HTTP is looked for first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadPath {
    /// In memory; Redis is asked while the flags are not loaded.
    StoreFirst,
    /// In Redis, where nothing older than the flags in memory is taken; then in memory.
    RedisFirst,
}

#[derive(Debug, Clone)]
pub struct HttpConfig {
    pub listen: SocketAddr,
    /// A listener of its own for health and metrics.
    pub admin_listen: Option<SocketAddr>,
    /// For `listen`; the listener for operators stays without.
    pub tls: Option<TlsConfig>,
    /// Open connections of one address to one listener.
    pub connections_per_address: usize,
    /// Open change streams of one address.
    pub listeners_per_address: usize,
    /// Names that may stand in `Host`, in lower case; `None`: any. Numeric addresses are always allowed.
    pub allowed_hosts: Option<Vec<String>>,
    /// Between the end of readiness and the end of listening.
    pub drain_delay: Duration,
}

/// Files in PEM.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// The certificate, then those that vouch for it.
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
    /// Whether `run` brings the schema up to date.
    pub migrate: bool,
}

#[derive(Debug, Clone)]
pub struct FlagsConfig {
    /// `None`: nobody cleans up by night.
    pub cleanup_after_days: Option<u32>,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct FeedConfig {
    /// Whether to be ready before every source of flags was read for the first time.
    pub start_without_source: bool,
}

#[derive(Debug, Clone)]
pub struct AuditConfig {
    pub retention_days: u32,
    /// Longest time a batch stays open.
    pub batch_max: Duration,
    pub batch_max_rows: usize,
    /// Of its events, and again of the rows that they become.
    pub batch_max_bytes: usize,
    /// Key of the digests in the hash chains and of the signatures of checkpoints.
    pub chain_key: Option<Secret>,
    /// Time between two checkpoints of the hash chains.
    pub checkpoint_interval: Duration,
    /// In place of the topics' own ids, which the embedded broker does not tell: one for each of its lives.
    pub log_id: Option<String>,
}

impl AuditConfig {
    /// What is older is not kept.
    pub fn oldest(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        now - TimeDelta::days(self.retention_days.into())
    }
}

/// What is not written as it was asked.
#[derive(Debug, Clone)]
pub struct PrivacyConfig {
    pub drop_attributes: Vec<String>,
    pub hash_attributes: Vec<String>,
    pub hash_user_ids: bool,
    /// There is one wherever something is hashed.
    pub hash_key: Option<Secret>,
}

impl PrivacyConfig {
    /// Whether anything that is asked is written otherwise than it came.
    pub fn hides_anything(&self) -> bool {
        self.hash_user_ids || !(self.drop_attributes.is_empty() && self.hash_attributes.is_empty())
    }
}

#[derive(Debug, Clone)]
pub struct RedisConfig {
    pub url: Option<Secret>,
    pub cache_ttl: Duration,
    /// Without a Redis: the edge API's values are kept in this process. Only in `dev`.
    pub edge_in_memory: bool,
}

#[derive(Debug, Clone)]
pub struct AuthConfig {
    /// What callers without a token may do.
    pub anonymous_scopes: Vec<Scope>,
    /// Nobody has decided on them: they are what stands where nothing is set.
    pub anonymous_by_default: bool,
    pub bootstrap_token: Option<Secret>,
    /// How long tokens that are known count while the database cannot be asked.
    pub tokens_max_age: Duration,
    /// Of one token, in one instance; `None`: as many as there are.
    pub token_calls_per_second: Option<NonZeroU32>,
    /// The same of one address without a token.
    pub anonymous_calls_per_second: Option<NonZeroU32>,
    /// Answers that one address without a token gets in a second; `None`: as many as it asks for.
    pub anonymous_answers_per_second: Option<NonZeroU32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Evaluate,
    Read,
    /// Whom flags were evaluated for: user ids and contexts, which `Read` alone does not show.
    Audit,
    Write,
    Delete,
    Admin,
}

impl Scope {
    pub const NAMES: &[(&str, Self)] = &[
        ("evaluate", Self::Evaluate),
        ("read", Self::Read),
        ("audit", Self::Audit),
        ("write", Self::Write),
        ("delete", Self::Delete),
        ("admin", Self::Admin),
    ];

    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| *name)
    }

    pub fn of_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, scope)| *scope)
    }
}

/// A duration as settings are written (`90d`); the error says what was expected.
pub fn lifetime(text: &str, range: std::ops::RangeInclusive<Duration>) -> Result<Duration, String> {
    parse::duration(text, range)
}

/// An environment's name as settings take it; the error says what was expected.
pub fn environment_name(text: &str) -> Result<String, String> {
    parse::environment(text)
}

#[derive(Debug, Clone)]
pub struct ApiConfig {
    pub durability: Durability,
    /// What the spool on disk may take.
    pub spool_max_bytes: u64,
    /// Origins of browsers that may call; none: no CORS.
    pub cors_origins: Vec<String>,
}

/// What an HTTP answer waits for before it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    Spool,
    Memory,
    Sync,
}
