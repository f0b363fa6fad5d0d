//! Every path that evaluates completes the context.

use serde_json::{Value, json};

use super::{ENVIRONMENT, FLAG, Rows, evaluated, group, row, set_flag, until};
use crate::harness::{
    Flag, Flags, Group, HEALTH_TOKEN, Redis, Sender, Service, Stack, TEST_TIMEOUT, TopicReader, call, post,
    wait_until,
};

const TOKEN: &str = "*:production.a-token-of-browsers";

/// One way to evaluate the flag for a user, with a context that the caller sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Kafka,
    Rest,
    Bulk,
    List,
    Ofrep,
    OfrepAll,
    Edge,
    EdgeFlag,
    Frontend,
    FrontendPost,
}

const WAYS: [Way; 10] = [
    Way::Kafka,
    Way::Rest,
    Way::Bulk,
    Way::List,
    Way::Ofrep,
    Way::OfrepAll,
    Way::Edge,
    Way::EdgeFlag,
    Way::Frontend,
    Way::FrontendPost,
];

impl Way {
    /// Whether the caller can send attributes.
    fn takes_a_context(self) -> bool {
        !matches!(self, Way::List | Way::Edge | Way::EdgeFlag)
    }
}

struct Fixture {
    group: Group,
    service: Service,
    redis: Redis,
    events: TopicReader,
    sender: Sender,
}

impl Fixture {
    fn start(stack: &Stack, settings: &[(&str, &str)]) -> Self {
        let redis = Redis::database(stack);
        let group = group(stack)
            .set("REDIS_URL", &redis.url)
            .set("FLAGSTREAM_UNLEASH_API__ENABLED", "true")
            .set("FLAGSTREAM_UNLEASH_API__EVENTS", "all")
            .set("FLAGSTREAM_UNLEASH_API__PRETRUSTED_TOKENS", format!("frontend={TOKEN}"));
        let group = settings.iter().fold(group, |group, (name, value)| group.set(name, *value));
        set_flag(&group.topics);
        Flags::new(&group.topics).later(5).set(ENVIRONMENT, Flag::on("everybody"));
        let service = group.start("one");
        let events = TopicReader::open(&group.topics.kafka, &group.topics.events);
        let sender = Sender::new(&group.topics.kafka);
        let fixture = Self { service, redis, events, sender, group };
        wait_until("both flags", TEST_TIMEOUT, || {
            let asked =
                json!({"flag_names": [FLAG, "everybody"], "user_id": "nobody", "environment": ENVIRONMENT});
            let url = format!("{}/api/v1/feature-flags/evaluate/bulk", fixture.service.url);
            let body = post(&url, &asked).json();
            body["results"][FLAG]["error_code"].is_null() && body["results"]["everybody"]["value"] == true
        });
        fixture
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let answer = post(&format!("{}{path}", self.service.url), body);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }

    fn get(&self, path: &str, token: Option<&str>) -> Value {
        let headers: Vec<_> = token.map(|token| ("authorization", token)).into_iter().collect();
        let answer = call("GET", &format!("{}{path}", self.service.url), &headers, b"");
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }

