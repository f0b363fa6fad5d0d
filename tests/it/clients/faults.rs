//! The clients for Python and Node through Kafka, while Kafka and the service go away and come back. Those for Java have such
//! tests of their own, in the run of Maven.

use std::process::Command;
use std::time::Duration;

use crate::harness::{Cluster, PROMPT, Stack};

use super::control::Services;
use super::{folder, group, node_client, python, skipped, start, told};

/// Longest run of the tests in one language. The machine may be busy.
const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn the_clients_for_python_and_node_survive_faults() {
    let (stack, _shared) = Stack::shared();
    if !Cluster::is_possible(stack) {
        return skipped("faults of clients/python and clients/node", "Kafka runs in a container");
    }
    let cluster = Cluster::single(stack, PROMPT);
    let group = group(&stack.with_kafka(cluster.kafka()));
    let service = start(&group, &[]);
    let mut python = python(stack);
    python
        .env("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        .env("REPLY_TOPIC", group.topics.reply_topic("python"))
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
        .current_dir(folder("clients/python"));
    told(&mut python, &service, &group.topics);
    let client = node_client(stack);
    let mut node = Command::new("node");
    node.env("REPLY_TOPIC", group.topics.reply_topic("node"))
        .args(["--test", "--test-timeout=120000", "test/faults.mjs"])
        .current_dir(client.path().join("clients/node"));
    told(&mut node, &service, &group.topics);

    let mut services = Services { service, cluster, redis: None };
    let (status, said) = services.run(&mut python, "the tests in Python", LIMIT);
    assert!(status.success() && said.contains("5 passed"), "{said}");
    let (status, said) = services.run(&mut node, "the tests in Node", LIMIT);
    assert!(status.success() && said.contains("# pass 3"), "{said}");
}
