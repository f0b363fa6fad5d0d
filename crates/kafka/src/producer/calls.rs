//! The end of a transaction: calls that may block for long, each in a thread of its own and within a time limit.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer};

use super::{Failures, TrackedProducer};

/// How long the result of the call is waited for after the call's own timeout.
const GRACE: Duration = Duration::from_millis(500);
/// Interval at which the wait checks for a shutdown.
const SLICE: Duration = Duration::from_millis(100);

/// A call to Kafka that runs in a thread of its own. The thread keeps the client until the call returns.
#[derive(Debug)]
pub struct Call {
    outcome: mpsc::Receiver<(KafkaResult<()>, Instant)>,
    deadline: Instant,
}

impl Call {
    /// Waits for the result, and returns it with the time at which the call ended. `None` if there is no result within
    /// the timeout, or as soon as `is_over` returns `true`: the producer must not be used any more then.
    pub fn wait(self, mut is_over: impl FnMut() -> bool) -> Option<(KafkaResult<()>, Instant)> {
        loop {
            match self.outcome.recv_timeout(SLICE) {
                Ok(ended) => return Some(ended),
                Err(mpsc::RecvTimeoutError::Timeout) if Instant::now() < self.deadline && !is_over() => {}
                Err(_) => return None,
            }
        }
    }
}

impl TrackedProducer {
    /// Begins to add a group's offsets to the open transaction.
    ///
    /// If the group's coordinator leaves the cluster meanwhile, librdkafka may wait without limit
    /// (<https://github.com/confluentinc/librdkafka/issues/5511>).
    pub fn begin_send_offsets(
        &self,
        offsets: TopicPartitionList,
        group: Arc<ConsumerGroupMetadata>,
        timeout: Duration,
    ) -> Call {
        self.call("send-offsets", timeout, move |producer| {
            producer.send_offsets_to_transaction(&offsets, &group, timeout)
        })
    }

    /// Begins to commit the open transaction. Nothing may be sent with this producer until the call has ended.
    pub fn begin_commit(&self, timeout: Duration) -> Call {
        self.call("commit", timeout, move |producer| producer.commit_transaction(timeout))
    }

    fn call(
        &self,
        name: &str,
        timeout: Duration,
        work: impl FnOnce(&BaseProducer<Failures>) -> KafkaResult<()> + Send + 'static,
    ) -> Call {
        let (done, outcome) = mpsc::sync_channel(1);
        let (producer, failed) = (Arc::clone(&self.producer), done.clone());
        let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let result = work(&producer);
            // Before the result is sent, so that the client normally ends with its session and not here.
            drop(producer);
            let _ = done.send((result, Instant::now()));
        });
        if spawned.is_err() {
            let error = KafkaError::MessageProduction(RDKafkaErrorCode::Fail);
            let _ = failed.send((Err(error), Instant::now()));
        }
        Call { outcome, deadline: Instant::now() + timeout + GRACE }
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

    fn ended(call: Call) -> Option<KafkaResult<()>> {
        call.wait(|| false).map(|(result, _)| result)
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
        ended(producer.begin_send_offsets(offsets(), group, TIMEOUT)).unwrap().unwrap();
        ended(producer.begin_commit(TIMEOUT)).unwrap().unwrap();
        producer.inner().begin_transaction().unwrap();
    }

    #[test]
    fn a_commit_reports_why_it_failed() {
        let cluster = MockCluster::new(2).unwrap();
        let (producer, _) = transaction(&cluster);
        producer.inner().abort_transaction(TIMEOUT).unwrap();
        let failed = ended(producer.begin_commit(TIMEOUT)).unwrap().unwrap_err();
        assert_eq!(failed.rdkafka_error_code(), Some(RDKafkaErrorCode::State));
    }

    #[test]
    fn a_group_coordinator_that_is_gone_holds_up_nobody_for_longer_than_the_timeout() {
        let cluster = MockCluster::new(2).unwrap();
        let (producer, group) = transaction(&cluster);
        cluster.broker_down(2).unwrap();
        // librdkafka itself would go on waiting. The test ends only if the wait does.
        let sent = ended(producer.begin_send_offsets(offsets(), group, TIMEOUT));
        assert!(!matches!(sent, Some(Ok(()))), "{sent:?}");
    }

    #[test]
    fn a_shutdown_ends_the_wait() {
        let cluster = MockCluster::new(2).unwrap();
        let (producer, group) = transaction(&cluster);
        cluster.broker_down(2).unwrap();
        assert!(producer.begin_send_offsets(offsets(), group, TIMEOUT * 60).wait(|| true).is_none());
    }
}
