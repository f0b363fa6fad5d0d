//! Attributes complete the context of the records of a tap.

use serde_json::json;

use super::{ENVIRONMENT, FLAG, Rows, group, set_flag, until};
use crate::harness::{Sender, Stack, TEST_TIMEOUT, TopicReader};

#[test]
fn the_records_of_a_tap_are_evaluated_with_the_attributes_of_their_users() {
    let (stack, _shared) = Stack::shared();
    let group = group(stack);
    let topics = &group.topics;
    let name = |role: &str| format!("{}-{role}", topics.prefix);
    for role in ["orders", "flagged"] {
        topics.create(&name(role), 1);
    }
    let tap = format!(
        "[[taps]]\nname = \"orders\"\nsource = \"{}\"\ntarget = \"{}\"\nflags = [\"{FLAG}\"]\nuser = \"/user\"\n",
        name("orders"),
        name("flagged")
    );
    std::fs::write(group.folder.path().join("flagstream.toml"), tap).unwrap();
    set_flag(topics);
    let (_, offset) = Rows::of(topics).put("ann", &json!({"plan": "gold"}));
    let service = group.start("one");
    until(&service, "ann", true);

    let sender = Sender::new(&topics.kafka);
    let mut flagged = TopicReader::open(&topics.kafka, &name("flagged"));
    let mut events = TopicReader::open(&topics.kafka, &topics.events);
    for (user, on) in [("ann", "true"), ("bob", "false")] {
        let order = json!({"user": user}).to_string();
        sender.send(&name("orders"), None, Some(user.as_bytes()), order.as_bytes(), None);
        let record = flagged.wait(user, TEST_TIMEOUT, |record| record.json()["user"] == user);
        assert_eq!(record.header(&format!("flag-{FLAG}")), Some(on), "{user}");
    }
    let of_tap = events.wait("the event", TEST_TIMEOUT, |event| {
        let event = event.json();
        event["source"]["tap"] == "orders" && event["user_id"] == "ann"
    });
    let event = of_tap.json();
    assert_eq!((&event["environment"], &event["context"]["plan"]), (&json!(ENVIRONMENT), &json!("gold")));
    assert_eq!(event["attributes"]["user"]["offset"], offset, "{event}");
}
