//! Tests of precedence, and of what is joined.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::attributes::state::State;
use crate::attributes::table::Changes;
use crate::config::{Config, Profile, load_from};
use crate::flag::{FlagChange, Moment, Snapshot};
use crate::message::request::Request;
use crate::metrics::Metrics;

const TABLES: [(&str, &str); 2] =
    [("FLAGSTREAM_ATTRIBUTES__ENABLED", "true"), ("FLAGSTREAM_ATTRIBUTES__TABLES", "company=companies")];

/// Tables in a folder of the test's own, and flags.
struct Fixture {
    attributes: Arc<Attributes>,
    snapshot: Snapshot,
    _folder: tempfile::TempDir,
}

fn config(folder: &tempfile::TempDir, wins: &str) -> Config {
    let mut pairs = TABLES.to_vec();
    if !wins.is_empty() {
        pairs.push(("FLAGSTREAM_ATTRIBUTES__TABLE_WINS", wins));
    }
    let pairs: Vec<_> = pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    let mut config = load_from(None, pairs, Profile::Service).unwrap().config;
    folder.path().clone_into(&mut config.state_dir);
    config
}

impl Fixture {
    /// `rows`: table, key and attributes.
    fn new(wins: &str, rows: &[(&str, &str, Value)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let attributes = Attributes::open(&config(&folder, wins), &Metrics::new()).unwrap().unwrap();
        for (offset, (table, key, row)) in rows.iter().enumerate() {
            let row = Row { partition: 3, offset: offset as i64, json: row.to_string().into() };
            let changes: Changes = [((*key).into(), Some(row))].into_iter().collect();
            let mut state = State { epoch: 1, ..State::default() };
            attributes.table(table).unwrap().apply(&mut state, &changes).unwrap();
        }
        let flag = |name: &str, reads: &[&str], parent: Option<&str>| {
            let constraints: Vec<_> = reads
                .iter()
                .map(|name| json!({"contextName": name, "operator": "IN", "values": ["gold", "eu"]}))
                .collect();
            let parents: Vec<_> = parent.iter().map(|parent| json!({"feature": parent})).collect();
            let definition = json!({"name": name, "enabled": true, "dependencies": parents,
                "strategies": [{"name": "default", "constraints": constraints}]});
            let flag = CompiledFlag::compile("production", 1, &definition.to_string()).unwrap();
            FlagChange::Set(Arc::new(flag))
        };
        let flags = [
            flag("plain", &[], None),
            flag("by-plan", &["plan"], None),
            flag("by-both", &["plan", "region"], None),
            flag("child", &[], Some("by-plan")),
            flag("by-field", &["userId", "sessionId", "properties"], None),
        ];
        Self { attributes, snapshot: Snapshot::default().with(flags), _folder: folder }
    }

    fn flags(&self) -> &EnvironmentFlags {
        self.snapshot.environment("production").unwrap()
    }

    /// The completed context of a request with this user and context, and what was used.
    fn join(&self, flag: &str, user: &str, context: Value) -> Option<(Value, Option<Value>)> {
        let body = json!({"flag_name": flag, "user_id": user, "context": context}).to_string();
        let request = Request::decode(body.as_bytes()).unwrap();
        let joiner = self.attributes.joiner(&request.context, &request.context_json);
        let joined = joiner.join(Some(self.flags()), flag)?;
        let read = |text: &str| serde_json::from_str(text).unwrap();
        Some((read(&joined.json), joined.used.as_deref().map(read)))
    }

    fn context(&self, flag: &str, user: &str, context: Value) -> Value {
        self.join(flag, user, context.clone()).map_or(context, |(context, _)| context)
    }
}

fn gold() -> [(&'static str, &'static str, Value); 1] {
    [("user", "ann", json!({"plan": "gold", "region": "eu", "age": 7, "userId": "eve"}))]
}

#[test]
fn only_what_the_flag_reads_is_joined_and_named() {
    let fixture = Fixture::new("", &gold());
    let (context, used) = fixture.join("by-plan", "ann", json!({"n": 1.5})).unwrap();
    assert_eq!(context, json!({"n": 1.5, "plan": "gold"}));
    assert_eq!(used, Some(json!({"user": {"partition": 3, "offset": 0, "names": ["plan"]}})));
    let (context, used) = fixture.join("by-both", "ann", json!({})).unwrap();
    assert_eq!(context, json!({"plan": "gold", "region": "eu"}));
    assert_eq!(used.unwrap()["user"]["names"], json!(["plan", "region"]));
    assert_eq!(fixture.join("plain", "ann", json!({})), None);
    assert_eq!(fixture.join("unknown", "ann", json!({})), None);
    assert_eq!(fixture.join("by-plan", "bob", json!({})), None, "there is no row");
    assert_eq!(fixture.context("child", "ann", json!({})), json!({"plan": "gold"}), "its parent reads it");
    assert_eq!(fixture.join("by-field", "ann", json!({})), None, "fields of the context are no attributes");
}

#[test]
fn the_caller_wins_unless_the_table_does() {
    let forged = json!({"plan": "free", "region": "us"});
    let fixture = Fixture::new("", &gold());
    assert_eq!(fixture.context("by-both", "ann", forged.clone()), forged);
    assert_eq!(fixture.context("by-plan", "ann", json!({"plan": null})), json!({"plan": "gold"}));
    let fixture = Fixture::new("plan", &gold());
    let (context, used) = fixture.join("by-both", "ann", forged).unwrap();
    assert_eq!(context, json!({"region": "us", "plan": "gold"}));
    assert_eq!(used, Some(json!({"user": {"partition": 3, "offset": 0, "names": ["plan"]}})));
}

#[test]
fn what_the_table_owns_is_dropped_also_without_a_row_and_at_every_place() {
    let fixture = Fixture::new("plan", &gold());
    for forged in [
        json!({"plan": "gold", "x": 1}),
        json!({"properties": {"plan": "gold"}, "x": 1}),
        json!({"plan": "gold", "properties": {"plan": "gold"}, "x": 1}),
    ] {
        for flag in ["by-plan", "plain", "unknown"] {
            let (context, used) = fixture.join(flag, "eve", forged.clone()).unwrap();
            assert_eq!(
                (context["plan"].clone(), context["properties"]["plan"].clone()),
                (Value::Null, Value::Null)
            );
            assert_eq!((context["x"].clone(), used), (json!(1), None), "{flag}");
        }
    }
    let body =
        br#"{"flag_name":"by-plan","user_id":"eve","context":{"plan":null,"plan":"gold","plan":"gold"}}"#;
    let request = Request::decode(body).unwrap();
    let joiner = fixture.attributes.joiner(&request.context, &request.context_json);
    assert_eq!(joiner.join(Some(fixture.flags()), "by-plan").unwrap().json, "{}", "repeated names");
}

#[test]
fn a_further_table_is_keyed_by_a_field_of_the_caller_or_of_an_earlier_table() {
    let rows = [
        ("user", "ann", json!({"company": "acme"})),
        ("company", "acme", json!({"plan": "gold"})),
        ("company", "7", json!({"plan": "eu"})),
    ];
    let fixture = Fixture::new("", &rows);
    let (context, used) = fixture.join("by-plan", "ann", json!({})).unwrap();
    assert_eq!(context, json!({"plan": "gold"}), "the key itself is not read by the flag");
    assert_eq!(used, Some(json!({"company": {"partition": 3, "offset": 1, "names": ["plan"]}})));
    assert_eq!(fixture.context("by-plan", "bob", json!({"company": 7}))["plan"], "eu");
    let fixture = Fixture::new("company", &rows);
    let forged = fixture.context("by-plan", "ann", json!({"company": "7"}));
    assert_eq!(forged, json!({"plan": "gold"}), "the key is the table's");
    assert_eq!(fixture.context("by-plan", "bob", json!({"company": "7"})), json!({}));
}

#[test]
fn the_earlier_table_wins() {
    let rows = [
        ("user", "ann", json!({"company": "acme", "plan": "gold"})),
        ("company", "acme", json!({"plan": "free", "region": "eu"})),
    ];
    let (context, used) = Fixture::new("", &rows).join("by-both", "ann", json!({})).unwrap();
    assert_eq!(context, json!({"plan": "gold", "region": "eu"}));
    let expected = json!({"user": {"partition": 3, "offset": 0, "names": ["plan"]},
        "company": {"partition": 3, "offset": 1, "names": ["region"]}});
    assert_eq!(used, Some(expected));
}

#[test]
fn what_is_evaluated_is_what_a_replay_reads() {
    let fixture = Fixture::new("plan", &gold());
    let body = br#"{"flag_name":"by-plan","user_id":"ann","session_id":"s","context":
        {"plan":"free","userId":"eve","appName":"web","properties":{"n":1}}}"#;
    let request = Request::decode(body).unwrap();
    let joiner = fixture.attributes.joiner(&request.context, &request.context_json);
    let joined = joiner.join(Some(fixture.flags()), "by-plan").unwrap();
    let completed = joined.complete(&request.context, None);
    let replayed = recorded_context(&completed.written, Some("ann"), Some("s")).unwrap();
    assert_eq!(format!("{:?}", completed.context), format!("{replayed:?}"));
    let moment = Moment { now: "2026-01-15T10:30:00Z", hostname: "h", app_name: "a" };
    assert!(fixture.flags().evaluate("by-plan", &completed.context, &moment).unwrap().enabled);
    assert!(!fixture.flags().evaluate("by-plan", &request.context, &moment).unwrap().enabled);
    assert_eq!(
        (completed.context.user_id.as_deref(), completed.context.property("n")),
        (Some("ann"), Some("1"))
    );
}

