//! Tests of topic descriptions on librdkafka's mock broker, which is also the broker of `dev`.
#![allow(clippy::unwrap_used)]

use rdkafka::ClientConfig;
use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;
use rdkafka::mocking::MockCluster;

use super::*;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

#[test]
fn topics_are_asked_for_by_name_and_none_is_made_by_asking() {
    let cluster = MockCluster::new(3).unwrap();
    for number in 0..20 {
        cluster.create_topic(&format!("other-{number}"), 3, 1).unwrap();
    }
    cluster.create_topic("ours", 4, 1).unwrap();
    // A producer's client, as `topics` uses it; its metadata requests may create topics.
    let client: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).create().unwrap();
    for _ in 0..2 {
        let Overview { brokers, topics, .. } =
            overview(client.inner(), &["ours", "absent"], &["internal"], DEFAULT_TIMEOUT).unwrap();
        assert_eq!(brokers, 3);
        let found: Vec<_> = topics.iter().map(|(name, topic)| (name.as_str(), topic.partitions)).collect();
        assert_eq!(found, [("ours", 4)]);
        assert_eq!(topics.get("ours").map(|topic| topic.leaderless), Some(0));
    }
    let all = client.inner().fetch_metadata(None, DEFAULT_TIMEOUT).unwrap();
    assert!(all.topics().iter().all(|topic| topic.name() != "absent"));
}