    /// Whether the flag is on for a user who sends this context.
    fn ask(&mut self, way: Way, user: &str, context: &Value) -> bool {
        let one = json!({"flag_name": FLAG, "user_id": user, "environment": ENVIRONMENT, "context": context});
        let environment = format!("environment={ENVIRONMENT}");
        match way {
            Way::Kafka => self.ask_kafka(user, context)["value"] == "true",
            Way::Rest => self.post("/api/v1/feature-flags/evaluate", &one)["value"] == true,
            Way::Bulk => {
                let many = json!({"flag_names": [FLAG, "everybody"], "environment": ENVIRONMENT,
                    "contexts": [{"user_id": "somebody"}, {"user_id": user, "context": context}]});
                let body = self.post("/api/v1/feature-flags/evaluate/bulk", &many);
                body["contexts"][1]["results"][FLAG]["value"] == true
            }
            Way::List => {
                let path = format!("/api/v1/feature-flags/evaluate/batch?user_id={user}&{environment}");
                self.post(&path, &json!([FLAG]))[FLAG]["value"] == true
            }
            Way::Ofrep | Way::OfrepAll => {
                let mut all = context.clone();
                all["targetingKey"] = json!(user);
                let body = json!({"context": all});
                if way == Way::Ofrep {
                    let path = format!("/ofrep/v1/evaluate/flags/{FLAG}?{environment}");
                    return self.post(&path, &body)["value"] == true;
                }
                let body = self.post(&format!("/ofrep/v1/evaluate/flags?{environment}"), &body);
                let flags = body["flags"].as_array().unwrap();
                flags.iter().any(|flag| flag["key"] == FLAG && flag["value"] == true)
            }
            Way::Edge => {
                self.get(&format!("/flags/{FLAG}/check?user_id={user}&{environment}"), None)["enabled"]
                    == true
            }
            Way::EdgeFlag => {
                self.get(&format!("/flags/{FLAG}?user_id={user}&{environment}"), None)["enabled"] == true
            }
            Way::Frontend => {
                let members = context.as_object().unwrap().iter();
                let query = members.map(|(name, value)| match value {
                    Value::String(text) => format!("&{name}={text}"),
                    _ => format!("&properties[plan]={}", value["plan"].as_str().unwrap_or_default()),
                });
                let query: String = query.collect();
                let body = self.get(&format!("/api/frontend?userId={user}{query}"), Some(TOKEN));
                body["toggles"].as_array().unwrap().iter().any(|toggle| toggle["name"] == FLAG)
            }
            Way::FrontendPost => {
                let mut all = context.clone();
                all["userId"] = json!(user);
                let headers = [("authorization", TOKEN), ("content-type", "application/json")];
                let url = format!("{}/api/frontend", self.service.url);
                let answer = call("POST", &url, &headers, json!({"context": all}).to_string().as_bytes());
                let body = answer.json();
                body["toggles"].as_array().unwrap().iter().any(|toggle| toggle["name"] == FLAG)
            }
        }
    }

    /// The event of a request.
    fn ask_kafka(&mut self, user: &str, context: &Value) -> Value {
        let id = format!("{:016x}", rand::random::<u64>());
        let request = json!({"request_id": id, "flag_name": FLAG, "user_id": user, "environment": ENVIRONMENT,
            "context": context});
        let topic = &self.group.topics.requests;
        self.sender.send(topic, None, Some(user.as_bytes()), request.to_string().as_bytes(), None);
        self.events.wait("its event", TEST_TIMEOUT, |event| event.json()["request_id"] == id).json()
    }

    /// Fails unless the flag is on or off for the user on every path.
    fn assert_all(&mut self, user: &str, context: &Value, on: bool) {
        for way in WAYS {
            assert_eq!(self.ask(way, user, context), on, "{way:?} {user} {context}");
        }
    }
}

#[test]
fn a_change_of_a_row_is_in_force_on_every_path() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::start(stack, &[]);
    fixture.assert_all("ann", &json!({}), false);
    let group = fixture.group.clone();
    let rows = Rows::of(&group.topics);
    let mut took = Vec::new();
    for round in 0..3 {
        let (partition, offset) = rows.put("ann", &json!({"plan": "gold", "round": round}));
        took.push(until(&fixture.service, "ann", true));
        fixture.assert_all("ann", &json!({}), true);
        let event = fixture.ask_kafka("ann", &json!({"n": 1}));
        assert_eq!(event["context"], json!({"n": 1, "plan": "gold"}), "only what the flag reads");
        let used = json!({"user": {"partition": partition, "offset": offset, "names": ["plan"]}});
        assert_eq!(event["attributes"], used);
        for way in WAYS.into_iter().filter(|way| way.takes_a_context()) {
            assert!(!fixture.ask(way, "ann", &json!({"plan": "free"})), "{way:?}: the caller wins");
        }
        rows.remove("ann");
        took.push(until(&fixture.service, "ann", false));
        fixture.assert_all("ann", &json!({}), false);
        assert!(fixture.ask_kafka("ann", &json!({}))["attributes"].is_null());
    }
    println!("a change of a row was in force after {took:?} ms");
}

#[test]
fn a_forged_attribute_does_not_override_the_table_on_any_path() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::start(stack, &[("FLAGSTREAM_ATTRIBUTES__TABLE_WINS", "plan")]);
    let group = fixture.group.clone();
    let rows = Rows::of(&group.topics);
    rows.put("bob", &json!({"plan": "free"}));
    rows.put("ann", &json!({"plan": "gold"}));
    until(&fixture.service, "ann", true);
    for forged in [json!({"plan": "gold"}), json!({"properties": {"plan": "gold"}})] {
        fixture.assert_all("bob", &forged, false);
        fixture.assert_all("eve", &forged, false);
        let event = fixture.ask_kafka("eve", &forged);
        let context = &event["context"];
        assert!(context["plan"].is_null() && context["properties"]["plan"].is_null(), "{event}");
        let event = fixture.ask_kafka("bob", &forged);
        assert_eq!((&event["context"]["plan"], &event["value"]), (&json!("free"), &json!("false")));
    }
    for forged in [json!({"plan": "free"}), json!({"properties": {"plan": "free"}})] {
        fixture.assert_all("ann", &forged, true);
    }
}

