//! Builds the validated configuration from values, one function per section.
//!
//! Each function reads all its values before it fails, so that one start reports all problems.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use crate::kafka::properties::{self, Invalid};

use super::values::{Origin, Values};
use super::{
    ApiConfig, AuditConfig, AuthConfig, Config, ConsoleConfig, DatabaseConfig, DeliveryConfig, DeliveryMode,
    Durability, EvaluationConfig, ExperimentsConfig, FeedConfig, FlagsConfig, GroupProtocol, HealthConfig,
    HttpConfig, KafkaConfig, LogConfig, LogFormat, MetricsConfig, PrivacyConfig, ReadPath, RedisConfig,
    Scope, Secret, TlsConfig, attributes, formats, parse, taps, topics, unleash, unleash_api,
};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn config(values: &mut Values) -> Option<Config> {
    let http = http(values);
    let instance = instance(values, http.as_ref());
    let state_dir = values.required("state_dir", parse::text);
    let kafka = kafka(values, instance.as_deref());
    let topics = topics::config(values);
    let unleash = unleash::config(values, instance.as_deref());
    let unleash_api = unleash_api::config(values);
    let delivery = delivery(values);
    let reply = topics::reply(values, topics.as_ref());
    let evaluation = evaluation(values);
    let log = log(values);
    let formats = formats::config(values);
    let events = formats::events(values);
    let (database, audit, redis) = (database(values), audit(values), redis(values));
    let experiments = experiments(values);
    let flags = flags(values);
    let feed = feed(values);
    let privacy = privacy(values);
    let attributes = attributes::config(values, topics.as_ref());
    let (auth, api, console) = (auth(values), api(values), console(values));
    let (health, metrics) = (health(values), metrics(values));
    let taps = taps::config(values, topics.as_ref());
    let (formats, schema_registry) = formats?;
    let instance = instance?;
    Some(Config {
        state_dir: PathBuf::from(state_dir?).join(&instance),
        instance,
        kafka: kafka?,
        topics: topics?,
        unleash: unleash?,
        unleash_api: unleash_api?,
        delivery: delivery?,
        reply: reply?,
        evaluation: evaluation?,
        http: http?,
        log: log?,
        database: database?,
        audit: audit?,
        experiments: experiments?,
        flags: flags?,
        feed: feed?,
        privacy: privacy?,
        attributes: attributes?,
        redis: redis?,
        auth: auth?,
        api: api?,
        console: console?,
        formats,
        events: events?,
        schema_registry,
        health: health?,
        metrics: metrics?,
        taps: taps?,
    })
}

fn http(values: &mut Values) -> Option<HttpConfig> {
    let listen = values.required("http.listen", parse::address);
    let admin_listen = values.optional("http.admin_listen", parse::address);
    let certificate = values.optional("http.tls_certificate", parse::text);
    let key = values.optional("http.tls_key", parse::text);
    let of_streams = |text: &str| parse::number(text, 1..=100_000);
    let connections = values.required("http.connections_per_address", of_streams);
    let listeners = values.required("http.listeners", of_streams);
    let listeners_per_address = values.required("http.listeners_per_address", of_streams);
    let hosts = values.list("http.allowed_hosts", parse::host);
    let drain_delay =
        values.required("http.drain_delay", |text| parse::duration(text, Duration::ZERO..=300 * SECOND));
    let (listen, admin_listen) = (listen?, admin_listen?);
    let tls = match (certificate?, key?) {
        (Some(certificate), Some(key)) => {
            Some(TlsConfig { certificate: certificate.into(), key: key.into() })
        }
        (None, None) => None,
        (Some(_), None) => {
            return values
                .refuse("http.tls_key", "must be set together with FLAGSTREAM_HTTP__TLS_CERTIFICATE");
        }
        (None, Some(_)) => {
            return values
                .refuse("http.tls_certificate", "must be set together with FLAGSTREAM_HTTP__TLS_KEY");
        }
    };
    if admin_listen == Some(listen) && listen.port() != 0 {
        return values.refuse("http.admin_listen", "must differ from FLAGSTREAM_HTTP__LISTEN");
    }
    Some(HttpConfig {
        listen,
        admin_listen,
        tls,
        connections_per_address: connections?,
        listeners: listeners?,
        listeners_per_address: listeners_per_address?,
        allowed_hosts: hosts.map(|hosts| (!hosts.iter().any(|host| host == "*")).then_some(hosts))?,
        drain_delay: drain_delay?,
    })
}

