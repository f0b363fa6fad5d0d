//! The configuration of the embedded mode: the broker and the flag file of this process, little patience.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::{
    Config, DeliveryConfig, DeliveryMode, HttpConfig, KafkaConfig, LogConfig, LogFormat, ReplyConfig, Secret,
    TopicsConfig, UnleashConfig,
};

/// What a developer may want to choose.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address of the embedded broker.
    pub kafka: String,
    pub listen: SocketAddr,
    pub state_dir: PathBuf,
    pub environment: String,
}

/// The configuration that `run` would need to do the same.
pub fn config(settings: Settings) -> Config {
    Config {
        instance: "dev".to_owned(),
        state_dir: settings.state_dir,
        kafka: KafkaConfig {
            bootstrap_servers: settings.kafka,
            group_id: "flagstream".to_owned(),
            client: client(),
        },
        topics: topics(),
        unleash: UnleashConfig {
            url: None,
            environments: Vec::new(),
            default_environment: settings.environment,
            app_name: "flagstream".to_owned(),
            instance_id: "dev".to_owned(),
            refresh_interval: Duration::from_secs(15),
            metrics_interval: None,
            admin_token: None,
            webhook_secret: None,
        },
        delivery: delivery(),
        reply: ReplyConfig {
            allowed_prefixes: vec!["feature-flag-replies".to_owned()],
        },
        http: HttpConfig {
            listen: settings.listen,
            admin_listen: None,
        },
        log: LogConfig {
            filter: "warn".to_owned(),
            format: LogFormat::Text,
        },
    }
}

fn client() -> BTreeMap<String, Secret> {
    // The mock broker answers a fetch only when its time is up, whatever arrives meanwhile.
    let properties = [("fetch.wait.max.ms", "10")];
    let properties = properties.map(|(name, value)| (name.to_owned(), Secret::new(value)));
    properties.into()
}

fn topics() -> TopicsConfig {
    let name = |role: &str| format!("feature-flag-{role}");
    TopicsConfig {
        requests: name("evaluation-requests"),
        events: name("events"),
        changes: name("changes"),
        definitions: name("definitions"),
        updates: name("updates"),
        dead_letters: name("dead-letters"),
        conversions: name("conversions"),
        partitions: 4,
        replication: Some(1),
    }
}

fn delivery() -> DeliveryConfig {
    DeliveryConfig {
        mode: DeliveryMode::Transactional,
        workers: 1,
        batch_max: Duration::from_millis(10),
        batch_max_messages: 1_000,
        batch_max_bytes: 4 << 20,
        session_timeout: Duration::from_secs(6),
        transaction_timeout: Duration::from_secs(10),
    }
}
