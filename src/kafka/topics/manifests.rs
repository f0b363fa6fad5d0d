//! The topics and the user's permissions as resources of Strimzi, the Kafka operator for Kubernetes.
//!
//! They come from the same tables as `topics apply` and `doctor`: [`needs`] and [`uses`]. The topics of taps get only
//! permissions: they belong to others, and their number of partitions is that of a source which is not read here.

use serde_json::{Map, Value, json};

use crate::config::Config;

use super::{Need, needs, uses};

/// Longest name of a Kubernetes object, in characters.
const OBJECT_NAME_MAX_CHARS: usize = 253;

/// Names and versions of the resources, which the operator chooses.
#[derive(Debug, Clone)]
pub struct Strimzi {
    /// Name of the `Kafka` resource.
    pub cluster: String,
    /// Version of Strimzi's API, for example `kafka.strimzi.io/v1`.
    pub api_version: String,
    /// Namespace of the resources; `None`: that of `kubectl`.
    pub namespace: Option<String>,
    /// Name of the user.
    pub user: String,
    /// Authentication of the user: `scram-sha-512`, `tls` or `tls-external`.
    pub authentication: String,
}

/// A `KafkaTopic` for each topic and a `KafkaUser` with the permissions of all roles.
pub fn strimzi(config: &Config, strimzi: &Strimzi) -> Vec<Value> {
    let topics = needs(&config.topics).into_iter().map(|need| topic(&need, strimzi));
    topics.chain([user(config, strimzi)]).collect()
}

fn object(kind: &str, name: &str, strimzi: &Strimzi, spec: Value) -> Value {
    let mut metadata = json!({"name": name, "labels": {"strimzi.io/cluster": strimzi.cluster}});
    if let Some(namespace) = &strimzi.namespace {
        metadata["namespace"] = namespace.as_str().into();
    }
    json!({"apiVersion": strimzi.api_version, "kind": kind, "metadata": metadata, "spec": spec})
}

fn topic(need: &Need, strimzi: &Strimzi) -> Value {
    let settings: Map<_, _> = need
        .config
        .iter()
        .map(|(name, value)| {
            let value = value.parse::<i64>().map_or_else(|_| json!(value), Value::from);
            ((*name).to_owned(), value)
        })
        .collect();
    let mut spec = json!({"topicName": need.name, "partitions": need.partitions, "config": settings});
    if let Some(replicas) = need.replication {
        spec["replicas"] = replicas.into();
    }
    object("KafkaTopic", &object_name(&need.name), strimzi, spec)
}

/// The topic's name as the name of an object: a to z, digits, hyphens and points.
fn object_name(topic: &str) -> String {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '-';
    let name: String = topic.to_lowercase().chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    name.trim_matches(['-', '.']).chars().take(OBJECT_NAME_MAX_CHARS).collect()
}

fn user(config: &Config, strimzi: &Strimzi) -> Value {
    let allow = |kind: &str, name: &str, pattern: &str, operations: &[&str]| {
        json!({
            "resource": {"type": kind, "name": name, "patternType": pattern},
            "operations": operations,
            "host": "*",
        })
    };
    let mut acls: Vec<Value> = uses(config)
        .iter()
        .map(|used| {
            // Every own topic is read: by a role, or by a command such as `dead-letters list` and `audit verify`.
            let configs = used.is_own.then_some("DescribeConfigs");
            let read = (used.is_own || !used.readers.is_empty()).then_some("Read");
            let write = (!used.writers.is_empty()).then_some("Write");
            let operations: Vec<&str> =
                ["Describe"].into_iter().chain(configs).chain(read).chain(write).collect();
            allow("topic", used.topic, "literal", &operations)
        })
        .collect();
    let replies = config.reply.allowed_prefixes.iter();
    acls.extend(replies.map(|prefix| allow("topic", prefix, "prefix", &["Describe", "Write"])));
    // The groups of roles, taps and tables of attributes, and the transactional ids of instances, taps, feeder, kill
    // switches and dead letters.
    let own = format!("{}-", config.kafka.group_id);
    acls.push(allow("group", &own, "prefix", &["Describe", "Read"]));
    acls.push(allow("transactionalId", &own, "prefix", &["Describe", "Write"]));
    let spec = json!({
        "authentication": {"type": strimzi.authentication},
        "authorization": {"type": "simple", "acls": acls},
    });
    object("KafkaUser", &strimzi.user, strimzi, spec)
}

