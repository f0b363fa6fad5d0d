//! Tests of the loader: precedence, all kinds of invalid input, masking of secrets.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

mod used;

use super::settings::{Mask, SETTINGS};
use super::*;

fn from(file: &str, variables: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    load_from(Some((Path::new("flagstream.toml"), file)), variables, Profile::Service)
}

fn problems(file: &str, variables: &[(&str, &str)]) -> Vec<String> {
    from(file, variables).map(|_| Vec::new()).unwrap_or_else(|ConfigError(problems)| problems)
}

fn config(file: &str, variables: &[(&str, &str)]) -> Config {
    match from(file, variables) {
        Ok(loaded) => loaded.config,
        Err(error) => unreachable!("{error}"),
    }
}

/// Expects exactly one problem, which names `setting`, and returns it.
fn only_problem(variables: &[(&str, &str)], setting: &str) -> String {
    match problems("", variables).as_slice() {
        [problem] if problem.contains(setting) => problem.clone(),
        problems => {
            unreachable!("{variables:?}: expected one problem that names {setting}, got {problems:?}")
        }
    }
}

#[test]
fn defaults_are_those_of_the_contract() {
    let config = config("", &[]);
    assert_eq!(config.kafka.bootstrap_servers, "localhost:9092");
    assert_eq!(config.topics.requests, "feature-flag-evaluation-requests");
    assert_eq!(config.topics.events, "feature-flag-events");
    assert_eq!((config.topics.partitions, config.topics.replication), (12, None));
    assert_eq!(config.http.listen.to_string(), "0.0.0.0:8082");
    assert_eq!(config.delivery.mode, DeliveryMode::Transactional);
    assert_eq!(config.evaluation.read_path, ReadPath::StoreFirst);
    assert_eq!(config.delivery.batch_max, Duration::from_millis(200));
    assert_eq!(config.delivery.batch_max_bytes, 32 << 20);
    assert_eq!(config.reply.allowed_prefixes, ["feature-flag-replies"]);
    assert_eq!(config.unleash.refresh_interval, Duration::from_secs(15));
    assert_eq!(config.unleash.metrics_interval, Some(Duration::from_secs(60)));
    assert_eq!(config.unleash.instance_id, config.instance);
    assert!(config.instance.ends_with("-8082"), "{}", config.instance);
    assert_eq!(config.state_dir, Path::new("./.flagstream").join(&config.instance));
}

#[test]
fn dev_listens_on_this_machine_only() {
    let config = load_from(None, [], Profile::Dev).map(|loaded| loaded.config.http.listen.to_string());
    assert_eq!(config.ok().as_deref(), Some("127.0.0.1:8082"));
}

#[test]
fn environment_wins_over_file_wins_over_default() {
    let file = "[kafka]\nbootstrap_servers = \"file:1\"\ngroup_id = \"from-file\"\n";
    let loaded = from(file, &[("KAFKA_BOOTSTRAP_SERVERS", "env:2")]).ok();
    let loaded = loaded.as_ref();
    assert_eq!(loaded.map(|l| l.config.kafka.bootstrap_servers.as_str()), Some("env:2"));
    assert_eq!(loaded.map(|l| l.config.kafka.group_id.as_str()), Some("from-file"));
    let origin = |path: &str| {
        let setting = loaded.and_then(|l| l.settings.iter().find(|s| s.path == path));
        setting.map(|s| s.origin.clone()).unwrap_or_default()
    };
    assert_eq!(origin("kafka.bootstrap_servers"), "environment (KAFKA_BOOTSTRAP_SERVERS)");
    assert_eq!(origin("kafka.group_id"), "flagstream.toml:3");
    assert_eq!(origin("topics.requests"), "default");
}

