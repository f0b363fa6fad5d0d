//! Topics of one test's own.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::http::block_on;
use super::{Stack, TEST_TIMEOUT, flagstream, wait_until};

/// Names that no other test uses, for all topics, for groups, and for whatever else is shared.
#[derive(Debug, Clone)]
pub struct Topics {
    pub prefix: String,
    pub partitions: i32,
    pub requests: String,
    pub events: String,
    pub changes: String,
    pub definitions: String,
    pub updates: String,
    pub dead_letters: String,
    pub conversions: String,
    pub exposures: String,
    pub overrides: String,
    pub audit_checkpoints: String,
    pub instances: String,
    pub client_metrics: String,
    /// An allowed prefix; [`Topics::reply_topic`] makes topics below it.
    pub replies: String,
    pub kafka: String,
    made: Arc<Made>,
}

/// Topics that are deleted when the last owner drops them: a broker with thousands of partitions is slow.
#[derive(Debug)]
struct Made {
    kafka: String,
    topics: Mutex<Vec<String>>,
}

impl Drop for Made {
    fn drop(&mut self) {
        let topics = self.topics.get_mut().unwrap_or_else(PoisonError::into_inner);
        let topics: Vec<_> = topics.iter().map(String::as_str).collect();
        let options = AdminOptions::new().request_timeout(Some(Duration::from_secs(5)));
        // What does not work here does no harm.
        let _ = block_on(admin(&self.kafka).delete_topics(&topics, &options));
    }
}

