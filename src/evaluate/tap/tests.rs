#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ffi::CStr;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::config::{Config, Profile, TapConfig, load_from};
use crate::flag::value::{Lookup, natural_answer};
use crate::flag::{CompiledFlag, FlagChange, Moment, Snapshot};
use crate::message::request::{RefusalCode, recorded_context};

use super::encoder::Encoder;
use super::selectors::{Readable, Selectors};
use super::*;

/// A record as a test has it.
struct Order<'r> {
    key: Option<&'r [u8]>,
    headers: BTreeMap<&'static CStr, &'r [u8]>,
    value: &'r [u8],
}

impl<'r> Readable<'r> for Order<'r> {
    fn key(&self) -> Option<&'r [u8]> {
        self.key
    }

    fn header(&self, name: &CStr) -> Option<&'r [u8]> {
        self.headers.get(name).copied()
    }

    fn payload(&self) -> &'r [u8] {
        self.value
    }
}

/// User, session and context, or the code and field of the refusal.
type Read = Result<(Option<String>, Option<String>, String), (RefusalCode, String)>;

fn config(settings: &str) -> Config {
    let file = format!(
        "[[taps]]\nname = \"orders\"\nsource = \"orders\"\ntarget = \"flagged\"\nflags = [\"a\", \"b\"]\n{settings}\n"
    );
    load_from(Some(("flagstream.toml".as_ref(), &file)), [], Profile::Service).unwrap().config
}

fn tap(settings: &str) -> TapConfig {
    config(settings).taps.remove(0)
}

fn select(settings: &str, value: &str) -> Read {
    let order = Order {
        key: Some(b"k-1"),
        headers: [(c"country", b"DE".as_slice()), (c"odd", b"\xff")].into(),
        value: value.as_bytes(),
    };
    select_from(settings, &order)
}

fn select_from(settings: &str, order: &Order<'_>) -> Read {
    let tap = tap(settings);
    let mut context = Vec::new();
    let json = tap.reads_value().then_some(order.value);
    let selected = Selectors::new(&tap).read(order, json, &mut context);
    let selected = selected.map_err(|refusal| (refusal.code, refusal.field))?;
    let owned = |text: Option<Cow<'_, str>>| text.map(Cow::into_owned);
    Ok((owned(selected.user), owned(selected.session), String::from_utf8(context).unwrap()))
}

#[test]
fn each_kind_of_selector_reads_its_part() {
    let settings = r#"user = "/customer/id"
        session = "/sessions/1"
        context = { plan = "/customer/plan", country = "header:country", key = "key", all = "/customer", none = "/x/y" }"#;
    let value = r#"{"customer": {"id": 7, "plan": "go\"ld"}, "sessions": ["s-0", "s-1"], "x": 1}"#;
    let (user, session, context) = select(settings, value).unwrap();
    assert_eq!((user.as_deref(), session.as_deref()), (Some("7"), Some("s-1")));
    let expected =
        json!({"plan": "go\"ld", "country": "DE", "key": "k-1", "all": {"id": 7, "plan": "go\"ld"}});
    assert_eq!(serde_json::from_str::<Value>(&context).unwrap(), expected);
    let read = recorded_context(&context, None, None).unwrap();
    assert_eq!(read.property("plan"), Some("go\"ld"));
}

