//! Tests of the way from a call to Kafka and to the disk, on librdkafka's mock broker.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Instant;

use rdkafka::mocking::MockCluster;
use tokio::sync::watch;

use super::*;
use crate::config::{Profile, load_from};
use crate::metrics::EnvironmentLabels;

const DEADLINE: Duration = Duration::from_secs(60);
/// Longer than the timeout that once covered the connection of a new client and its metadata request together.
const ROUND_TRIP: Duration = Duration::from_millis(400);

fn config(broker: &str, state_dir: &Path) -> Arc<Config> {
    let variables = [
        ("KAFKA_BOOTSTRAP_SERVERS", broker),
        ("FLAGSTREAM_INSTANCE", "test"),
        ("FLAGSTREAM_API__DURABILITY", "spool"),
    ];
    let variables = variables.map(|(name, value)| (name.into(), value.into()));
    let mut config = load_from(None, variables, Profile::Service).unwrap().config;
    state_dir.clone_into(&mut config.state_dir);
    Arc::new(config)
}

fn batch(bytes: usize) -> EventBatch {
    let mut batch = EventBatch::new("e".into());
    batch.record(Some(b"key"), |out| out.resize(out.len() + bytes, b'x'));
    batch
}

/// Number of dropped events with this reason.
fn dropped(metrics: &Metrics, reason: &'static str) -> u64 {
    metrics.dropped.get_or_create(&DropLabels { what: "event", reason }).get()
}

#[tokio::test]
async fn events_leave_over_a_link_with_long_round_trips() {
    let cluster = MockCluster::new(1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = config(&cluster.bootstrap_servers(), folder.path());
    cluster.create_topic(&config.topics.events, 2, 1).unwrap();
    cluster.broker_round_trip_time(1, ROUND_TRIP).unwrap();
    let metrics = Metrics::new();
    let (_fit, fit) = watch::channel(true);
    let started = Publisher::start(Arc::clone(&config), Arc::clone(&metrics), Reporter::detached(), fit);
    let (publisher, publishing) = started.unwrap();
    publisher.publish(batch(10)).await.unwrap();
    let published =
        || metrics.events_published.get_or_create(&EnvironmentLabels { environment: "e".into() }).get();
    let deadline = Instant::now() + DEADLINE;
    while published() == 0 {
        assert!(Instant::now() < deadline, "the event does not arrive");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(tokio::task::spawn_blocking(|| publishing.join()).await.unwrap());
}

#[tokio::test]
async fn a_disk_that_fails_while_kafka_is_away_drops_events_by_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let config = config("127.0.0.1:1", folder.path());
    let metrics = Metrics::new();
    let (_fit, fit) = watch::channel(true);
    let health = Reporter::detached();
    let started = Publisher::start(Arc::clone(&config), Arc::clone(&metrics), health.clone(), fit);
    let (publisher, publishing) = started.unwrap();
    // Without the folder no segment can be created.
    std::fs::remove_dir_all(folder.path().join("spool")).unwrap();
    let deadline = Instant::now() + DEADLINE;
    while dropped(&metrics, "spool_failed") == 0 {
        assert!(Instant::now() < deadline, "nothing is dropped with this reason");
        publisher.publish(batch(4 << 20)).await.unwrap();
    }
    while !health.report().detail.unwrap_or_default().contains("writing to the spool fails") {
        assert!(Instant::now() < deadline, "health does not name the disk: {:?}", health.report());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // From now on, calls fail immediately instead of waiting for space.
    let full = publisher.queue.push(Entry { batch: batch(queue::QUEUE_BYTES), delivered: None });
    assert!(full.is_err_and(|full| !full.may_pass()));
    drop(publisher);
    assert!(tokio::task::spawn_blocking(|| publishing.join()).await.unwrap());
}