#[test]
fn every_problem_is_told_at_once_and_named() {
    let file = "[kafka]\nbootstrap_server = \"x:1\"\n[topics]\npartitions = \"many\"\n[nowhere]\nx = 1\n";
    let found = problems(
        file,
        &[
            ("FLAGSTREAM_TOPCS__REQUESTS", "x"),
            ("UNLEASH_REFRESH_INTERVAL", "soon"),
            ("UNLEASH_URL", "http://unleash:4242/api/"),
            ("FLAGSTREAM_KAFKA__CLIENT__ENABLE_IDEMPOTENCE", "false"),
            ("FLAGSTREAM_FORMAT__EVENTS", "avro"),
        ],
    );
    for expected in [
        "flagstream.toml:2: unknown key `kafka.bootstrap_server`; did you mean `kafka.bootstrap_servers`?",
        "flagstream.toml:4: topics.partitions (FLAGSTREAM_TOPICS__PARTITIONS): expected a whole number",
        "flagstream.toml:5: unknown key `nowhere`",
        "FLAGSTREAM_TOPCS__REQUESTS: unknown setting",
        "UNLEASH_REFRESH_INTERVAL: expected a duration",
        "UNLEASH_API_TOKEN: must be set together with UNLEASH_URL",
        "FLAGSTREAM_KAFKA__CLIENT__ENABLE_IDEMPOTENCE: `enable.idempotence` cannot be changed",
        "SCHEMA_REGISTRY_URL: must be set if a format is not `json`",
    ] {
        assert!(found.iter().any(|problem| problem.starts_with(expected)), "{expected} is not in {found:#?}");
    }
    assert_eq!(found.len(), 8, "{found:#?}");
}

#[test]
fn each_bad_value_names_its_setting() {
    let long = "x".repeat(250);
    for (variable, value) in [
        ("FLAGSTREAM_INSTANCE", "a/b"),
        ("FLAGSTREAM_INSTANCE", ".."),
        ("KAFKA_BOOTSTRAP_SERVERS", "localhost"),
        ("KAFKA_BOOTSTRAP_SERVERS", "a:1,,b:2"),
        ("FLAGSTREAM_KAFKA__GROUP_ID", "a b"),
        ("FLAGSTREAM_KAFKA__CLIENT__SASL_PASWORD", "x"),
        ("FLAGSTREAM_KAFKA__CLIENT__SECURITY_PROTOCOL", "carrier-pigeon"),
        ("FLAGSTREAM_KAFKA__CLIENT__", "x"),
        ("FLAGSTREAM_TOPICS__REQUESTS", long.as_str()),
        ("FLAGSTREAM_TOPICS__REQUESTS", "a topic"),
        ("FLAGSTREAM_TOPICS__CHANGES", "feature-flag-events"),
        ("FLAGSTREAM_TOPICS__PARTITIONS", "0"),
        ("FLAGSTREAM_TOPICS__REPLICATION", "-1"),
        ("FLAGSTREAM_TOPICS__RETENTION", "1s"),
        ("FLAGSTREAM_TOPICS__RETENTION", "1 month"),
        ("UNLEASH_API_TOKEN", "*:development.x y"),
        ("UNLEASH_ENVIRONMENT", "a/b"),
        ("UNLEASH_METRICS_INTERVAL", "0"),
        ("UNLEASH_DISABLE_METRICS", "perhaps"),
        ("FLAGSTREAM_DELIVERY__MODE", "exactly_twice"),
        ("FLAGSTREAM_DELIVERY__WORKERS", "0"),
        ("FLAGSTREAM_DELIVERY__BATCH_MAX", "1m"),
        ("FLAGSTREAM_DELIVERY__BATCH_MAX_BYTES", "4MB"),
        ("FLAGSTREAM_DELIVERY__TRANSACTION_TIMEOUT", "99999999999999999999s"),
        ("FLAGSTREAM_REPLY__ALLOWED_PREFIXES", "feature-flag-re,feature-flag-upd"),
        ("FLAGSTREAM_REPLY__ALLOWED_PREFIXES", "__consumer"),
        ("FLAGSTREAM_HTTP__LISTEN", "8082"),
        ("FLAGSTREAM_HTTP__ADMIN_LISTEN", "0.0.0.0:8082"),
        ("FLAGSTREAM_LOG", "inof"),
        ("FLAGSTREAM_LOG", "flagstream=loud"),
        ("FLAGSTREAM_LOG_FORMAT", "xml"),
        ("FLAGSTREAM_FORMAT__REQUESTS", "protobuf"),
        ("FLAGSTREAM_FORMAT__EVENTS", "auto"),
        ("FLAGSTREAM_FORMAT__UPDATES", "auto"),
        ("FLAGSTREAM_FORMAT__CHANGES", "xml"),
        ("FLAGSTREAM_FORMAT__SUBJECTS", "name"),
        ("SCHEMA_REGISTRY_URL", "ftp://x"),
        ("DATABASE_URL", "mysql://x/y"),
        ("FLAGSTREAM_DATABASE__MIGRATE", "2"),
        ("FLAGSTREAM_AUDIT__RETENTION_DAYS", "0"),
        ("REDIS_URL", "localhost:6379"),
        ("FEATURE_FLAG_CACHE_TTL", "0"),
        ("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate,everything"),
        ("FLAGSTREAM_AUTH__BOOTSTRAP_TOKEN", "short"),
        ("FLAGSTREAM_API__DURABILITY", "none"),
        ("FLAGSTREAM_EVALUATION__READ_PATH", "redis"),
        ("FLAGSTREAM_HTTP", "x"),
    ] {
        only_problem(&[(variable, value)], variable);
    }
    only_problem(&[("FLAGSTREAM_HTTP__LISTEN", "127.0.0.1:0")], "FLAGSTREAM_INSTANCE");
    let timeouts =
        [("FLAGSTREAM_DELIVERY__TRANSACTION_TIMEOUT", "1s"), ("FLAGSTREAM_DELIVERY__BATCH_MAX", "2s")];
    only_problem(&timeouts, "FLAGSTREAM_DELIVERY__TRANSACTION_TIMEOUT");
}