#[test]
fn pointers_are_unescaped_and_the_last_of_repeated_members_counts() {
    let user = |pointer: &str, value: &str| select(&format!("user = \"{pointer}\""), value).unwrap().0;
    assert_eq!(user("/a~1b/m~0n", r#"{"a/b":{"m~n":"u"}}"#).as_deref(), Some("u"));
    assert_eq!(user("/", r#"{"":"u"}"#).as_deref(), Some("u"));
    assert_eq!(user("/a", r#"{"a":"1","a":"2"}"#).as_deref(), Some("2"));
    assert_eq!(user("/a/b", r#"{"a":{"b":"1"},"a":{}}"#), None, "the last member has none");
    assert_eq!(user("/a/b", r#"{"a":{"b":"1"},"a":3}"#), None);
    assert_eq!(user("/01", r#"["x","y"]"#), None, "not an index");
    for absent in ["{}", "[]", "3", r#"{"a":null}"#, r#"{"a":""}"#] {
        assert_eq!(user("/a", absent), None, "{absent}");
    }
}

#[test]
fn what_cannot_be_read_is_refused_with_its_field() {
    let by_value = "user = \"/a\"\ncontext = { c = \"/c\" }";
    let refused = |value: &str| select(by_value, value).unwrap_err();
    assert_eq!(refused(""), (RefusalCode::Empty, "value".into()));
    assert_eq!(refused("{\"a\":1"), (RefusalCode::NotJson, "value".into()));
    assert_eq!(refused("{} x"), (RefusalCode::NotJson, "value".into()));
    assert_eq!(refused(&("[".repeat(500) + &"]".repeat(500))), (RefusalCode::TooDeep, "value".into()));
    assert_eq!(refused(r#"{"a":[1]}"#), (RefusalCode::InvalidField, "user".into()));
    assert_eq!(
        refused(&json!({"a": "u".repeat(5_000)}).to_string()),
        (RefusalCode::InvalidField, "user".into())
    );
    assert_eq!(
        refused(&json!({"c": "c".repeat(2 << 20)}).to_string()),
        (RefusalCode::TooLarge, "context".into())
    );
    assert_eq!(select("user = \"header:odd\"", "").unwrap_err(), (RefusalCode::NotUtf8, "user".into()));
    let broken = Order { key: None, headers: BTreeMap::new(), value: b"{\"a\":\"\xff\"}" };
    assert_eq!(select_from(by_value, &broken).unwrap_err(), (RefusalCode::NotUtf8, "value".into()));
    // Without a selector of the value, it is not read.
    assert_eq!(select("user = \"key\"", "no JSON").unwrap().0.as_deref(), Some("k-1"));
    let member = "user = \"key\"\nwrite = { member = \"f\" }";
    assert_eq!(select(member, "[]").unwrap_err(), (RefusalCode::InvalidField, "value".into()));
}

fn snapshot() -> Snapshot {
    let variant = json!({"name": "red", "weight": 1000, "payload": {"type": "json", "value": "{\"x\": 1}"}});
    let definitions = [
        json!({"name": "a", "enabled": true, "strategies": []}),
        json!({"name": "b", "enabled": true, "strategies": [], "variants": [variant]}),
    ];
    let flags = definitions
        .map(|body| FlagChange::Set(Arc::new(CompiledFlag::compile("e", 1, &body.to_string()).unwrap())));
    Snapshot::default().with(flags)
}

/// The encoder after both flags of the tap were evaluated, in the environment `e` or in one without flags.
fn encoded(tap: &TapConfig, environment: &str) -> Encoder {
    let (mut encoder, snapshot) = (Encoder::new(tap), snapshot());
    let moment = Moment { now: "2026-01-15T10:30:00Z", hostname: "h", app_name: "a" };
    let context = recorded_context("{}", Some("u"), None).unwrap();
    encoder.begin();
    for flag in &tap.flags {
        let flags = snapshot.environment(environment);
        encoder.add(&natural_answer(flag, Lookup::evaluate(flags, environment, flag, &context, &moment)));
    }
    encoder
}

#[test]
fn headers_have_the_values_of_events() {
    let tap = tap("");
    let headers = |environment: &str| {
        let encoder = encoded(&tap, environment);
        let pair = |(name, value): (&CStr, &[u8])| {
            (name.to_str().unwrap().to_owned(), String::from_utf8(value.to_vec()).unwrap())
        };
        encoder.headers().into_iter().map(pair).collect::<Vec<_>>()
    };
    let named =
        |a: &str, b: &str| vec![("flag-a".to_owned(), a.to_owned()), ("flag-b".to_owned(), b.to_owned())];
    assert_eq!(headers("e"), named("true", r#"{"x":1}"#));
    assert_eq!(headers("none"), named("false", "false"));
    assert_eq!(encoded(&tap, "e").value(b"{}", None), None);
}

proptest! {
    /// A member is added to any object, and everything else keeps its bytes.
    #[test]
    fn a_member_is_added_to_any_object(
        keys in prop::collection::btree_set("[a-z\"\\\\ {}]{1,4}", 0..4), space in "[ \n\t]{0,3}", has_member in any::<bool>(),
    ) {
        let tap = tap("write = { member = \"the flags\" }");
        let mut members: Vec<String> =
            keys.iter().map(|key| format!("{}{space}:{}", json!(key), json!({"x": key}))).collect();
        if has_member {
            members.insert(members.len() / 2, format!("\"the flags\"{space}:{space}[1,{{}}]"));
        }
        let json = format!("{space}{{{space}{}{space}}}{space}", members.join(&format!("{space},{space}")));
        let order = Order { key: None, headers: BTreeMap::new(), value: json.as_bytes() };
        let selected = Selectors::new(&tap).read(&order, Some(order.value), &mut Vec::new()).unwrap();
        prop_assert_eq!(selected.member.is_some(), has_member);
        let mut encoder = encoded(&tap, "e");
        let written = String::from_utf8(encoder.value(json.as_bytes(), selected.member).unwrap().to_vec()).unwrap();
        let mut expected: Value = serde_json::from_str(&json).unwrap();
        expected["the flags"] = json!({"a": true, "b": {"x": 1}});
        prop_assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), expected);
        // Without the new text, the old one is left.
        let new = r#"{"a":true,"b":{"x":1}}"#;
        let (before, after) = written.split_once(new).unwrap();
        if has_member {
            prop_assert_eq!(format!("{before}[1,{{}}]{after}").len(), json.len());
        } else {
            let added = if keys.is_empty() { r#""the flags":"# } else { r#","the flags":"# };
            prop_assert_eq!(format!("{}{after}", before.strip_suffix(added).unwrap()), json);
        }
    }
}

#[test]
fn the_first_route_with_a_topic_decides() {
    let settings = r#"route = { b = { red = "canary", off = "flagged" }, a = { off = "stable" } }"#;
    let tap = tap(settings);
    let outputs: Vec<String> = tap.outputs().into_iter().map(str::to_owned).collect();
    let routes = routes(&tap, &outputs);
    let topic = |a: (Option<&str>, bool), b: (Option<&str>, bool)| outputs[output(&routes, &[a, b])].as_str();
    assert_eq!(topic((None, true), (Some("red"), true)), "canary");
    assert_eq!(topic((None, false), (Some("red"), true)), "stable", "flags decide in the order of `flags`");
    assert_eq!(topic((None, true), (Some("blue"), true)), "flagged", "no route applies");
    assert_eq!(topic((None, true), (None, false)), "flagged");
}

#[test]
fn names_of_groups_and_producers_are_unique() {
    let config = config("");
    let metrics = crate::metrics::Metrics::new();
    let name = |tap: &str, instance: &str| {
        let tap = TapConfig { name: tap.to_owned(), ..config.taps[0].clone() };
        let config = Config { instance: instance.to_owned(), ..config.clone() };
        let pipeline = Pipeline::tap(&config, &tap, &metrics);
        (pipeline.role(), pipeline.member_name(0))
    };
    assert_eq!(name("a", "b-c.d"), ("tap-a".to_owned(), "flagstream-tap-a.b-c.d-0".to_owned()));
    assert_ne!(name("a-b", "c").1, name("a", "b-c").1);
    let requests = Pipeline::requests(&config, &metrics);
    assert_eq!(requests.role(), "evaluator");
    assert_eq!(requests.lanes().collect::<Vec<_>>(), ["feature-flag-events"]);
    let tap = Pipeline::tap(&config, &config.taps[0], &metrics);
    assert_eq!(tap.lanes().nth(tap.events_lane()), Some("feature-flag-events"));
    tap.set_events_partitions(4);
    assert_eq!([0, 3, 4, 9].map(|partition| tap.events_partition(partition)), [0, 3, 0, 1]);
    assert_eq!(requests.events_partition(9), 9);
}