#[test]
fn redis_answers_with_no_outcome_from_before_a_change() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::start(stack, &[("FLAGSTREAM_EVALUATION__READ_PATH", "redis_first")]);
    let group = fixture.group.clone();
    let rows = Rows::of(&group.topics);
    rows.put("ann", &json!({"plan": "gold"}));
    until(&fixture.service, "ann", true);
    // An outcome of each kind is in Redis.
    let hits = |fixture: &Fixture| {
        fixture.service.metrics().sum("flagstream_warm_reads_total", &[("outcome", "hit")])
    };
    wait_until("a hit", TEST_TIMEOUT, || {
        fixture.assert_all("ann", &json!({}), true);
        hits(&fixture) > 5.0
    });
    for on in [false, true, false] {
        let plan = if on { "gold" } else { "free" };
        rows.put("ann", &json!({"plan": plan}));
        until(&fixture.service, "ann", on);
        fixture.assert_all("ann", &json!({}), on);
    }
    let keys: Vec<String> = fixture.redis.command(&["KEYS", "*"]);
    let of_flag = |prefix: &str| keys.iter().any(|key| key.starts_with(prefix) && key.contains(FLAG));
    assert!(of_flag("feature_flag:eval:"), "{keys:?}");
    // These have the user only, so that they cannot have attributes.
    for prefix in ["ff_eval:", "flag_check:", "flag_endpoint:"] {
        assert!(!of_flag(prefix), "{prefix}: {keys:?}");
    }
    assert!(keys.iter().any(|key| key.starts_with("flag_check:") || key.contains("everybody")), "{keys:?}");
}

#[test]
fn a_preloaded_outcome_is_that_of_the_completed_context() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::start(stack, &[("FLAGSTREAM_EVALUATION__READ_PATH", "redis_first")]);
    Rows::of(&fixture.group.topics).put("ann", &json!({"plan": "gold", "country": "NL"}));
    wait_until("the row", TEST_TIMEOUT, || row(&fixture.service, "ann").is_some());
    let token = format!("Bearer {HEALTH_TOKEN}");
    let headers = [("authorization", token.as_str()), ("content-type", "application/json")];
    let url = format!("{}/api/v1/feature-flags/preload", fixture.service.url);
    let body = json!({"environment": ENVIRONMENT, "flag_names": [FLAG],
        "contexts": [{"user_id": "eve"}, {"user_id": "ann"}]});
    let answer = call("POST", &url, &headers, body.to_string().as_bytes());
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    assert_eq!((&answer["written"], &answer["skipped"]), (&json!(2), &json!({})), "{answer}");
    // No evaluation of these users has written an outcome yet.
    for (user, enabled) in [("ann", true), ("eve", false)] {
        let keys: Vec<String> = fixture.redis.command(&["KEYS", &format!("*:{ENVIRONMENT}:{FLAG}:{user}*")]);
        assert_eq!(keys.len(), 1, "{keys:?}");
        assert_eq!(fixture.redis.get(&keys[0]).unwrap()["enabled"], enabled, "{user}");
    }
    let hits = || fixture.service.metrics().sum("flagstream_warm_reads_total", &[("outcome", "hit")]);
    let before = hits();
    assert_eq!(evaluated(&fixture.service, "ann", &json!({}))["value"], true);
    assert!(hits() > before, "the evaluation finds the preloaded outcome");
}

#[test]
fn an_explanation_sees_the_attributes() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::start(stack, &[]);
    Rows::of(&fixture.group.topics).put("ann", &json!({"plan": "gold"}));
    until(&fixture.service, "ann", true);
    let one = json!({"flag_name": FLAG, "user_id": "ann", "environment": ENVIRONMENT});
    let body = fixture.post("/api/v1/feature-flags/evaluate?explain=true", &one);
    assert_eq!((&body["value"], &body["explanation"]["enabled"]), (&json!(true), &json!(true)), "{body}");
    let path = format!("/api/v1/feature-flags/{FLAG}/explain?environment={ENVIRONMENT}");
    assert_eq!(fixture.post(&path, &json!({"user_id": "ann"}))["enabled"], true);
    assert_eq!(fixture.post(&path, &json!({"user_id": "eve"}))["enabled"], false);
}