#[test]
fn whole_files_that_are_wrong() {
    for (file, expected) in [
        ("[kafka\n", "flagstream.toml:1: "),
        ("kafka = 1\n", "flagstream.toml:1: kafka: expected a table"),
        ("[topics]\nrequests = { a = 1 }\n", "flagstream.toml:2: "),
        (
            "[topics]\nrequests = [\"a\", \"b\"]\n",
            "flagstream.toml:2: topics.requests (FLAGSTREAM_TOPICS__REQUESTS): expected one",
        ),
        ("[topics]\nrequests = [[1]]\n", "flagstream.toml:2: topics.requests: expected a value"),
        ("[unleash]\nenvironments = 3\n", "flagstream.toml:2: unleash.environments: expected"),
        (
            "[unleash]\nenvironments = [{ name = \"a\" }]\n",
            "flagstream.toml:2: unleash.environments.token: must be set",
        ),
        (
            "[unleash]\nenvironments = [{ name = 1, token = \"t\" }]\n",
            "flagstream.toml:2: unleash.environments.name: expected",
        ),
        ("[http]\nlisten_address = \"x\"\n", "flagstream.toml:2: unknown key `http.listen_address`"),
        (
            "[http]\ngroup_id = \"x\"\n",
            "flagstream.toml:2: unknown key `http.group_id`; did you mean `kafka.group_id`?",
        ),
    ] {
        let found = problems(file, &[("UNLEASH_URL", "http://u"), ("UNLEASH_API_TOKEN", "t")]);
        assert!(
            found.iter().any(|problem| problem.starts_with(expected)),
            "{file:?}: {expected} is not in {found:#?}"
        );
    }
}

#[test]
fn unleash_needs_a_token_and_takes_several_environments() {
    for url in ["http://u:4242", "http://u:4242/", "http://u:4242/api", "http://u:4242/api///"] {
        let config = config("", &[("UNLEASH_URL", url), ("UNLEASH_API_TOKEN", "*:development.t")]);
        assert_eq!(config.unleash.url.as_deref(), Some("http://u:4242"));
        assert_eq!(config.unleash.environments.len(), 1);
    }
    let behind_a_path = config("", &[("UNLEASH_URL", "https://h/unleash/api/"), ("UNLEASH_API_TOKEN", "t")]);
    assert_eq!(behind_a_path.unleash.url.as_deref(), Some("https://h/unleash"));
    only_problem(&[("UNLEASH_URL", "http://u")], "UNLEASH_API_TOKEN");
    only_problem(&[("UNLEASH_API_TOKEN", "t")], "UNLEASH_URL");

    let file = "[[unleash.environments]]\nname = \"production\"\ntoken = \"*:production.t\"\n\
                [[unleash.environments]]\nname = \"staging\"\ntoken = \"*:staging.t\"\n";
    let several = config(file, &[("UNLEASH_URL", "http://u"), ("UNLEASH_API_TOKEN", "t")]);
    let names: Vec<_> = several.unleash.environments.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names, ["development", "production", "staging"]);
    let twice = [("UNLEASH_URL", "http://u"), ("UNLEASH_API_TOKEN", "t"), ("UNLEASH_ENVIRONMENT", "staging")];
    assert!(problems(file, &twice).iter().any(|problem| problem.contains("duplicate environment `staging`")));
}

#[test]
fn librdkafka_properties_from_both_sides() {
    let file = "[kafka.client]\n\"security.protocol\" = \"PLAINTEXT\"\nsasl.username = \"file\"\nsocket.timeout.ms = 5000\n";
    let config = config(file, &[("FLAGSTREAM_KAFKA__CLIENT__SECURITY_PROTOCOL", "SSL")]);
    let client: Vec<_> =
        config.kafka.client.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
    let expected = [("sasl.username", "file"), ("security.protocol", "SSL"), ("socket.timeout.ms", "5000")];
    assert_eq!(client, expected);
}