fn instance(values: &mut Values, http: Option<&HttpConfig>) -> Option<String> {
    if let Some(instance) = values.optional("instance", parse::instance)? {
        return Some(instance);
    }
    let port = http?.listen.port();
    if port == 0 {
        return values.refuse("instance", "must be set if the system chooses the HTTP port (port 0)");
    }
    let host = gethostname::gethostname().to_string_lossy().replace(|c| !parse::is_plain(c), "-");
    let host: String = host.trim_start_matches('.').chars().take(90).collect();
    let instance = format!("{}-{port}", if host.is_empty() { "localhost" } else { &host });
    values.computed("instance", &instance);
    Some(instance)
}

fn kafka(values: &mut Values, instance: Option<&str>) -> Option<KafkaConfig> {
    let bootstrap_servers = values.required("kafka.bootstrap_servers", parse::servers);
    let group_id = values.required("kafka.group_id", parse::group);
    let protocols = [("classic", GroupProtocol::Classic), ("consumer", GroupProtocol::Consumer)];
    let group_protocol = values.required("kafka.group_protocol", |text| parse::word(text, &protocols));
    let client = client_properties(values);
    Some(KafkaConfig {
        bootstrap_servers: bootstrap_servers?,
        group_id: group_id?,
        instance: instance?.to_owned(),
        group_protocol: group_protocol?,
        client: client?,
    })
}

fn client_properties(values: &mut Values) -> Option<BTreeMap<String, Secret>> {
    let set = values.client.iter().map(|(property, value)| (property.clone(), value.raw.text()));
    let problems = match properties::checked(set) {
        Ok(properties) => return Some(properties),
        Err(problems) => problems,
    };
    for Invalid { property, problem } in problems {
        let origin = property.and_then(|property| values.client.get(&property)).map(|value| &value.origin);
        let text = match origin {
            Some(Origin::Environment(variable)) => format!("{variable}: {problem}"),
            Some(origin) => format!("{origin}: kafka.client: {problem}"),
            None => format!("kafka.client: {problem}"),
        };
        values.problem(text);
    }
    None
}

fn delivery(values: &mut Values) -> Option<DeliveryConfig> {
    let modes =
        [("transactional", DeliveryMode::Transactional), ("at_least_once", DeliveryMode::AtLeastOnce)];
    let mode = values.required("delivery.mode", |text| parse::word(text, &modes));
    let workers = workers(values);
    let batch_max = values
        .required("delivery.batch_max", |text| parse::duration(text, Duration::from_millis(1)..=5 * SECOND));
    let target_latency = values.optional("delivery.target_latency", |text| {
        parse::duration(text, Duration::from_millis(5)..=60 * SECOND)
    })?;
    let messages = values.required("delivery.batch_max_messages", |text| parse::number(text, 1..=1_000_000));
    let bytes = values.required("delivery.batch_max_bytes", |text| parse::bytes(text, 64 << 10..=256 << 20));
    let session =
        values.required("delivery.session_timeout", |text| parse::duration(text, SECOND..=1_800 * SECOND));
    let transaction =
        values.required("delivery.transaction_timeout", |text| parse::duration(text, SECOND..=900 * SECOND));
    let (batch_max, transaction_timeout) = (batch_max?, transaction?);
    if transaction_timeout <= batch_max {
        return values
            .refuse("delivery.transaction_timeout", "must be longer than FLAGSTREAM_DELIVERY__BATCH_MAX");
    }
    Some(DeliveryConfig {
        mode: mode?,
        workers: workers?,
        batch_max,
        target_latency,
        batch_max_messages: messages?,
        batch_max_bytes: bytes?,
        session_timeout: session?,
        transaction_timeout,
    })
}

