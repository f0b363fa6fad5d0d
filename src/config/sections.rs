//! The configurations of libraries, derived from the sections of the service's configuration.

use crate::kafka::client::Membership;
use crate::store::{Expected, ReaderConfig};

use super::Config;

impl Config {
    /// Changes the name of this process.
    pub fn set_instance(&mut self, instance: &str) {
        instance.clone_into(&mut self.instance);
        instance.clone_into(&mut self.kafka.instance);
    }

    /// Settings of the members of consumer groups.
    pub fn membership(&self) -> Membership {
        Membership {
            session_timeout: self.delivery.session_timeout,
            creates_topics: self.reply.create_missing,
        }
    }
}

impl From<&Config> for ReaderConfig {
    fn from(config: &Config) -> Self {
        let environments = config.unleash.environments.iter();
        Self {
            kafka: config.kafka.clone(),
            definitions: config.topics.definitions.clone(),
            overrides: config.topics.overrides.clone(),
            environments: environments.map(|environment| environment.name.clone()).collect(),
            state_dir: Some(config.state_dir.clone()),
            expected: Expected {
                sources: Vec::new(),
                start_without_source: config.feed.start_without_source,
            },
            topic_ids: None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::ffi::OsString;

    use crate::config::{Profile, load_from};
    use crate::embed::EmbeddedConfig;

    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    #[test]
    fn an_embedded_store_has_the_defaults_of_the_service() {
        let service = load_from(None, [], Profile::Service).unwrap().config;
        let embedded = EmbeddedConfig::read([]).unwrap();
        let same = ReaderConfig::from(&service);
        assert_eq!((&embedded.definitions, &embedded.overrides), (&same.definitions, &same.overrides));
        assert_eq!(embedded.start_without_source, same.expected.start_without_source);
        assert_eq!(embedded.environment, service.unleash.default_environment);
        assert_eq!(embedded.app_name, service.unleash.app_name);
        assert_eq!(embedded.kafka.bootstrap_servers, service.kafka.bootstrap_servers);
        assert_eq!(embedded.kafka.group_id, service.kafka.group_id);
    }

    #[test]
    fn an_embedded_store_accepts_the_values_that_the_service_accepts() {
        let cases = [
            ("KAFKA_BOOTSTRAP_SERVERS", "a:1,b:2"),
            ("KAFKA_BOOTSTRAP_SERVERS", "a"),
            ("UNLEASH_ENVIRONMENT", "a b"),
            ("UNLEASH_APP_NAME", "shop"),
            ("UNLEASH_APP_NAME", "a b"),
            ("FLAGSTREAM_TOPICS__DEFINITIONS", "."),
            ("FLAGSTREAM_TOPICS__DEFINITIONS", "feature-flag-overrides"),
            ("FLAGSTREAM_TOPICS__OVERRIDES", "own.overrides"),
            ("FLAGSTREAM_FEED__START_WITHOUT_SOURCE", "on"),
            ("FLAGSTREAM_FEED__START_WITHOUT_SOURCE", "perhaps"),
            ("FLAGSTREAM_KAFKA__GROUP_ID", "a/b"),
            ("FLAGSTREAM_KAFKA__NO_SUCH", "1"),
            ("FLAGSTREAM_KAFKA__CLIENT__", "1"),
            ("FLAGSTREAM_KAFKA__CLIENT__SECURITY_PROTOCOL", "ssl"),
            ("FLAGSTREAM_KAFKA__CLIENT__ISOLATION_LEVEL", "read_uncommitted"),
        ];
        for case in cases {
            let service = load_from(None, variables(&[case]), Profile::Service).map_err(|error| error.0);
            let embedded = EmbeddedConfig::read(variables(&[case])).map_err(|error| error.0);
            assert_eq!(embedded.err(), service.err(), "{case:?}");
        }
    }
}