impl Topics {
    /// Names only.
    pub fn named(stack: &Stack) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("it-{:08x}-{number}", rand::random::<u32>());
        let name = |role: &str| format!("{prefix}-{role}");
        Self {
            // One for each worker of three instances.
            partitions: 6,
            requests: name("requests"),
            events: name("events"),
            changes: name("changes"),
            definitions: name("definitions"),
            updates: name("updates"),
            dead_letters: name("dead-letters"),
            conversions: name("conversions"),
            exposures: name("exposures"),
            overrides: name("overrides"),
            audit_checkpoints: name("audit-checkpoints"),
            instances: name("instances"),
            client_metrics: name("client-metrics"),
            replies: name("replies"),
            kafka: stack.kafka.clone(),
            made: Arc::new(Made { kafka: stack.kafka.clone(), topics: Mutex::default() }),
            prefix,
        }
    }

    /// Topics made by `flagstream topics apply`.
    pub fn apply(stack: &Stack, folder: &Path) -> Self {
        let topics = Self::named(stack);
        topics.will_be_made();
        let output = flagstream(folder, &["topics", "apply"], topics.settings());
        assert!(
            output.status.success(),
            "topics apply: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        topics
    }

    /// Registers topics that `flagstream topics apply` creates, so that they are deleted later.
    pub fn will_be_made(&self) {
        let all = [
            &self.requests,
            &self.events,
            &self.changes,
            &self.definitions,
            &self.updates,
            &self.dead_letters,
            &self.conversions,
            &self.exposures,
            &self.overrides,
            &self.audit_checkpoints,
            &self.instances,
            &self.client_metrics,
        ];
        self.made.topics.lock().unwrap().extend(all.map(String::clone));
    }

    /// The environment variables that make flagstream use these topics.
    pub fn settings(&self) -> Vec<(String, String)> {
        [
            ("KAFKA_BOOTSTRAP_SERVERS", self.kafka.clone()),
            ("FLAGSTREAM_TOPICS__REQUESTS", self.requests.clone()),
            ("FEATURE_FLAG_KAFKA_TOPIC", self.events.clone()),
            ("FLAGSTREAM_TOPICS__CHANGES", self.changes.clone()),
            ("FLAGSTREAM_TOPICS__DEFINITIONS", self.definitions.clone()),
            ("FLAGSTREAM_TOPICS__UPDATES", self.updates.clone()),
            ("FLAGSTREAM_TOPICS__DEAD_LETTERS", self.dead_letters.clone()),
            ("FLAGSTREAM_TOPICS__CONVERSIONS", self.conversions.clone()),
            ("FLAGSTREAM_TOPICS__EXPOSURES", self.exposures.clone()),
            ("FLAGSTREAM_TOPICS__OVERRIDES", self.overrides.clone()),
            ("FLAGSTREAM_TOPICS__AUDIT_CHECKPOINTS", self.audit_checkpoints.clone()),
            ("FLAGSTREAM_TOPICS__INSTANCES", self.instances.clone()),
            ("FLAGSTREAM_TOPICS__CLIENT_METRICS", self.client_metrics.clone()),
            ("FLAGSTREAM_TOPICS__PARTITIONS", self.partitions.to_string()),
            ("FLAGSTREAM_KAFKA__GROUP_ID", self.prefix.clone()),
            ("FLAGSTREAM_REPLY__ALLOWED_PREFIXES", self.replies.clone()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }

    /// Deletes the events topic and creates it again, empty and with another id.
    pub fn make_events_anew(&self) {
        let (admin, options) = (admin(&self.kafka), AdminOptions::new());
        let deleted = block_on(admin.delete_topics(&[&self.events], &options)).unwrap();
        assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
        let new = NewTopic::new(&self.events, self.partitions, TopicReplication::Fixed(1));
        wait_until("the topic is made anew", TEST_TIMEOUT, || {
            block_on(admin.create_topics([&new], &options)).unwrap().iter().all(Result::is_ok)
        });
    }

    /// Makes a topic that may be replied to.
    pub fn reply_topic(&self, name: &str) -> String {
        let topic = format!("{}-{name}", self.replies);
        self.create(&topic, 1);
        topic
    }

    pub fn create(&self, topic: &str, partitions: i32) {
        self.made.topics.lock().unwrap().push(topic.to_owned());
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1));
        let (admin, options) = (admin(&self.kafka), AdminOptions::new());
        wait_until("the topic is created", TEST_TIMEOUT, || {
            let made = block_on(admin.create_topics([&new], &options)).unwrap();
            made.into_iter().all(|result| match result {
                Ok(_) => true,
                // A broker that a busy machine has held up is not registered for a moment, and takes no replicas.
                Err((_, RDKafkaErrorCode::InvalidReplicationFactor)) => false,
                Err((topic, code)) => panic!("topic {topic}: {code}"),
            })
        });
    }

    /// Deletes topics that [`reply_topic`](Self::reply_topic) made.
    pub fn delete(&self, topics: &[String]) {
        self.made.topics.lock().unwrap().retain(|made| !topics.contains(made));
        let names: Vec<_> = topics.iter().map(String::as_str).collect();
        let deleted = block_on(admin(&self.kafka).delete_topics(&names, &AdminOptions::new())).unwrap();
        assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    }

    /// Adds partitions to the topic of requests.
    pub fn grow(&mut self, partitions: i32) {
        self.grow_topic(&self.requests, partitions);
        self.partitions = partitions;
    }

    /// Adds partitions to a topic, so that it has `partitions`.
    pub fn grow_topic(&self, topic: &str, partitions: i32) {
        let grown = NewPartitions::new(topic, usize::try_from(partitions).unwrap());
        for result in block_on(admin(&self.kafka).create_partitions([&grown], &AdminOptions::new())).unwrap()
        {
            result.unwrap();
        }
    }

    /// Deletes the records of a partition before an offset.
    pub fn delete_records_before(&self, topic: &str, partition: i32, before: i64) {
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(topic, partition, Offset::Offset(before)).unwrap();
        let deleted = block_on(admin(&self.kafka).delete_records(&offsets, &AdminOptions::new())).unwrap();
        deleted.elements().iter().for_each(|element| element.error().unwrap());
    }

    /// Deletes a topic, and creates another one with as many partitions under its name.
    pub fn recreate(&self, topic: &str, partitions: i32) {
        let (admin, options) = (admin(&self.kafka), AdminOptions::new());
        for result in block_on(admin.delete_topics(&[topic], &options)).unwrap() {
            result.unwrap();
        }
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        // Deleting takes its time.
        wait_until("the topic created anew", TEST_TIMEOUT, || {
            let made = block_on(admin.create_topics([&new], &options)).unwrap();
            made.iter().all(Result::is_ok)
        });
    }

    /// Deletes a group with its offsets, once its members are gone.
    pub fn delete_group(&self, group: &str) {
        let admin = admin(&self.kafka);
        wait_until("the group deleted", TEST_TIMEOUT, || {
            let deleted = block_on(admin.delete_groups(&[group], &AdminOptions::new())).unwrap();
            deleted.iter().all(Result::is_ok)
        });
    }

    /// Deletes a topic and creates it again with its required properties.
    pub fn make_anew(&self, topic: &str) {
        for result in block_on(admin(&self.kafka).delete_topics(&[topic], &AdminOptions::new())).unwrap() {
            result.unwrap();
        }
        let new = NewTopic::new(topic, 1, TopicReplication::Fixed(1)).set("cleanup.policy", "compact");
        // The old one is gone a moment later.
        wait_until("made anew", TEST_TIMEOUT, || {
            let made = block_on(admin(&self.kafka).create_topics([&new], &AdminOptions::new())).unwrap();
            made.into_iter().all(|result| result.is_ok())
        });
    }

    /// Removes all records that the only partition of a topic has now.
    pub fn delete_all_records(&self, topic: &str) {
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(topic, 0, Offset::End).unwrap();
        block_on(admin(&self.kafka).delete_records(&offsets, &AdminOptions::new())).unwrap();
    }

    pub fn set_policy(&self, topic: &str, policy: &str) {
        let config = AlterConfig::new(ResourceSpecifier::Topic(topic)).set("cleanup.policy", policy);
        let set = block_on(admin(&self.kafka).alter_configs([&config], &AdminOptions::new())).unwrap();
        for result in set {
            result.unwrap();
        }
    }

    /// Sets the largest record (batch, as compressed) that a topic takes.
    pub fn limit_record(&self, topic: &str, bytes: usize) {
        self.configure(topic, "max.message.bytes", &bytes.to_string());
    }

    /// Sets one of a topic's settings.
    pub fn configure(&self, topic: &str, name: &str, value: &str) {
        let config = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(name, value);
        let set = block_on(admin(&self.kafka).alter_configs([&config], &AdminOptions::new())).unwrap();
        for result in set {
            result.unwrap();
        }
    }
}

fn admin(kafka: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", kafka).create().unwrap()
}
