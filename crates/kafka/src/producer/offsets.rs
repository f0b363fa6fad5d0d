//! Adding a group's offsets to a transaction, within a time limit.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::Producer;

use super::TrackedProducer;

/// How long the result of the call is waited for after the call's own timeout.
const GRACE: Duration = Duration::from_millis(500);
/// Interval at which the wait checks for a shutdown.
const SLICE: Duration = Duration::from_millis(100);

impl TrackedProducer {
    /// Adds a group's offsets to the open transaction. `None` if there is no result after `timeout`, or as soon as
    /// `is_over` returns `true`: the producer must not be used any more then.
    ///
    /// If the group's coordinator leaves the cluster meanwhile, librdkafka may wait without limit
    /// (<https://github.com/confluentinc/librdkafka/issues/5511>). So the call has a thread of its own, which keeps the
    /// client until the call returns.
    pub fn send_offsets(
        &self,
        offsets: TopicPartitionList,
        group: Arc<ConsumerGroupMetadata>,
        timeout: Duration,
        mut is_over: impl FnMut() -> bool,
    ) -> Option<KafkaResult<()>> {
        let (done, outcome) = mpsc::sync_channel(1);
        let producer = Arc::clone(&self.producer);
        let thread = std::thread::Builder::new().name("send-offsets".to_owned());
        let spawned = thread.spawn(move || {
            let sent = producer.send_offsets_to_transaction(&offsets, &group, timeout);
            // Before the result is sent, so that the client normally ends with its session and not here.
            drop(producer);
            let _ = done.send(sent);
        });
        if spawned.is_err() {
            return Some(Err(KafkaError::MessageProduction(RDKafkaErrorCode::Fail)));
        }
        let deadline = Instant::now() + timeout + GRACE;
        loop {
            match outcome.recv_timeout(SLICE) {
                Ok(sent) => return Some(sent),
                Err(mpsc::RecvTimeoutError::Timeout) if Instant::now() < deadline && !is_over() => {}
                Err(_) => return None,
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::mocking::{MockCluster, MockCoordinator};
    use rdkafka::{ClientConfig, Offset};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(2);

    /// A producer in an open transaction on the first of two brokers, and the metadata of a group on the second.
    fn transaction(
        cluster: &MockCluster<'_, impl rdkafka::ClientContext>,
    ) -> (TrackedProducer, Arc<ConsumerGroupMetadata>) {
        cluster.create_topic("requests", 1, 1).unwrap();
        cluster.partition_leader("requests", 0, Some(1)).unwrap();
        cluster.coordinator(MockCoordinator::Transaction("worker".to_owned()), 1).unwrap();
        cluster.coordinator(MockCoordinator::Group("evaluators".to_owned()), 2).unwrap();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers());
        let consumer: BaseConsumer = config.clone().set("group.id", "evaluators").create().unwrap();
        let producer = TrackedProducer::create(config.set("transactional.id", "worker"), "requests").unwrap();
        producer.inner().init_transactions(TIMEOUT * 5).unwrap();
        producer.inner().begin_transaction().unwrap();
        (producer, Arc::new(consumer.group_metadata().unwrap()))
    }

    fn offsets() -> TopicPartitionList {
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset("requests", 0, Offset::Offset(1)).unwrap();
        offsets
    }

    #[test]
    fn offsets_are_added_to_the_transaction() {
        let cluster = MockCluster::new(2).unwrap();
        let (producer, group) = transaction(&cluster);
        producer.send_offsets(offsets(), group, TIMEOUT, || false).unwrap().unwrap();
        producer.inner().commit_transaction(TIMEOUT).unwrap();
    }

    #[test]
    fn a_group_coordinator_that_is_gone_holds_up_nobody_for_longer_than_the_timeout() {
        let cluster = MockCluster::new(2).unwrap();
        let (producer, group) = transaction(&cluster);
        cluster.broker_down(2).unwrap();
        // librdkafka itself would go on waiting. The test ends only if the wait does.
        let sent = producer.send_offsets(offsets(), group, TIMEOUT, || false);
        assert!(!matches!(sent, Some(Ok(()))), "{sent:?}");
    }

    #[test]
    fn a_shutdown_ends_the_wait() {
        let cluster = MockCluster::new(2).unwrap();
        let (producer, group) = transaction(&cluster);
        cluster.broker_down(2).unwrap();
        assert!(producer.send_offsets(offsets(), group, TIMEOUT * 60, || true).is_none());
    }
}