/// The resources as a stream of YAML documents.
pub fn yaml(resources: &[Value]) -> String {
    let mut text = String::new();
    for resource in resources {
        text.push_str("---\n");
        write(&mut text, resource, 0);
    }
    text
}

/// Writes a value in YAML's block style. Texts are JSON strings, which YAML reads as they are.
fn write(text: &mut String, value: &Value, indent: usize) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                text.push_str(&format!("{pad}{key}:"));
                nested(text, member, indent + 2);
            }
        }
        Value::Array(items) => {
            for item in items {
                let start = text.len();
                write(text, item, indent + 2);
                // The item's first line begins with the mark of a list.
                text.replace_range(start + indent..start + indent + 2, "- ");
            }
        }
        scalar => text.push_str(&format!("{pad}{scalar}\n")),
    }
}

fn nested(text: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(members) if members.is_empty() => text.push_str(" {}\n"),
        Value::Array(items) if items.is_empty() => text.push_str(" []\n"),
        Value::Object(_) | Value::Array(_) => {
            text.push('\n');
            write(text, value, indent);
        }
        scalar => text.push_str(&format!(" {scalar}\n")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::config::{Profile, load_from};
    use crate::evaluate::pipeline::Pipeline;
    use crate::metrics::Metrics;

    fn config(variables: &[(&str, &str)]) -> Config {
        config_of("", variables)
    }

    fn config_of(file: &str, variables: &[(&str, &str)]) -> Config {
        let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let file = (Path::new("flagstream.toml"), file);
        load_from(Some(file), variables, Profile::Service).unwrap().config
    }

    fn resources(config: &Config) -> Vec<Value> {
        let of = Strimzi {
            cluster: "my-cluster".to_owned(),
            api_version: "kafka.strimzi.io/v1".to_owned(),
            namespace: None,
            user: "flags".to_owned(),
            authentication: "tls".to_owned(),
        };
        strimzi(config, &of)
    }

    #[test]
    fn topics_are_those_of_topics_apply() {
        let config =
            config(&[("FLAGSTREAM_TOPICS__PARTITIONS", "24"), ("FLAGSTREAM_TOPICS__REPLICATION", "3")]);
        let resources = resources(&config);
        let topics: Vec<_> = resources.iter().filter(|resource| resource["kind"] == "KafkaTopic").collect();
        let needs = needs(&config.topics);
        assert_eq!(topics.len(), needs.len());
        for (need, topic) in needs.iter().zip(topics) {
            let spec = &topic["spec"];
            assert_eq!(spec["topicName"], need.name.as_str());
            assert_eq!(spec["partitions"], need.partitions);
            assert_eq!(spec["replicas"], 3);
            let settings = spec["config"].as_object().unwrap();
            assert_eq!(settings.len(), need.config.len());
            for (name, value) in &need.config {
                let written = settings.get(*name).unwrap();
                let written = written.as_str().map_or_else(|| written.to_string(), str::to_owned);
                assert_eq!((*name, &written), (*name, value));
            }
        }
    }

    #[test]
    fn the_user_may_do_what_the_roles_need_and_no_more() {
        let config = config(&[("FLAGSTREAM_KAFKA__GROUP_ID", "shop")]);
        let resources = resources(&config);
        let user = resources.iter().find(|resource| resource["kind"] == "KafkaUser").unwrap();
        let acls = user["spec"]["authorization"]["acls"].as_array().unwrap();
        let operations = |kind: &str, name: &str| {
            let acl =
                acls.iter().find(|acl| acl["resource"]["type"] == kind && acl["resource"]["name"] == name);
            acl.map(|acl| (acl["resource"]["patternType"].clone(), acl["operations"].clone()))
        };
        let read = json!(["Describe", "DescribeConfigs", "Read"]);
        let written = json!(["Describe", "DescribeConfigs", "Read", "Write"]);
        assert_eq!(operations("topic", "feature-flag-evaluation-requests"), Some((json!("literal"), read)));
        assert_eq!(operations("topic", "feature-flag-events"), Some((json!("literal"), written)));
        assert_eq!(
            operations("topic", "feature-flag-replies"),
            Some((json!("prefix"), json!(["Describe", "Write"])))
        );
        assert_eq!(operations("group", "shop-"), Some((json!("prefix"), json!(["Describe", "Read"]))));
        assert_eq!(
            operations("transactionalId", "shop-"),
            Some((json!("prefix"), json!(["Describe", "Write"])))
        );
        assert_eq!(acls.len(), uses(&config).len() + 3);
    }

    /// The operations on a resource that the user's access control lists allow, sorted.
    fn allowed(resources: &[Value], kind: &str, name: &str) -> Vec<String> {
        let user = resources.iter().find(|resource| resource["kind"] == "KafkaUser").unwrap();
        let acls = user["spec"]["authorization"]["acls"].as_array().unwrap();
        let concerns = |acl: &&Value| {
            let pattern = acl["resource"]["name"].as_str().unwrap();
            acl["resource"]["type"] == kind
                && match acl["resource"]["patternType"].as_str().unwrap() {
                    "literal" => pattern == name,
                    _ => name.starts_with(pattern),
                }
        };
        let operations = acls.iter().filter(concerns).flat_map(|acl| acl["operations"].as_array().unwrap());
        let mut operations: Vec<_> = operations.map(|it| it.as_str().unwrap().to_owned()).collect();
        operations.sort_unstable();
        operations.dedup();
        operations
    }

    const TAPS: &str = "[[taps]]\nname = \"orders\"\nsource = \"orders\"\ntarget = \"orders-stable\"\n\
        flags = [\"a\"]\nroute = { a = { on = \"orders-canary\" } }\n\
        [[taps]]\nname = \"late\"\nsource = \"orders-canary\"\ntarget = \"late\"\nflags = [\"a\"]\n";

    #[test]
    fn the_user_may_do_what_taps_need_and_no_more() {
        let config = config_of(TAPS, &[("FLAGSTREAM_KAFKA__GROUP_ID", "shop")]);
        let resources = resources(&config);
        let topic = |name| allowed(&resources, "topic", name);
        assert_eq!(topic("orders"), ["Describe", "Read"]);
        assert_eq!(topic("orders-stable"), ["Describe", "Write"]);
        assert_eq!(topic("orders-canary"), ["Describe", "Read", "Write"], "read by the second tap");
        assert_eq!(topic("late"), ["Describe", "Write"]);
        let metrics = Arc::new(Metrics::new());
        for tap in &config.taps {
            let pipeline = Pipeline::tap(&config, tap, &metrics);
            let group = format!("shop-{}", pipeline.role());
            assert_eq!(allowed(&resources, "group", &group), ["Describe", "Read"], "{group}");
            for id in [0, 7].into_iter().flat_map(|worker| pipeline.transactional_ids(worker)) {
                assert!(id.contains(&tap.name), "{id}");
                assert_eq!(allowed(&resources, "transactionalId", &id), ["Describe", "Write"], "{id}");
            }
        }
        let created = resources.iter().filter_map(|resource| resource["spec"]["topicName"].as_str());
        assert!(
            created.into_iter().all(|topic| topic.starts_with("feature-flag-")),
            "taps' topics are others'"
        );
    }

    #[test]
    fn tables_of_attributes_are_topics_with_permissions() {
        let config = config(&[
            ("FLAGSTREAM_ATTRIBUTES__ENABLED", "true"),
            ("FLAGSTREAM_ATTRIBUTES__TABLES", "company=company-attributes"),
        ]);
        let resources = resources(&config);
        for table in ["feature-flag-attributes", "company-attributes"] {
            let topic = resources.iter().find(|resource| resource["spec"]["topicName"] == table).unwrap();
            assert_eq!(topic["spec"]["config"]["cleanup.policy"], "compact");
            let operations = allowed(&resources, "topic", table);
            assert_eq!(operations, ["Describe", "DescribeConfigs", "Read", "Write"]);
        }
        for table in ["user", "company"] {
            let group = format!("flagstream-attributes-{table}");
            assert_eq!(allowed(&resources, "group", &group), ["Describe", "Read"]);
        }
    }

    #[test]
    fn names_of_objects_are_legal() {
        assert_eq!(object_name("Shop.Feature_Flags"), "shop.feature-flags");
        assert_eq!(object_name("_internal_"), "internal");
    }

    #[test]
    fn yaml_keeps_structure_and_types() {
        let value = json!({"a": {"b": [{"c": 1, "d": "x: y"}, ["e"]], "f": {}, "g": []}, "h": true});
        let expected =
            "---\na:\n  b:\n    - c: 1\n      d: \"x: y\"\n    - - \"e\"\n  f: {}\n  g: []\nh: true\n";
        assert_eq!(yaml(&[value]), expected);
    }
}
