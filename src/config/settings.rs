//! The table of all settings. It is the basis of loading, `config show` and the table in docs/operations.md.

use Fallback::{Computed, Text, Unset};

/// The value of a setting that is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fallback {
    /// This text, parsed like a set value.
    Text(&'static str),
    /// No value; the text explains the effect.
    Unset(&'static str),
    /// A value that depends on the machine or on other settings; the text explains how.
    Computed(&'static str),
}

/// Display of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mask {
    Open,
    Secret,
    /// A URL whose password is masked.
    Url,
    /// A group of values that are masked individually.
    Group,
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting {
    /// The environment variable; a prefix for a group, or empty if only the file can contain the setting.
    pub variable: &'static str,
    /// The path in `flagstream.toml`.
    pub path: &'static str,
    pub default: Fallback,
    /// The default in `flagstream dev`, if it differs.
    pub dev_default: Option<&'static str>,
    pub mask: Mask,
    /// Meaning and accepted values, in Markdown.
    pub doc: &'static str,
}

impl Setting {
    const fn new(variable: &'static str, path: &'static str, default: Fallback, doc: &'static str) -> Self {
        Self { variable, path, default, dev_default: None, mask: Mask::Open, doc }
    }

    const fn dev(self, default: &'static str) -> Self {
        Self { dev_default: Some(default), ..self }
    }

    const fn mask(self, mask: Mask) -> Self {
        Self { mask, ..self }
    }

    /// The name shown to operators: the variable, or the path if there is no variable.
    pub(super) fn name(&self) -> &'static str {
        if self.variable.is_empty() { self.path } else { self.variable }
    }

    /// The setting's row in the documentation.
    pub(super) fn markdown_row(&self) -> String {
        let variable = match self.mask {
            Mask::Group if self.variable.is_empty() => "–".to_owned(),
            Mask::Group => format!("`{}<NAME>`", self.variable),
            _ => format!("`{}`", self.variable),
        };
        let default = match self.default {
            Text(text) => format!("`{text}`"),
            Unset(meaning) => format!("– ({meaning})"),
            Computed(rule) => rule.to_owned(),
        };
        let dev = self.dev_default.map(|text| format!(" (`dev`: `{text}`)")).unwrap_or_default();
        format!("| {variable} | `{}` | {default}{dev} | {} |", self.path, self.doc)
    }
}

/// The setting with this path in the file.
pub(super) fn at(path: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.path == path)
}

/// The setting of an environment variable; a group is found by its prefix.
pub(super) fn of_variable(variable: &str) -> Option<&'static Setting> {
    let single = SETTINGS.iter().find(|s| s.mask != Mask::Group && s.variable == variable);
    single.or_else(|| {
        SETTINGS
            .iter()
            .find(|s| s.mask == Mask::Group && !s.variable.is_empty() && variable.starts_with(s.variable))
    })
}

/// The table of settings in the documentation.
pub fn markdown() -> String {
    let mut table = "| variable | in `flagstream.toml` | default | meaning |\n|---|---|---|---|\n".to_owned();
    for setting in SETTINGS {
        table.push_str(&setting.markdown_row());
        table.push('\n');
    }
    table
}

const fn s(variable: &'static str, path: &'static str, default: Fallback, doc: &'static str) -> Setting {
    Setting::new(variable, path, default, doc)
}