fn workers(values: &mut Values) -> Option<usize> {
    if let Some(workers) = values.optional("delivery.workers", |text| parse::number(text, 1..=64))? {
        return Some(workers);
    }
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(2);
    values.computed("delivery.workers", workers.to_string());
    Some(workers)
}

fn evaluation(values: &mut Values) -> Option<EvaluationConfig> {
    let words = [("store_first", ReadPath::StoreFirst), ("redis_first", ReadPath::RedisFirst)];
    let read_path = values.required("evaluation.read_path", |text| parse::word(text, &words));
    Some(EvaluationConfig { read_path: read_path? })
}

fn log(values: &mut Values) -> Option<LogConfig> {
    let filter = values.required("log.filter", parse::log_filter);
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let format = values.required("log.format", |text| parse::word(text, &formats));
    Some(LogConfig { filter: filter?, format: format? })
}

fn health(values: &mut Values) -> Option<HealthConfig> {
    let stuck_after =
        values.required("health.stuck_after", |text| parse::duration(text, SECOND..=3_600 * SECOND));
    let stuck_not_ready = values.required("health.stuck_not_ready", parse::flag);
    Some(HealthConfig { stuck_after: stuck_after?, stuck_not_ready: stuck_not_ready? })
}

fn metrics(values: &mut Values) -> Option<MetricsConfig> {
    Some(MetricsConfig { flags: values.list("metrics.flags", parse::text)? })
}

fn database(values: &mut Values) -> Option<DatabaseConfig> {
    let schemes = ["postgres", "postgresql", "sqlite"];
    let url = values.optional("database.url", |text| parse::url(text, &schemes));
    let migrate = values.required("database.migrate", parse::flag);
    Some(DatabaseConfig { url: url?.map(Secret::new), migrate: migrate? })
}

fn experiments(values: &mut Values) -> Option<ExperimentsConfig> {
    let clock_skew = values
        .required("experiments.clock_skew", |text| parse::duration(text, Duration::ZERO..=3_600 * SECOND));
    let exposure_events = values.required("experiments.exposure_events", parse::flag);
    Some(ExperimentsConfig { clock_skew: clock_skew?, exposure_events: exposure_events? })
}

fn audit(values: &mut Values) -> Option<AuditConfig> {
    let days = values.required("audit.retention_days", |text| parse::number(text, 1..=36_500));
    let batch_max = values
        .required("audit.batch_max", |text| parse::duration(text, Duration::from_millis(1)..=10 * SECOND));
    let rows = values.required("audit.batch_max_rows", |text| parse::number(text, 1..=1_000_000));
    let bytes = values.required("audit.batch_max_bytes", |text| parse::bytes(text, 64 << 10..=256 << 20));
    let key = values.optional("audit.chain_key", |text| match parse::text(text)? {
        key if key.len() < 16 => Err("expected at least 16 bytes".into()),
        key => Ok(Secret::new(key)),
    });
    let interval =
        values.required("audit.checkpoint_interval", |text| parse::duration(text, SECOND..=86_400 * SECOND));
    Some(AuditConfig {
        chain_key: key?,
        checkpoint_interval: interval?,
        retention_days: days?,
        batch_max: batch_max?,
        batch_max_rows: rows?,
        batch_max_bytes: bytes?,
        log_id: None,
    })
}

fn feed(values: &mut Values) -> Option<FeedConfig> {
    let start_without_source = values.required("feed.start_without_source", parse::flag);
    Some(FeedConfig { start_without_source: start_without_source? })
}

fn flags(values: &mut Values) -> Option<FlagsConfig> {
    let cleanup_after_days =
        values.optional("flags.cleanup_after_days", |text| parse::number(text, 1..=36_500));
    Some(FlagsConfig { cleanup_after_days: cleanup_after_days? })
}