#[test]
fn durations_lists_and_empty_variables() {
    for (text, expected) in [
        ("15", 15_000),
        ("15s", 15_000),
        ("500ms", 500),
        ("2m", 120_000),
        ("1h", 3_600_000),
        ("1h 30m", 5_400_000),
    ] {
        let config = config("", &[("UNLEASH_REFRESH_INTERVAL", text)]);
        assert_eq!(config.unleash.refresh_interval, Duration::from_millis(expected));
    }
    let list = |file: &str, text: &str| {
        config(file, &[("FLAGSTREAM_REPLY__ALLOWED_PREFIXES", text)]).reply.allowed_prefixes
    };
    assert_eq!(list("", "a, b"), ["a", "b"]);
    assert!(list("", "none").is_empty());
    assert_eq!(list("[reply]\nallowed_prefixes = [\"x\", \"y\"]\n", ""), ["x", "y"]);
    assert!(list("[reply]\nallowed_prefixes = []\n", "").is_empty());
    assert_eq!(config("", &[("UNLEASH_DISABLE_METRICS", "true")]).unleash.metrics_interval, None);
}

#[test]
fn secrets_are_shown_nowhere() {
    const SECRET: &str = "hunter2hunter2hunter2";
    let variables = [
        ("UNLEASH_URL", "http://u"),
        ("UNLEASH_API_TOKEN", SECRET),
        ("UNLEASH_ADMIN_TOKEN", SECRET),
        ("FLAGSTREAM_UNLEASH__WEBHOOK_SECRET", SECRET),
        ("FLAGSTREAM_AUTH__BOOTSTRAP_TOKEN", SECRET),
        ("FLAGSTREAM_KAFKA__CLIENT__SASL_PASSWORD", SECRET),
        ("FLAGSTREAM_KAFKA__CLIENT__SSL_KEY_PASSWORD", SECRET),
        ("DATABASE_URL", "postgres://u:hunter2hunter2hunter2@db/x"),
        ("REDIS_URL", "redis://:hunter2hunter2hunter2@cache"),
        ("SCHEMA_REGISTRY_URL", "https://u:hunter2hunter2hunter2@registry"),
    ];
    let file = format!("[[unleash.environments]]\nname = \"production\"\ntoken = \"{SECRET}\"\n");
    let loaded = from(&file, &variables).ok();
    assert!(loaded.is_some());
    // Unleash's URL is displayed unmasked, so a URL with a password is rejected, without printing it.
    let with_password = problems("", &[("UNLEASH_URL", "http://user:hunter2@u")]);
    assert!(format!("{with_password:?}").contains("UNLEASH_API_TOKEN"), "{with_password:?}");
    assert!(!format!("{with_password:?}").contains("hunter2"), "{with_password:?}");
    let shown =
        loaded.map(|loaded| format!("{:?} {:?}", loaded.settings, loaded.notices)).unwrap_or_default();
    assert!(shown.contains("***") && !shown.contains(SECRET), "{shown}");
    for variable in SETTINGS.iter().filter(|s| matches!(s.mask, Mask::Secret | Mask::Url)).map(|s| s.variable)
    {
        let wrong = problems("", &[(variable, "hunter2 hunter2")]);
        assert!(!wrong.is_empty() && !format!("{wrong:?}").contains("hunter2"), "{variable}: {wrong:?}");
    }
}