/// All settings, in the order of the documentation.
#[rustfmt::skip]
pub(super) static SETTINGS: &[Setting] = &[
    s("FLAGSTREAM_INSTANCE", "instance", Computed("`{host name}-{HTTP port}`"),
      "Name of this process. It must stay the same over restarts and be unique in the group; it is part of file names and transactional ids. Up to 100 characters of `A-Z a-z 0-9 . _ -`."),
    s("FLAGSTREAM_STATE_DIR", "state_dir", Text("./.flagstream"),
      "Folder for snapshots, schemas and unsent events; each instance has its own folder inside."),

    s("KAFKA_BOOTSTRAP_SERVERS", "kafka.bootstrap_servers", Text("localhost:9092"),
      "`host:port`, several with commas."),
    s("FLAGSTREAM_KAFKA__GROUP_ID", "kafka.group_id", Text("flagstream"),
      "Consumer group; each role adds its own suffix."),
    s("FLAGSTREAM_KAFKA__GROUP_PROTOCOL", "kafka.group_protocol", Text("classic"),
      "`classic`, or `consumer`: the brokers assign partitions (KIP-848, Kafka 4.0 or later), and the session timeout is a setting of the broker or of the group."),
    s("FLAGSTREAM_KAFKA__CLIENT__", "kafka.client", Unset("none"),
      "Any librdkafka property, for SASL and TLS: `SECURITY_PROTOCOL` is `security.protocol`. Properties that flagstream's guarantees depend on are rejected.").mask(Mask::Group),

    s("FLAGSTREAM_TOPICS__REQUESTS", "topics.requests", Text("feature-flag-evaluation-requests"),
      "Topic of evaluation requests."),
    s("FEATURE_FLAG_KAFKA_TOPIC", "topics.events", Text("feature-flag-events"),
      "Topic of results and change events."),
    s("FLAGSTREAM_TOPICS__CHANGES", "topics.changes", Text("feature-flag-changes"),
      "Topic of hints that a flag has changed."),
    s("FLAGSTREAM_TOPICS__DEFINITIONS", "topics.definitions", Text("feature-flag-definitions"),
      "Topic of flag definitions (compacted)."),
    s("FLAGSTREAM_TOPICS__UPDATES", "topics.updates", Text("feature-flag-updates"),
      "Topic of invalidations."),
    s("FLAGSTREAM_TOPICS__DEAD_LETTERS", "topics.dead_letters", Text("feature-flag-dead-letters"),
      "Topic of rejected records."),
    s("FLAGSTREAM_TOPICS__CONVERSIONS", "topics.conversions", Text("feature-flag-conversions"),
      "Topic of conversions."),
    s("FLAGSTREAM_TOPICS__EXPOSURES", "topics.exposures", Text("feature-flag-exposures"),
      "Topic of the exposures of experiments."),
    s("FLAGSTREAM_TOPICS__OVERRIDES", "topics.overrides", Text("feature-flag-overrides"),
      "Topic of kill switches (compacted)."),
    s("FLAGSTREAM_TOPICS__AUDIT_CHECKPOINTS", "topics.audit_checkpoints", Text("feature-flag-audit-checkpoints"),
      "Topic of checkpoints of the audit trail's hash chains; its records never expire."),
    s("FLAGSTREAM_TOPICS__INSTANCES", "topics.instances", Text("feature-flag-instances"),
      "Topic of the reports of running instances (compacted)."),
    s("FLAGSTREAM_TOPICS__CLIENT_METRICS", "topics.client_metrics", Text("feature-flag-client-metrics"),
      "Topic of what Unleash's SDKs report about evaluations."),
    s("FLAGSTREAM_TOPICS__ATTRIBUTES", "topics.attributes", Text("feature-flag-attributes"),
      "Topic of attributes by user id (compacted). Needed with `FLAGSTREAM_ATTRIBUTES__ENABLED`."),
    s("FLAGSTREAM_TOPICS__PARTITIONS", "topics.partitions", Text("12"),
      "Partitions of the requests, events, dead-letter, conversions, exposures, client metrics and attributes topics, when `topics apply` creates them."),
    s("FLAGSTREAM_TOPICS__REPLICATION", "topics.replication", Unset("the broker's default"),
      "Replication factor of topics that `topics apply` creates."),
    s("FLAGSTREAM_TOPICS__RETENTION", "topics.retention", Text("7d"),
      "How long records are kept (the definitions topic keeps the last record of each flag without limit)."),
    s("FLAGSTREAM_TOPICS__DEAD_LETTERS_RETENTION", "topics.dead_letters_retention", Text("30d"),
      "How long dead letters are kept."),

    s("", "taps", Unset("none"),
      "Topics whose records get flags: `[[taps]]` entries, described in [guides/taps.md](guides/taps.md#settings).").mask(Mask::Group),

    s("UNLEASH_URL", "unleash.url", Unset("no Unleash: the definitions topic only"),
      "Base URL, with or without `/api`.").mask(Mask::Url),
    s("UNLEASH_API_TOKEN", "unleash.api_token", Unset("then `[[unleash.environments]]` is needed with a URL"),
      "Client token of `UNLEASH_ENVIRONMENT`.").mask(Mask::Secret),
    s("UNLEASH_ADMIN_TOKEN", "unleash.admin_token", Unset("the Admin API is not read"),
      "Admin token with which `sync` and `doctor` compare what is served with the Admin API.").mask(Mask::Secret),
    s("UNLEASH_APP_NAME", "unleash.app_name", Text("flagstream"), "Application name that flagstream reports to Unleash."),
    s("UNLEASH_INSTANCE_ID", "unleash.instance_id", Computed("the instance"), "Instance id that flagstream reports to Unleash."),
    s("UNLEASH_ENVIRONMENT", "unleash.environment", Text("development"),
      "Environment of `UNLEASH_API_TOKEN`, and of calls that name no environment."),
    s("", "unleash.environments", Unset("none"),
      "Additional environments: `[[unleash.environments]]` entries with `name` and `token`.").mask(Mask::Group),
    s("UNLEASH_REFRESH_INTERVAL", "unleash.refresh_interval", Text("15s"), "Time between two polls; from `100ms`."),
    s("UNLEASH_METRICS_INTERVAL", "unleash.metrics_interval", Text("60s"), "Time between two metrics reports to Unleash; from `1s`."),
    s("UNLEASH_DISABLE_METRICS", "unleash.disable_metrics", Text("false"), "`true`: no metrics are reported to Unleash."),
    s("FLAGSTREAM_UNLEASH__CA_CERTIFICATE", "unleash.ca_certificate", Unset("the system's"),
      "File of certificates (PEM) that are trusted for Unleash in addition to the system's."),
    s("FLAGSTREAM_FEED__START_WITHOUT_SOURCE", "feed.start_without_source", Text("false"),
      "`true`: become ready with the flags in the definitions topic, even if Unleash (or another source of flags) was never read completely. Flags that are missing in the topic are then answered with `FLAG_NOT_FOUND`."),
    s("FLAGSTREAM_UNLEASH__WEBHOOK_SECRET", "unleash.webhook_secret", Unset("the webhook route is off"),
      "Secret that Unleash sends in the header `Authorization` of its webhook, from 16 characters.").mask(Mask::Secret),

    s("FLAGSTREAM_DELIVERY__MODE", "delivery.mode", Text("transactional"),
      "`transactional` (exactly once) or `at_least_once` (lowest latency)."),
    s("FLAGSTREAM_DELIVERY__WORKERS", "delivery.workers", Computed("the cores, at most 2"),
      "Request workers of this process, each with its own consumer and producer; 1 to 64."),
    s("FLAGSTREAM_DELIVERY__BATCH_MAX", "delivery.batch_max", Text("200ms"),
      "Longest time a batch stays open under load; `1ms` to `5s`."),
    s("FLAGSTREAM_DELIVERY__TARGET_LATENCY", "delivery.target_latency", Unset("batches are as short as the cost of commits allows"),
      "Time from the arrival of a request to the commit of its results that batches are made for; `5ms` to `60s`. Without a backlog, batches stay open as long as it allows, up to `FLAGSTREAM_DELIVERY__BATCH_MAX`: longer batches need less work."),
    s("FLAGSTREAM_DELIVERY__BATCH_MAX_MESSAGES", "delivery.batch_max_messages", Text("100000"),
      "Most requests in a batch; 1 to 1000000."),
    s("FLAGSTREAM_DELIVERY__BATCH_MAX_BYTES", "delivery.batch_max_bytes", Text("32MiB"),
      "Most bytes of results in a batch; `64KiB` to `256MiB`."),
    s("FLAGSTREAM_DELIVERY__SESSION_TIMEOUT", "delivery.session_timeout", Text("6s"),
      "Time after which a dead member's partitions are assigned to others; `1s` to `30m` (by default the broker allows `6s` or more)."),
    s("FLAGSTREAM_DELIVERY__TRANSACTION_TIMEOUT", "delivery.transaction_timeout", Text("5s"),
      "Time after which the broker may abort the transaction of a dead member. Brokers check every 10 s by default, so it happens up to 10 s later. `1s` to `15m`, longer than `batch_max`."),
    s("FLAGSTREAM_REPLY__ALLOWED_PREFIXES", "reply.allowed_prefixes", Text("feature-flag-replies"),
      "Prefixes of topics that a request may name in `reply-to`, except flagstream's own topics; several with commas, `none` for no replies."),
    s("FLAGSTREAM_EVALUATION__READ_PATH", "evaluation.read_path", Text("store_first"),
      "Source of evaluations over HTTP: `store_first` (memory; Redis while the flags are not loaded) or `redis_first`."),

    s("FLAGSTREAM_HTTP__LISTEN", "http.listen", Text("0.0.0.0:8082"), "Address of the HTTP listener.").dev("127.0.0.1:8082"),
    s("FLAGSTREAM_HTTP__ADMIN_LISTEN", "http.admin_listen", Unset("`FLAGSTREAM_HTTP__LISTEN`"),
      "Address of a separate listener for metrics; health is then served on both listeners."),
    s("FLAGSTREAM_HTTP__CONNECTIONS_PER_ADDRESS", "http.connections_per_address", Text("5000"),
      "Most open connections of one address (of IPv6: /64) to each listener, of `FLAGSTREAM_HTTP__LISTENERS` and 2,500 in all; 1 to 100000. Loopback addresses have no limit of this kind, so that a sidecar proxy may use all. Behind a proxy all connections have the proxy's address."),
    s("FLAGSTREAM_HTTP__LISTENERS", "http.listeners", Text("10000"),
      "Most open streams (of changes, and of definitions for SDKs); 1 to 100000. Each takes about 30 KiB of memory and one file descriptor. Each HTTP listener accepts 2,500 connections more."),
    s("FLAGSTREAM_HTTP__LISTENERS_PER_ADDRESS", "http.listeners_per_address", Text("4000"),
      "Most open streams of one address (of IPv6: /64), of `FLAGSTREAM_HTTP__LISTENERS` in all; 1 to 100000. Loopback addresses have no limit of this kind."),
    s("FLAGSTREAM_HTTP__ALLOWED_HOSTS", "http.allowed_hosts", Text("*"),
      "Host names that callers may use to reach this service, several with commas; `*` for any. Numeric addresses are always allowed. This rejects calls from web pages that rebind a DNS name to this machine.").dev("localhost"),
    s("FLAGSTREAM_HTTP__DRAIN_DELAY", "http.drain_delay", Text("0s"),
      "How long calls are still accepted during a stop after `/health/ready` begins to answer 503, so that load balancers can react; up to `5m`."),
    s("FLAGSTREAM_HTTP__TLS_CERTIFICATE", "http.tls_certificate", Unset("no TLS"),
      "File of the HTTP listener's certificate (PEM, with its intermediate certificates)."),
    s("FLAGSTREAM_HTTP__TLS_KEY", "http.tls_key", Unset("no TLS"), "File of its private key (PEM)."),
    s("FLAGSTREAM_HEALTH__STUCK_AFTER", "health.stuck_after", Text("30s"),
      "Time without progress after which a partition with waiting records is reported as stuck; `1s` to `1h`."),
    s("FLAGSTREAM_HEALTH__STUCK_NOT_READY", "health.stuck_not_ready", Text("false"),
      "`true`: the process is not ready while one of its partitions is stuck."),
    s("FLAGSTREAM_METRICS__FLAGS", "metrics.flags", Text("none"),
      "Flags whose evaluations are counted by flag in `flagstream_flag_evaluations_total`, several with commas; `checkout-*` stands for all names with this beginning, `*` for all flags. At most 1,000 flags get series of their own."),
    s("FLAGSTREAM_LOG", "log.filter", Text("info"), "What is logged: a level, or `target=level` directives with commas."),
    s("FLAGSTREAM_LOG_FORMAT", "log.format", Text("text"), "`text` or `json`."),

    s("FLAGSTREAM_FORMAT__REQUESTS", "format.requests", Text("json"), "How requests are read: `json`, `avro`, or `auto` (either, record by record)."),
    s("FLAGSTREAM_FORMAT__EVENTS", "format.events", Text("json"), "How results and change events are written: `json` or `avro`. They are read in either."),
    s("FLAGSTREAM_FORMAT__UPDATES", "format.updates", Text("json"), "How invalidations are written: `json` or `avro`. They are read in either."),
    s("FLAGSTREAM_FORMAT__CHANGES", "format.changes", Text("json"), "How hints are read: `json`, `avro`, or `auto`. flagstream writes its own hints in Avro with `avro`, else in JSON."),
    s("FLAGSTREAM_FORMAT__CONVERSIONS", "format.conversions", Text("json"), "How conversions are read: `json`, `avro`, or `auto`. Those reported over HTTP are written in Avro with `avro`, else in JSON."),
    s("FLAGSTREAM_FORMAT__ATTRIBUTES", "format.attributes", Text("json"), "How rows of attributes are read: `json`, `avro` (records of any schema), or `auto`. With `avro`, rows are not written over HTTP."),
    s("FLAGSTREAM_FORMAT__REPLIES", "format.replies", Text("json"), "How replies are written: `json` or `avro`."),
    s("FLAGSTREAM_EVENTS__NULLS", "events.nulls", Text("write"), "Members of JSON events without a value: `write` (as `null`) or `omit`. Readers take an absent member for null."),
    s("FLAGSTREAM_EVENTS__BULK", "events.bulk", Text("each"), "Events of a request or call with several flags: `each` (one per flag) or `together` (one per context, with all results)."),
    s("FLAGSTREAM_FORMAT__SUBJECTS", "format.subjects", Text("topic"), "Under which subject a schema is registered: `topic` (`{topic}-value`), `record` (the record's full name), or `topic_record` (both)."),
    s("SCHEMA_REGISTRY_URL", "schema_registry.url", Unset("no registry"),
      "Schema registry of Avro messages (Confluent's API), with user and password if it requires them; several addresses with commas, of which one that answers is used.").mask(Mask::Url),
    s("FLAGSTREAM_SCHEMA_REGISTRY__AUTO_REGISTER", "schema_registry.auto_register", Text("true"),
      "`false`: schemas are looked up only; `flagstream schemas register` registers them."),
    s("FLAGSTREAM_SCHEMA_REGISTRY__CA_CERTIFICATE", "schema_registry.ca_certificate", Unset("the system's"),
      "File of certificates (PEM) that are trusted in addition to the system's."),

    s("DATABASE_URL", "database.url", Unset("no database"), "`postgres://…`, `sqlite:FILE` or `sqlite::memory:`.").mask(Mask::Url),
    s("FLAGSTREAM_DATABASE__MIGRATE", "database.migrate", Text("true"), "Whether `run` brings the database up to date."),
    s("FLAGSTREAM_AUDIT__RETENTION_DAYS", "audit.retention_days", Text("90"), "Days that evaluations are kept; 1 to 36500."),
    s("FLAGSTREAM_AUDIT__BATCH_MAX", "audit.batch_max", Text("100ms"), "Longest time that a batch of evaluations stays open before it is written; `1ms` to `10s`."),
    s("FLAGSTREAM_AUDIT__BATCH_MAX_ROWS", "audit.batch_max_rows", Text("20000"), "Most rows in a batch; 1 to 1000000."),
    s("FLAGSTREAM_AUDIT__BATCH_MAX_BYTES", "audit.batch_max_bytes", Text("16MiB"), "Size of a batch in memory at which it is full; `64KiB` to `256MiB`. There are two batches: one is written while the other fills."),
    s("FLAGSTREAM_AUDIT__CHAIN_KEY", "audit.chain_key", Unset("digests without a key, checkpoints without a signature"),
      "Key of the audit trail's hash chains and of the signatures of its checkpoints, from 16 bytes. All instances need the same key, and it must never change.").mask(Mask::Secret),
    s("FLAGSTREAM_AUDIT__CHECKPOINT_INTERVAL", "audit.checkpoint_interval", Text("5m"), "Time between two checkpoints of the hash chains; `1s` to `1d`."),
    s("FLAGSTREAM_FLAGS__CLEANUP_AFTER_DAYS", "flags.cleanup_after_days", Unset("never"),
      "Local flags that have been archived for this many days are removed every night, at three o'clock UTC; 1 to 36500."),
    s("FLAGSTREAM_EXPERIMENTS__CLOCK_SKEW", "experiments.clock_skew", Text("5m"), "Tolerated difference between the clocks of evaluators and of services that report conversions, in both directions; 0s to 1h. A conversion this much before its exposure counts as after it."),
    s("FLAGSTREAM_EXPERIMENTS__EXPOSURE_EVENTS", "experiments.exposure_events", Text("true"), "Whether each exposure of an experiment becomes an event in the topic of exposures."),
    s("FLAGSTREAM_PRIVACY__DROP_ATTRIBUTES", "privacy.drop_attributes", Unset("none"), "Attributes of the context (and `session_id`) that are left out of everything that is written; several with commas."),
    s("FLAGSTREAM_PRIVACY__HASH_ATTRIBUTES", "privacy.hash_attributes", Unset("none"), "Attributes that are written as a keyed hash; several with commas."),
    s("FLAGSTREAM_PRIVACY__USER_IDS", "privacy.user_ids", Text("keep"), "`keep`, or `hash`: user ids, and the keys of events, are written as a keyed hash."),
    s("FLAGSTREAM_PRIVACY__HASH_KEY", "privacy.hash_key", Unset("required if something is hashed"), "Key of the hashes, from 16 bytes. A different key produces different hashes.").mask(Mask::Secret),
    s("FLAGSTREAM_ATTRIBUTES__ENABLED", "attributes.enabled", Text("false"),
      "`true`: attributes of a topic complete the context of every evaluation, see [Attributes](guides/attributes.md)."),
    s("FLAGSTREAM_ATTRIBUTES__TABLES", "attributes.tables", Unset("only the table of users"),
      "Further tables: `company=company-attributes` joins the attributes in that topic by the value of the context field `company`; several with commas. Of two tables with the same attribute the earlier one wins."),
    s("FLAGSTREAM_ATTRIBUTES__TABLE_WINS", "attributes.table_wins", Unset("none: callers win"),
      "Attributes that only the tables may set, because a browser must not forge them; several with commas. What callers send under these names is dropped, also if the table has no value."),
    s("FLAGSTREAM_ATTRIBUTES__CACHE_BYTES", "attributes.cache_bytes", Text("128MiB"),
      "Memory for the tables' rows and blocks; `4MiB` to `64GiB`. The tables themselves are on disk, in `FLAGSTREAM_STATE_DIR`."),
    s("FLAGSTREAM_ATTRIBUTES__MAX_ROW_BYTES", "attributes.max_row_bytes", Text("16KiB"),
      "Largest row; `256B` to `256KiB`. A larger one becomes a dead letter."),
    s("FLAGSTREAM_ATTRIBUTES__START_BEHIND", "attributes.start_behind", Text("false"),
      "`true`: evaluate, and report ready, before the tables have caught up with their topics. Attributes that were not read yet are then missing."),
    s("REDIS_URL", "redis.url", Unset("no Redis"), "Redis (6.2 or newer) for cached results, one server or any node of a cluster: `redis://…`, with TLS `rediss://…`.").mask(Mask::Url),
    s("FEATURE_FLAG_CACHE_TTL", "redis.cache_ttl", Text("300s"), "Time to live of a value in Redis, plus or minus 10 %; from `1s`."),
    s("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "auth.anonymous_scopes", Text("evaluate"),
      "Scopes of callers without a token: of `evaluate`, `read`, `audit`, `track`, `write`, `delete`, `admin`; `none` for no scope.").dev("evaluate,read,write,delete,admin"),
    s("FLAGSTREAM_AUTH__BOOTSTRAP_TOKEN", "auth.bootstrap_token", Unset("none"), "An admin token, from 16 characters.").mask(Mask::Secret),
    s("FLAGSTREAM_AUTH__TOKENS_MAX_AGE", "auth.tokens_max_age", Text("24h"),
      "How long an instance continues to accept the tokens that it knows while the database is unreachable; `10s` to `365d`."),
    s("FLAGSTREAM_AUTH__TOKEN_CALLS_PER_SECOND", "auth.token_calls_per_second", Unset("no limit"),
      "Calls per second that each instance accepts from one token; the calls of one second may arrive as a burst. 1 to 1000000."),
    s("FLAGSTREAM_AUTH__ANONYMOUS_CALLS_PER_SECOND", "auth.anonymous_calls_per_second", Unset("no limit"),
      "Calls per second that each instance accepts from one address (of IPv6: /64) without a token. Behind a proxy all calls have the proxy's address."),
    s("FLAGSTREAM_AUTH__ANONYMOUS_ANSWERS_PER_SECOND", "auth.anonymous_answers_per_second", Text("20000"),
      "Answers (flags times contexts) per second that each instance gives to one address (of IPv6: /64) without a token. The answers of one second may be requested as a burst; a call for more is rejected. 1 to 1000000, `none` for no limit. Loopback addresses have no limit.").dev("none"),
    s("FLAGSTREAM_AUTH__USER_HEADER", "auth.user_header", Unset("changes name the token only"),
      "Header in which an authenticating proxy names the person (`X-Forwarded-User`, `X-Auth-Request-Email`). Change logs then name the person. It is read only from `FLAGSTREAM_AUTH__TRUSTED_PROXIES`, and it grants no scope."),
    s("FLAGSTREAM_AUTH__TRUSTED_PROXIES", "auth.trusted_proxies", Unset("none"),
      "Networks of the proxies whose header `FLAGSTREAM_AUTH__USER_HEADER` is believed: `10.0.0.0/8`, single addresses, several with commas."),
    s("FLAGSTREAM_API__DURABILITY", "api.durability", Text("spool"), "Where the event of an HTTP evaluation is \
        stored until Kafka acknowledges it: `memory`, `spool` (memory, then a folder on disk), or nowhere (`sync`: the response waits for Kafka)."),
    s("FLAGSTREAM_API__SPOOL_MAX_BYTES", "api.spool_max_bytes", Text("4GiB"),
      "Most bytes of the spool; `1MiB` to `1024GiB`."),
    s("FLAGSTREAM_API__CORS_ORIGINS", "api.cors_origins", Text("none"),
      "Origins of browsers that may call (`https://app.example.com`, several with commas, `*` for any); `none` for no CORS."),
    s("FLAGSTREAM_CONSOLE__ENABLED", "console.enabled", Text("true"),
      "Whether the role `api` serves the [console](console.md) under `/console`."),
    s("FLAGSTREAM_CONSOLE__DIRECTORY", "console.directory", Unset("the files in the binary"),
      "Folder from which the console's files are read at each request, for work on the console itself."),

    s("FLAGSTREAM_UNLEASH_API__ENABLED", "unleash_api.enabled", Text("false"),
      "`true`: the API for Unleash's SDKs is served, see [Migrate from Unleash Edge](guides/edge.md)."),
    s("FLAGSTREAM_UNLEASH_API__EVENTS", "unleash_api.events", Text("impressions"),
      "Evaluations for frontend SDKs that become events: `impressions` (of flags with impression data, without repetitions), `all`, or `none`."),
    s("FLAGSTREAM_UNLEASH_API__REPEAT", "unleash_api.repeat", Text("10m"),
      "With `impressions`: time after which the same result for the same user (or session) is recorded again; `1s` to `7d`."),
    s("FLAGSTREAM_UNLEASH_API__ALL_ENDPOINTS", "unleash_api.all_endpoints", Text("true"),
      "`false`: the routes that list flags which are off (`/api/frontend/all`, `/api/proxy/all`) answer 404."),
    s("FLAGSTREAM_UNLEASH_API__TRUSTED_PROXIES", "unleash_api.trusted_proxies", Unset("none"),
      "Networks (`10.0.0.0/8`) and addresses of proxies whose `Forwarded` and `X-Forwarded-For` determine `remoteAddress`; several with commas."),
    s("FLAGSTREAM_UNLEASH_API__TOKEN_REVALIDATION", "unleash_api.token_revalidation", Text("1h"),
      "Time after which Unleash is asked again whether a token is still valid; `1s` to `30d`."),
    s("FLAGSTREAM_UNLEASH_API__PRETRUSTED_TOKENS", "unleash_api.pretrusted_tokens", Unset("none"),
      "Tokens that are accepted without asking Unleash: `frontend=TOKEN`, `backend=TOKEN`, or `TOKEN` (frontend), several with commas. A token has the form `PROJECT:ENVIRONMENT.SECRET`, `*:ENVIRONMENT.SECRET` or `SECRET@ENVIRONMENT`.").mask(Mask::Secret),
    s("FLAGSTREAM_UNLEASH_API__STREAMING", "unleash_api.streaming", Text("on"),
      "`on`; `off`: a stream asks its SDK to poll; `prefer`: answers to polling SDKs ask them to open a stream."),
    s("FLAGSTREAM_UNLEASH_API__TOKEN_HEADER", "unleash_api.token_header", Text("authorization"),
      "Header in which SDKs send their token."),
    s("FLAGSTREAM_UNLEASH_API__BASE_PATH", "unleash_api.base_path", Unset("none"),
      "Prefix of the paths of this API, such as `/unleash`."),
];
