//! Tests of transactions that are committed in the background while the next batch is filled.

use std::collections::BTreeMap;

use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use super::*;
use crate::config::DeliveryMode;
use crate::metrics::BatchLabels;

/// Number of requests in a batch.
const BATCH: usize = 16;

/// A worker's log with the number of requests that were committed when each was answered.
type Committed = Arc<Mutex<Vec<(SourceOffset, u64)>>>;

struct WithCommitted {
    log: Committed,
    metrics: Arc<Metrics>,
}

impl Respond for WithCommitted {
    fn begin(&mut self, _: Option<&Arc<str>>) {}

    fn respond(&mut self, record: &Record<'_>, sender: &mut BatchSender<'_>) -> KafkaResult<Responded> {
        sender.event(record, record.key(), Results::One(0), None, record.offset().to_string().as_bytes())?;
        self.log.lock().unwrap().push((place(record), self.metrics.requests.get()));
        Ok(Responded::Done)
    }
}

impl Fixture {
    /// A broker with two partitions and batches of a few requests.
    fn with_small_batches(mode: DeliveryMode) -> Self {
        Self::with_config(2, 2, |config| {
            config.delivery.mode = mode;
            config.delivery.batch_max_messages = BATCH;
        })
    }

    fn start_with_committed(&mut self) -> Committed {
        let (log, metrics) = (Committed::default(), Arc::clone(&self.parts.metrics));
        self.start_with(WithCommitted { log: Arc::clone(&log), metrics });
        log
    }

    /// The offsets of the requests in the events topic, in its order, by partition.
    fn events(&self, count: usize) -> BTreeMap<i32, Vec<i64>> {
        let mut settings = ClientConfig::new();
        settings.set("bootstrap.servers", self.cluster.bootstrap_servers()).set("group.id", "reader");
        let consumer: BaseConsumer = settings.create().unwrap();
        let mut all = TopicPartitionList::new();
        for partition in [0, 1] {
            let topic = &self.parts.config.topics.events;
            all.add_partition_offset(topic, partition, rdkafka::Offset::Beginning).unwrap();
        }
        consumer.assign(&all).unwrap();
        let mut found = BTreeMap::<i32, Vec<i64>>::new();
        wait_until("the events", || {
            while let Some(Ok(event)) = consumer.poll(Duration::from_millis(100)) {
                let offset = std::str::from_utf8(event.payload().unwrap()).unwrap().parse().unwrap();
                found.entry(event.partition()).or_default().push(offset);
            }
            found.values().map(Vec::len).sum::<usize>() >= count
        });
        found
    }
}

fn all(count: i64) -> Vec<i64> {
    (0..count).collect()
}

#[test]
fn the_next_batch_is_answered_while_the_one_before_is_committed() {
    let mut fixture = Fixture::with_small_batches(DeliveryMode::Transactional);
    for partition in [0, 1] {
        fixture.send_many(partition, 20 * BATCH, "1", None);
    }
    let log = fixture.start_with_committed();
    fixture.wait_for(40 * BATCH);
    assert_eq!(
        fixture.events(40 * BATCH),
        BTreeMap::from([(0, all(320)), (1, all(320))]),
        "once and in order"
    );
    let log = log.lock().unwrap();
    let early = log
        .iter()
        .enumerate()
        .step_by(BATCH)
        .filter(|(answered, (_, committed))| *committed < u64::try_from(*answered).unwrap());
    assert!(early.count() > 10, "most batches begin before the one before is committed: {log:?}");
    let behind = |(answered, (_, committed)): (usize, &(SourceOffset, u64))| answered as u64 - committed;
    let most = log.iter().enumerate().map(behind).max().unwrap();
    assert!(most < 2 * BATCH as u64, "no more than one batch is being committed: {most}");
}

#[test]
fn nothing_is_committed_in_the_background_without_transactions() {
    let mut fixture = Fixture::with_small_batches(DeliveryMode::AtLeastOnce);
    fixture.send_many(0, 10 * BATCH, "1", None);
    let log = fixture.start_with_committed();
    fixture.wait_for(10 * BATCH);
    let log = log.lock().unwrap();
    let begins = log.iter().enumerate().step_by(BATCH);
    let committed: Vec<_> = begins.map(|(answered, (_, committed))| answered as u64 - committed).collect();
    assert_eq!(committed, [0; 10]);
}

#[test]
fn a_shutdown_waits_for_the_batch_that_is_being_committed() {
    let mut fixture = Fixture::with_small_batches(DeliveryMode::Transactional);
    fixture.send_many(0, 200 * BATCH, "1", None);
    let log = fixture.start_with_committed();
    wait_until("some are committed", || fixture.parts.metrics.requests.get() >= 4 * BATCH as u64);
    fixture.parts.shutdown.cancel();
    for worker in fixture.workers.drain(..) {
        worker.join().unwrap();
    }
    let answered = log.lock().unwrap().len() as u64;
    assert_eq!(fixture.parts.metrics.requests.get(), answered, "every answered request is committed");
}

#[test]
fn a_slow_broker_does_not_make_batches_small() {
    const REQUESTS: usize = 2_000;
    let mut fixture = Fixture::with_config(2, 2, |config| {
        config.delivery.transaction_timeout = Duration::from_secs(2);
        config.delivery.batch_max_messages = 500;
    });
    fixture.send(0);
    fixture.start_worker();
    fixture.wait_for(1);
    // A commit needs several round trips: most of the time of a transaction, however few records it has.
    fixture.cluster.broker_round_trip_time(1, Duration::from_millis(300)).unwrap();
    fixture.send_many(0, REQUESTS, "1", None);
    fixture.wait_for(1 + REQUESTS);
    let committed = BatchLabels { outcome: "committed" };
    let batches = fixture.parts.metrics.evaluate.batches.get_or_create(&committed).get();
    assert!(batches < 20, "{batches} batches for {REQUESTS} requests");
}