#[test]
fn an_open_service_that_nobody_has_decided_on_is_noticed() {
    let notices =
        |variables: &[(&str, &str)]| from("", variables).map(|loaded| loaded.notices).unwrap_or_default();
    let open = notices(&[]).join(" ");
    assert!(open.contains("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES") && open.contains("0.0.0.0:8082"), "{open}");
    assert_eq!(notices(&[("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate")]), Vec::<String>::new());
    assert_eq!(notices(&[("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "none")]), Vec::<String>::new());
    assert_eq!(notices(&[("FLAGSTREAM_HTTP__LISTEN", "[::1]:8082")]), Vec::<String>::new());
}

#[test]
fn limits_of_callers_are_read_and_checked() {
    let http = config("", &[]).http;
    assert_eq!((http.connections_per_address, http.listeners_per_address), (5_000, 4_000));
    assert_eq!(http.listeners, 10_000);
    assert_eq!(config("", &[("FLAGSTREAM_HTTP__LISTENERS", "25000")]).http.listeners, 25_000);
    assert_eq!((http.allowed_hosts, http.drain_delay.as_secs()), (None, 0));
    let hosts =
        config("", &[("FLAGSTREAM_HTTP__ALLOWED_HOSTS", "Flags.example.com, localhost")]).http.allowed_hosts;
    assert_eq!(hosts, Some(vec!["flags.example.com".to_owned(), "localhost".to_owned()]));
    let rate = |text: &str| {
        let variables = [("FLAGSTREAM_AUTH__ANONYMOUS_ANSWERS_PER_SECOND", text)];
        config("", &variables).auth.anonymous_answers_per_second.map(std::num::NonZeroU32::get)
    };
    assert_eq!((rate("20000"), rate("7"), rate("none")), (Some(20_000), Some(7), None));
    for (variable, wrong) in [
        ("FLAGSTREAM_HTTP__CONNECTIONS_PER_ADDRESS", "0"),
        ("FLAGSTREAM_HTTP__LISTENERS", "0"),
        ("FLAGSTREAM_HTTP__LISTENERS_PER_ADDRESS", "100001"),
        ("FLAGSTREAM_HTTP__ALLOWED_HOSTS", "http://flags"),
        ("FLAGSTREAM_HTTP__DRAIN_DELAY", "6m"),
        ("FLAGSTREAM_AUTH__ANONYMOUS_ANSWERS_PER_SECOND", "0"),
        ("FLAGSTREAM_UNLEASH__WEBHOOK_SECRET", "fifteen-letters"),
    ] {
        assert!(format!("{:?}", problems("", &[(variable, wrong)])).contains(variable), "{variable}");
    }
}

#[test]
fn a_token_of_another_environment_is_noticed() {
    let loaded = from("", &[("UNLEASH_URL", "http://u"), ("UNLEASH_API_TOKEN", "*:production.x")]);
    let notices = loaded.map(|loaded| loaded.notices.join("\n")).unwrap_or_default();
    assert!(notices.contains("`development`") && notices.contains("`production`"), "{notices}");
}

#[test]
fn settings_are_told_apart() {
    for setting in SETTINGS {
        assert_eq!(SETTINGS.iter().filter(|other| other.path == setting.path).count(), 1, "{}", setting.path);
    }
    // After loading, every setting has a value in force unless its default is unset.
    let shown = from("", &[]).map(|loaded| loaded.settings).unwrap_or_default();
    for setting in SETTINGS.iter().filter(|s| s.mask != Mask::Group) {
        let unset = matches!(setting.default, settings::Fallback::Unset(_));
        let value = shown.iter().find(|s| s.path == setting.path).and_then(|s| s.value.as_ref());
        assert_eq!(value.is_none(), unset, "{} is not read", setting.path);
    }
}

#[test]
fn the_documentation_has_the_table() {
    let documentation = include_str!("../../docs/operations.md");
    for row in markdown().lines() {
        assert!(documentation.contains(row), "docs/operations.md lacks this row:\n{row}");
    }
}

fn variable() -> impl Strategy<Value = String> {
    let known = prop::sample::select(SETTINGS.iter().map(|s| s.variable.to_owned()).collect::<Vec<_>>());
    prop_oneof![known, "FLAGSTREAM_[A-Z_]{0,20}", "FLAGSTREAM_KAFKA__CLIENT__[A-Z_]{0,20}"]
}

fn document() -> impl Strategy<Value = String> {
    let path = prop::sample::select(SETTINGS.iter().map(|s| s.path.to_owned()).collect::<Vec<_>>());
    let value = prop_oneof![
        "[0-9]{1,20}",
        "\"[ -~&&[^\"\\\\]]{0,12}\"",
        "\\[(1|\"a\"|\\[2\\]){0,1}\\]",
        "\\{ a = 1 \\}",
        "[ -~]{0,12}"
    ];
    let line = (path, value).prop_map(|(path, value)| format!("{path} = {value}\n"));
    prop_oneof![prop::collection::vec(line, 0..6).prop_map(|lines| lines.concat()), any::<String>()]
}

proptest! {
    #[test]
    fn nothing_that_is_set_panics(
        file in document(),
        variables in prop::collection::vec((variable(), any::<String>()), 0..6),
    ) {
        let variables = variables.into_iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        if let Err(ConfigError(problems)) = load_from(Some((Path::new("f"), &file)), variables, Profile::Service) {
            prop_assert!(!problems.is_empty());
        }
    }
}
