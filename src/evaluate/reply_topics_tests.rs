//! Tests of reply topic lookups and of the bounds of their cache.

use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;

use super::*;
use crate::kafka::partition_consumer::PartitionConsumer;

const PREFIX: &str = "replies";

fn topics() -> ReplyTopics {
    ReplyTopics::new(vec![PREFIX.to_owned()], vec!["replies-own".to_owned()])
}

fn answer(name: &str, exists: bool) -> Vec<TopicAnswer> {
    vec![TopicAnswer { name: name.to_owned(), exists }]
}

#[test]
fn only_allowed_names_are_asked_for() {
    let (mut topics, now) = (topics(), Instant::now());
    for name in ["events", "replies-own", "replies/x", "replies x", "", &"replies".repeat(40)] {
        assert!(!topics.note(name, now));
        assert_eq!(topics.check(name), Err("topic_not_allowed"), "{name}");
    }
    assert!(topics.wanted.is_empty());
    assert!(topics.note("replies-a", now) && topics.note("replies-a", now));
    assert_eq!(topics.wanted, ["replies-a"], "once");
}

#[test]
fn what_is_known_is_asked_for_again_after_a_while_and_counts_meanwhile() {
    let (mut topics, now) = (topics(), Instant::now());
    topics.learn(answer("replies-a", true), now);
    assert!(!topics.note("replies-a", now) && topics.wanted.is_empty());
    assert!(!topics.note("replies-a", now + USABLE_TTL), "nobody waits for the answer");
    assert_eq!(topics.wanted, ["replies-a"]);
    assert_eq!(topics.check("replies-a"), Ok(()));
    topics.learn(answer("replies-a", false), now);
    assert_eq!(topics.check("replies-a"), Err("topic_unknown"));
    topics.wanted.clear();
    assert!(!topics.note("replies-a", now) && topics.wanted.is_empty());
    assert!(topics.note("replies-a", now + MISSING_TTL), "it may have been created");
    topics.learn(answer("replies-a", true), now);
    topics.ban("replies-a");
    assert_eq!(topics.check("replies-a"), Err("refused"));
}

#[test]
fn strangers_fill_neither_the_memory_nor_a_question_and_displace_no_real_topic() {
    let (mut topics, now) = (topics(), Instant::now());
    topics.learn(answer("replies-real", true), now);
    for number in 0..MAX_TOPICS_COUNT * 3 {
        let name = format!("replies-{number}");
        topics.note(&name, now);
        topics.learn(answer(&name, false), now);
        topics.ban(&name);
    }
    assert!(topics.missing.len() <= MAX_TOPICS_COUNT && topics.banned.len() <= MAX_TOPICS_COUNT);
    assert_eq!(topics.wanted.len(), MAX_ASKED_COUNT);
    assert_eq!(topics.check("replies-real"), Ok(()));
}

#[test]
fn a_partition_waits_for_a_lookup_and_no_other_waits_with_it() {
    let (mut topics, now) = (topics(), Instant::now());
    assert!(topics.must_wait(0, "replies-a", now));
    assert!(topics.is_waiting(0, now) && !topics.is_waiting(1, now));
    assert_eq!(topics.next_timeout(now), Some(now + MAX_WAIT));
    topics.learn(answer("replies-other", true), now);
    assert!(!topics.is_waiting(0, now), "its next record is looked at again");
    assert!(topics.must_wait(0, "replies-a", now) && topics.is_waiting(0, now));
    topics.learn(answer("replies-a", true), now);
    assert!(!topics.must_wait(0, "replies-a", now));
    assert_eq!((topics.is_waiting(0, now), topics.next_timeout(now)), (false, None));
}

#[test]
fn a_name_without_a_conclusive_answer_is_looked_up_again_while_the_partition_may_wait() {
    let (mut topics, now) = (topics(), Instant::now());
    assert!(topics.must_wait(0, "replies-a", now));
    topics.asked = std::mem::take(&mut topics.wanted);
    topics.learn(Vec::new(), now);
    assert!(topics.must_wait(0, "replies-a", now));
    assert_eq!(topics.wanted, ["replies-a"]);
    assert!(!topics.must_wait(0, "replies-a", now + MAX_WAIT));
    assert_eq!(topics.check("replies-a"), Err("topic_unknown"));
}

#[test]
fn a_lookup_that_ended_with_its_session_is_requested_again() {
    let (mut topics, now) = (topics(), Instant::now());
    assert!(topics.must_wait(0, "replies-a", now));
    topics.asked = std::mem::take(&mut topics.wanted);
    topics.begin_session();
    assert!(!topics.is_waiting(0, now));
    assert!(topics.must_wait(0, "replies-a", now));
    assert_eq!(topics.wanted, ["replies-a"]);
}

#[test]
fn a_partition_waits_for_a_bounded_share_of_the_time() {
    let (mut topics, start) = (topics(), Instant::now());
    // No answer comes.
    let mut wait = |partition, at: Duration| {
        let now = start + at;
        topics.must_wait(partition, &format!("replies-{}", at.as_millis()), now)
    };
    assert!(wait(0, Duration::ZERO) && !wait(0, MAX_WAIT));
    assert!(!wait(0, MAX_WAIT), "its allowance is spent");
    assert!(wait(1, MAX_WAIT), "another partition has one of its own");
    let second = Duration::from_secs(1);
    assert!(wait(0, MAX_WAIT + second), "a share of the time that has passed");
    assert!(!wait(0, MAX_WAIT + second + second / WAIT_SHARE));
    assert!(
        wait(0, MAX_WAIT + second * 3_600) && !wait(0, MAX_WAIT * 2 + second * 3_600),
        "and no more than at first"
    );
    topics.retain(&[1]);
    assert_eq!(topics.waits.len(), 1);
}

#[test]
fn a_broker_is_asked_for_all_names_at_once_and_creates_none() {
    let cluster = MockCluster::new(1).unwrap();
    for topic in ["requests", "replies-a", "replies-b"] {
        cluster.create_topic(topic, 1, 1).unwrap();
    }
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", cluster.bootstrap_servers()).set("group.id", "evaluators");
    let mut consumer = PartitionConsumer::subscribe(&config, "requests").unwrap();
    let mut questions = consumer.topic_questions("requests");
    let mut topics = topics();
    let names = ["replies-a", "replies-missing", "replies-b", "elsewhere"];
    let deadline = Instant::now() + Duration::from_secs(20);
    while topics.check("replies-b").is_err() {
        assert!(Instant::now() < deadline, "the broker does not answer: {topics:?}");
        consumer.serve().unwrap();
        for name in names {
            topics.must_wait(0, name, Instant::now());
        }
        questions.find_broker();
        topics.update(&mut questions, Instant::now());
        consumer.wait(Duration::from_millis(10));
    }
    assert_eq!(topics.check("replies-a"), Ok(()));
    assert_eq!(topics.check("replies-missing"), Err("topic_unknown"));
    assert!(topics.missing.contains_key("replies-missing"), "the same answer told it");
    assert_eq!(topics.check("elsewhere"), Err("topic_not_allowed"));
}
