#![allow(clippy::unwrap_used)]
//! Dead letters that are sent again, on a mock broker.

use std::path::Path;
use std::time::Instant;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers as _, OwnedHeaders, OwnedMessage};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use super::*;
use crate::config::{Profile, load_from};

const DEADLINE: Duration = Duration::from_secs(30);
const INTO_SOURCE: Allowed = Allowed { whole: false, into_source: true };
/// A tap that needs a user, and one that only reads headers.
const TAPS: &str = "[[taps]]\nname = \"flagged\"\nsource = \"orders\"\ntarget = \"flagged\"\nflags = [\"a\"]\n\
    user = \"/customer\"\non_missing_user = \"dead_letter\"\n\
    [[taps]]\nname = \"other\"\nsource = \"others\"\ntarget = \"flagged\"\nflags = [\"a\"]\n";

struct Fixture {
    cluster: MockCluster<'static, DefaultProducerContext>,
    config: Config,
}

impl Fixture {
    fn new() -> Self {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("orders", 3, 1).unwrap();
        let address = ("KAFKA_BOOTSTRAP_SERVERS".into(), cluster.bootstrap_servers().into());
        let file = (Path::new("flagstream.toml"), TAPS);
        let config = load_from(Some(file), [address], Profile::Service).unwrap().config;
        Self { cluster, config }
    }

    /// Replays one dead letter, as the command and the HTTP API do.
    async fn replay(&self, letter: &DeadLetterRecord, allowed: Allowed, edited: Option<&str>) -> Fate {
        let replayer = Replayer::new(&self.config, Writers::default()).unwrap();
        if let Some(kept) = replayer.check(letter, allowed, edited.is_some()) {
            return kept;
        }
        let (json, edited) =
            (letter.body.clone().unwrap_or_default(), edited.map(|it| it.as_bytes().to_vec()));
        replayer.take(letter, Ok(json), edited, false).await.unwrap()
    }

    /// Reads the first record of a partition of the source.
    fn record(&self, partition: i32) -> OwnedMessage {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.cluster.bootstrap_servers())
            .set("group.id", "reader")
            .create()
            .unwrap();
        let mut all = TopicPartitionList::new();
        all.add_partition_offset("orders", partition, Offset::Beginning).unwrap();
        consumer.assign(&all).unwrap();
        let until = Instant::now() + DEADLINE;
        loop {
            assert!(Instant::now() < until, "no record");
            if let Some(Ok(record)) = consumer.poll(Duration::from_millis(100)) {
                return record.detach();
            }
        }
    }
}

fn dead_letter(source_topic: &str, body: Option<&[u8]>) -> DeadLetterRecord {
    DeadLetterRecord {
        partition: 1,
        offset: 9,
        written_ms: 7,
        code: "NOT_JSON".to_owned(),
        message: "value: expected a value at byte 0".to_owned(),
        source_topic: source_topic.to_owned(),
        source_partition: 2,
        source_offset: 41,
        index: None,
        body_omitted: false,
        key: Some(b"order-1".to_vec()),
        body: body.map(<[u8]>::to_vec),
        headers: OwnedHeaders::new().insert(Header { key: "country", value: Some("NL") }),
    }
}

fn reason(fate: &Fate) -> &'static str {
    match fate {
        Fate::Kept { reason, .. } => reason,
        Fate::Sent { .. } | Fate::Ready => "sent",
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_a_tap_goes_to_its_source_only_if_that_is_allowed() {
    let fixture = Fixture::new();
    let right = dead_letter("orders", Some(br#"{"customer":"c-7"}"#));
    let refused = fixture.replay(&right, Allowed::default(), None).await;
    let Fate::Kept { reason: "source_of_a_tap", message } = refused else { unreachable!("{refused:?}") };
    assert!(message.contains("source of flagged") && message.contains("--into-source"), "{message}");
    let sent = fixture.replay(&right, INTO_SOURCE, None).await;
    assert_eq!(sent, Fate::Sent { partition: 2, offset: 0 });
    let record = fixture.record(2);
    assert_eq!((record.key(), record.payload()), (Some(&b"order-1"[..]), right.body.as_deref()));
    let headers: Vec<_> = record.headers().unwrap().iter().map(|it| (it.key, it.value.unwrap())).collect();
    let from = format!("{} 1/9", fixture.config.topics.dead_letters);
    assert_eq!(headers, [("country", &b"NL"[..]), ("replayed-from", from.as_bytes())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_its_tap_would_reject_again_is_not_sent() {
    let fixture = Fixture::new();
    for body in [&b"{"[..], b"{}", b"{\"customer\":{}}"] {
        let fate = fixture.replay(&dead_letter("orders", Some(body)), INTO_SOURCE, None).await;
        assert_eq!(reason(&fate), "still_refused", "{fate:?}");
    }
    let wrong = dead_letter("orders", Some(b"{"));
    let fate = fixture.replay(&wrong, INTO_SOURCE, Some(r#"{"customer":"c-7"}"#)).await;
    assert_eq!(reason(&fate), "sent", "{fate:?}");
    assert_eq!(fixture.record(2).payload(), Some(&br#"{"customer":"c-7"}"#[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_records_of_taps_are_refused_with_the_reason() {
    let fixture = Fixture::new();
    let forwarded = DeadLetterRecord { index: Some(0), ..dead_letter("orders", Some(b"{}")) };
    let omitted = DeadLetterRecord { body_omitted: true, ..dead_letter("orders", None) };
    let avro = dead_letter("orders", Some(&[0, 0, 0, 0, 1, 2]));
    let foreign = dead_letter("payments", Some(b"{}"));
    let events = dead_letter(&fixture.config.topics.events, Some(b"{}"));
    for (letter, edited, expected) in [
        (forwarded, None, "forwarded"),
        (omitted, None, "body_omitted"),
        (avro, Some("{}"), "edited_avro"),
        (foreign, None, "not_an_input"),
        (events, None, "not_an_input"),
    ] {
        assert_eq!(reason(&fixture.replay(&letter, INTO_SOURCE, edited).await), expected);
    }
}