#[test]
fn an_extended_context_is_the_one_that_its_text_says() {
    let row = json!({"plan": "go\"ld", "region": ["eu", 1], "a\"b": 1});
    let fixture = Fixture::new("", &[("user", "ann", row)]);
    let many: Vec<String> = (0..20).map(|number| format!(r#""p{number}":{number}"#)).collect();
    for context in [
        "{}".to_owned(),
        r#"{"n":1.50,"plan":null,"properties":{"x":[1, 2]}}"#.to_owned(),
        format!("{{{}}}", many.join(",")),
    ] {
        let body = format!(r#"{{"flag_name":"by-both","user_id":"ann","context":{context}}}"#);
        let request = Request::decode(body.as_bytes()).unwrap();
        let joiner = fixture.attributes.joiner(&request.context, &request.context_json);
        let joined = joiner.join(Some(fixture.flags()), "by-both").unwrap();
        let (evaluated, read) = (joined.context(&request.context), joined.read(&request.context));
        assert_eq!(evaluated.properties.len(), read.properties.len(), "{context}");
        for (name, value) in &read.properties {
            assert_eq!(evaluated.property(name), Some(value.as_ref()), "{name} of {context}");
        }
        assert_eq!(
            (evaluated.property("plan"), evaluated.property("region")),
            (Some("go\"ld"), Some(r#"["eu",1]"#))
        );
    }
}

#[test]
fn rows_count_for_the_size_of_results() {
    let large = json!({"plan": "x".repeat(10_000)});
    let fixture = Fixture::new("", &[("user", "ann", large)]);
    let added = |flags: usize, user: &str| {
        let context = EvaluationContext { user_id: Some(user.to_owned().into()), ..Default::default() };
        fixture.attributes.added_bytes(flags, std::iter::once((&context, "{}")))
    };
    assert_eq!(added(1, "bob"), 2 * (16 << 10), "few answers are not worth a lookup");
    assert_eq!((added(1_000, "bob"), added(1_000, "ann")), (0, 1_000 * 10_011));
}