fn privacy(values: &mut Values) -> Option<PrivacyConfig> {
    let drop = values.list("privacy.drop_attributes", attribute);
    let hash = values.list("privacy.hash_attributes", attribute);
    let users =
        values.required("privacy.user_ids", |text| parse::word(text, &[("keep", false), ("hash", true)]));
    let key = values.optional("privacy.hash_key", |text| match parse::text(text)? {
        key if key.len() < 16 => Err("expected at least 16 bytes".into()),
        key => Ok(Secret::new(key)),
    });
    let (hash_attributes, hash_user_ids, hash_key) = (hash?, users?, key?);
    if hash_key.is_none() && (hash_user_ids || !hash_attributes.is_empty()) {
        return values.refuse("privacy.hash_key", "must be set if user ids or attributes are hashed");
    }
    Some(PrivacyConfig { drop_attributes: drop?, hash_attributes, hash_user_ids, hash_key })
}

/// The name of a context attribute. User ids are rejected, because they have a separate setting.
fn attribute(text: &str) -> parse::Parsed<String> {
    match parse::text(text)? {
        name if name == "userId" || name == "user_id" => {
            Err("user ids cannot be listed here; use FLAGSTREAM_PRIVACY__USER_IDS".into())
        }
        name => Ok(name),
    }
}

fn redis(values: &mut Values) -> Option<RedisConfig> {
    let url = values.optional("redis.url", |text| parse::url(text, &["redis", "rediss"]));
    let cache_ttl = values.required("redis.cache_ttl", |text| parse::duration(text, SECOND..=365 * DAY));
    Some(RedisConfig { url: url?.map(Secret::new), cache_ttl: cache_ttl?, edge_in_memory: false })
}

fn auth(values: &mut Values) -> Option<AuthConfig> {
    let scopes = values.list("auth.anonymous_scopes", |text| parse::word(text, Scope::NAMES));
    let token = values.optional("auth.bootstrap_token", |text| match parse::token(text)? {
        token if token.len() < 16 => Err("expected at least 16 characters".into()),
        token => Ok(token),
    });
    let max_age = values
        .required("auth.tokens_max_age", |text| parse::duration(text, Duration::from_secs(10)..=365 * DAY));
    let rate = |text: &str| {
        parse::number(text, NonZeroU32::MIN..=NonZeroU32::new(1_000_000).unwrap_or(NonZeroU32::MAX))
    };
    let token_rate = values.optional("auth.token_calls_per_second", rate);
    let anonymous_rate = values.optional("auth.anonymous_calls_per_second", rate);
    let answers = values.required("auth.anonymous_answers_per_second", |text| match text.trim() {
        "none" => Ok(None),
        text => rate(text).map(Some),
    });
    let user_header = values.optional("auth.user_header", parse::header);
    let trusted_proxies = values.list("auth.trusted_proxies", parse::network);
    let (user_header, trusted_proxies) = (user_header?, trusted_proxies?);
    if user_header.is_some() && trusted_proxies.is_empty() {
        return values.refuse(
            "auth.trusted_proxies",
            "must be set together with FLAGSTREAM_AUTH__USER_HEADER, because every client can send that header",
        );
    }
    Some(AuthConfig {
        user_header,
        trusted_proxies,
        anonymous_scopes: scopes?,
        anonymous_by_default: !values.is_set("auth.anonymous_scopes"),
        bootstrap_token: token?.map(Secret::new),
        tokens_max_age: max_age?,
        token_calls_per_second: token_rate?,
        anonymous_calls_per_second: anonymous_rate?,
        anonymous_answers_per_second: answers?,
    })
}

fn api(values: &mut Values) -> Option<ApiConfig> {
    let words = [("spool", Durability::Spool), ("memory", Durability::Memory), ("sync", Durability::Sync)];
    let durability = values.required("api.durability", |text| parse::word(text, &words));
    let spool_max_bytes =
        values.required("api.spool_max_bytes", |text| parse::bytes(text, 1 << 20..=1 << 40));
    let origins = values.list("api.cors_origins", parse::origin);
    Some(ApiConfig {
        durability: durability?,
        spool_max_bytes: spool_max_bytes? as u64,
        cors_origins: origins?,
    })
}

fn console(values: &mut Values) -> Option<ConsoleConfig> {
    let enabled = values.required("console.enabled", parse::flag);
    let directory = values.optional("console.directory", parse::text);
    Some(ConsoleConfig { enabled: enabled?, directory: directory?.map(PathBuf::from) })
}
