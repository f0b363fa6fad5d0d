//! Calls of operators: instances, changes on their way, evaluations, dead letters, replays, activity.

mod search;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{
    Answer, Database, Flag, Flags, Group, HEALTH_TOKEN, OpenApiValidator, Sender, Service, Stack,
    TEST_TIMEOUT, TopicReader, call, flagstream, wait_for, wait_until,
};

const ENVIRONMENT: &str = "production";
const EVALUATE: &str = "/api/v1/feature-flags/evaluate";

/// Calls with the bootstrap token, which may do everything, and checks the answer against the description.
struct Operator {
    url: String,
    document: OpenApiValidator,
}

impl Operator {
    fn of(service: &Service) -> Self {
        Self { url: service.url.clone(), document: OpenApiValidator::of(&service.url) }
    }

    fn call(&self, method: &str, path: &str, body: Option<&Value>, headers: &[(&str, &str)]) -> Answer {
        let bearer = format!("Bearer {HEALTH_TOKEN}");
        let mut all = vec![("authorization", bearer.as_str()), ("content-type", "application/json")];
        all.extend(headers);
        let body = body.map(Value::to_string).unwrap_or_default();
        call(method, &format!("{}{path}", self.url), &all, body.as_bytes())
    }

    /// A call that succeeds; `described` is its path in the document.
    fn get(&self, described: &str, path: &str) -> Value {
        let answer = self.call("GET", path, None, &[]);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        self.document.check("GET", described, &answer);
        answer.json()
    }

    fn list(&self, path: &str, query: &str) -> Value {
        self.get(path, &format!("{path}{query}"))
    }

    fn evaluate(&self, flag: &str, user: &str, context: &Value) -> Value {
        let body = json!({"flag_name": flag, "user_id": user, "environment": ENVIRONMENT, "context": context,
            "default_value": false});
        self.call("POST", EVALUATE, Some(&body), &[]).json()
    }
}

fn group(stack: &Stack, database: &Database) -> Group {
    Group::new(stack)
        .set("DATABASE_URL", &database.url)
        .set("UNLEASH_ENVIRONMENT", ENVIRONMENT)
        .set("FLAGSTREAM_FEED__START_WITHOUT_SOURCE", "true")
}

fn wait_for_rows(database: &Database, count: i64) {
    wait_until(&format!("{count} rows"), TEST_TIMEOUT, || database.audited() >= count);
}

#[test]
fn evaluations_are_found_by_what_they_are_and_users_need_the_scope_audit() {
    let (stack, _shared) = Stack::shared();
    let database = Database::create(stack);
    let group = group(stack, &database).set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate,read");
    let mut flags = Flags::new(&group.topics);
    flags.set(ENVIRONMENT, Flag::on("on"));
    flags.set(ENVIRONMENT, Flag::on("gold").where_in("plan", &["gold"]));
    let service = group.start("one");
    let operator = Operator::of(&service);
    for number in 0..20 {
        let user = format!("user-{number}");
        operator.evaluate("on", &user, &json!({}));
        operator.evaluate("gold", &user, &json!({"plan": if number < 5 { "gold" } else { "silver" }}));
    }
    let request = json!({"request_id": "asked-once", "flag_name": "on", "user_id": "user-k", "environment": ENVIRONMENT});
    Sender::new(&stack.kafka).send(&group.topics.requests, None, None, request.to_string().as_bytes(), None);
    wait_for_rows(&database, 41);

    let search = |query: &str| operator.list("/api/v1/evaluations", query);
    let count = |query: &str| search(query)["evaluations"].as_array().unwrap().len();
    assert_eq!(count("?user_id=user-7"), 2);
    assert_eq!(count("?flag_name=gold&reason=TARGETING_MATCH"), 5);
    assert_eq!(count("?user_id=user-7&flag_name=gold&environment=production"), 1);
    assert_eq!(count("?user_id=nobody"), 0);
    assert_eq!(count("?from=2100-01-01T00:00:00Z"), 0);
    let found = search("?request_id=asked-once");
    assert_eq!(found["evaluations"][0]["user_id"], "user-k", "{found:#}");
    assert_eq!(found["evaluations"][0]["source"]["topic"], group.topics.requests.as_str(), "{found:#}");

    // Pages give everything once, newest first.
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = search(&format!("?limit=7{after}"));
        seen.extend(page["evaluations"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    let ids: std::collections::BTreeSet<_> = seen.iter().map(|it| it["event_id"].to_string()).collect();
    assert_eq!((seen.len(), ids.len()), (41, 41));
    let times: Vec<_> = seen.iter().map(|it| it["evaluated_at"].as_str().unwrap()).collect();
    assert!(times.windows(2).all(|pair| pair[0] >= pair[1]), "{times:?}");

    let url = |query: &str| format!("{}/api/v1/evaluations{query}", service.url);
    let anonymous = call("GET", &url("?flag_name=on&limit=1"), &[], b"");
    assert_eq!(anonymous.status, 200, "{anonymous:?}");
    assert_eq!(anonymous.json()["evaluations"][0]["user_id"], Value::Null, "{anonymous:?}");
    for query in ["?user_id=user-7", "?request_id=asked-once"] {
        assert!([401, 403].contains(&call("GET", &url(query), &[], b"").status), "{query}");
    }
    assert_eq!(operator.call("GET", "/api/v1/evaluations?after=nonsense", None, &[]).status, 400);
}

/// Events of a stream, by their name.
struct Heard {
    lines: std::io::Lines<BufReader<TcpStream>>,
    /// The counts come for ever, so reading has to end by itself.
    until: Instant,
}

impl Heard {
    fn open(url: &str, path: &str) -> Self {
        let mut stream = TcpStream::connect(url.trim_start_matches("http://")).unwrap();
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {HEALTH_TOKEN}\r\n\r\n")
            .unwrap();
        let mut lines = BufReader::new(stream).lines();
        let status = lines.next().unwrap().unwrap();
        assert!(status.contains("200"), "{status}");
        // The first line of the body says that it is open.
        lines.by_ref().map(Result::unwrap).find(|line| line.starts_with(':')).unwrap();
        Self { lines, until: Instant::now() + TEST_TIMEOUT }
    }

    fn next(&mut self) -> (String, Value) {
        let mut name = String::new();
        for line in self.lines.by_ref().map(Result::unwrap) {
            assert!(Instant::now() < self.until, "the stream has nothing else");
            if let Some(event) = line.strip_prefix("event: ") {
                event.clone_into(&mut name);
            } else if let Some(data) = line.strip_prefix("data: ") {
                return (name, serde_json::from_str(data).unwrap());
            }
        }
        panic!("the stream ended");
    }
}

#[test]
fn committed_evaluations_are_streamed_with_a_count_of_what_was_left_out() {
    let (stack, _shared) = Stack::shared();
    let database = Database::create(stack);
    let group = group(stack, &database);
    Flags::new(&group.topics).set(ENVIRONMENT, Flag::on("on"));
    let service = group.start("one");
    let operator = Operator::of(&service);
    wait_until("the flag", TEST_TIMEOUT, || operator.evaluate("on", "u", &json!({}))["enabled"] == true);
    let mut heard = Heard::open(&service.url, "/api/v1/evaluations/stream?user_id=watched");
    let begun = Instant::now();
    operator.evaluate("on", "somebody", &json!({}));
    operator.evaluate("on", "watched", &json!({"plan": "gold"}));
    let event = loop {
        let (name, event) = heard.next();
        if name == "evaluation" {
            break event;
        }
    };
    println!("an evaluation over HTTP was seen on the stream after {:?}", begun.elapsed());
    assert_eq!((&event["user_id"], &event["flag_name"]), (&json!("watched"), &json!("on")), "{event:#}");

    // Far more than 200 a second, from Kafka.
    let mut all = Heard::open(&service.url, "/api/v1/evaluations/stream?flag_name=on");
    let names: Vec<_> = std::iter::repeat_n("on", 1_000).collect();
    let asked = 5_000;
    let sender = Sender::new(&stack.kafka);
    for number in 0..asked / 1_000 {
        let body = json!({"flag_names": names, "user_id": format!("u-{number}"), "environment": ENVIRONMENT});
        sender.send(&group.topics.requests, None, None, body.to_string().as_bytes(), None);
    }
    let (mut sent, mut matched, mut left_out) = (0, 0, 0);
    while matched < asked {
        let (name, data) = all.next();
        if name == "evaluation" {
            sent += 1;
        } else {
            matched += data["matched"].as_u64().unwrap();
            left_out += data["left_out"].as_u64().unwrap();
        }
    }
    println!("{matched} matched, {sent} sent, {left_out} left out");
    assert!(left_out > 0 && sent + left_out <= matched, "{sent} + {left_out} of {matched}");
}

#[test]
fn every_instance_is_seen_and_one_that_froze_is_named_by_the_propagation_of_a_change() {
    let (stack, _shared) = Stack::shared();
    let database = Database::create(stack);
    let group = group(stack, &database);
    let (one, mut two, three) = (group.start("one"), group.start("two"), group.start("three"));
    let operator = Operator::of(&one);
    let cluster = || operator.list("/api/v1/cluster", "");
    let names = |view: &Value| -> Vec<String> {
        let instances = view["instances"].as_array().unwrap();
        instances.iter().map(|it| it["instance"].as_str().unwrap().to_owned()).collect()
    };
    let view = wait_for("three instances", TEST_TIMEOUT, || {
        let view = cluster();
        let is_up = view["dependencies"]["kafka"]["state"] == "up";
        (names(&view).len() == 3 && view["leader"].is_string() && is_up).then_some(view)
    });
    assert_eq!(view["error"], Value::Null, "{view:#}");

    // A leader must not freeze: it would be replaced first, which is another test.
    let leader = view["leader"].as_str().unwrap();
    let frozen = [&three, &two].into_iter().find(|it| it.name != leader).unwrap();
    let frozen_name = frozen.name.clone();
    frozen.freeze();
    let flag = json!({"name": "spread", "environment": ENVIRONMENT, "is_enabled": true});
    let made = operator.call("POST", "/api/v1/feature-flags", Some(&flag), &[]);
    assert_eq!(made.status, 201, "{made:?}");
    let version = wait_for("the change is listed", TEST_TIMEOUT, || {
        let list = operator.list("/api/v1/propagation", "?environment=production");
        let found =
            list["changes"].as_array().unwrap().iter().find(|it| it["flag_name"] == "spread").cloned();
        found.map(|it| it["version"].as_u64().unwrap())
    });
    let path = format!("/api/v1/changes/{version}/propagation");
    let change = wait_for("in force on the others", TEST_TIMEOUT, || {
        let change = operator.get("/api/v1/changes/{version}/propagation", &path);
        let instances = change["instances"].as_array().unwrap();
        let in_force = instances.iter().filter(|it| it["state"] == "in_force").count();
        (in_force == 2).then_some(change)
    });
    assert_eq!(change["slowest"]["instance"], frozen_name.as_str(), "{change:#}");
    assert_eq!(change["slowest"]["state"], "waiting", "{change:#}");
    assert!(change["seen_at"].is_string() && change["committed_at"].is_string(), "{change:#}");
    wait_until("the frozen one is silent", TEST_TIMEOUT, || {
        let view = cluster();
        let instances = view["instances"].as_array().unwrap();
        instances.iter().any(|it| it["instance"] == frozen_name.as_str() && it["silent"] == true)
    });
    let thawed = Instant::now();
    [&three, &two].into_iter().find(|it| it.name == frozen_name).unwrap().thaw();
    wait_until("in force everywhere", TEST_TIMEOUT, || cluster()["in_force_everywhere"] == true);
    println!("in force everywhere {:?} after the thaw", thawed.elapsed());
    // One that stops says so.
    two.stop();
    wait_until("the stopped one is gone", Duration::from_secs(10), || {
        !names(&cluster()).contains(&"two".to_owned())
    });
    let answer = operator.call("GET", "/api/v1/changes/7/propagation", None, &[]);
    assert_eq!(answer.status, 404, "{answer:?}");
}

#[test]
fn a_dead_letter_is_edited_sent_again_and_noted_with_its_reason() {
    let (stack, _shared) = Stack::shared();
    let database = Database::create(stack);
    let group = group(stack, &database).set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "read");
    Flags::new(&group.topics).set(ENVIRONMENT, Flag::on("on"));
    let service = group.start("one");
    let operator = Operator::of(&service);
    let wrong = br#"{"request_id":"mended","flag_name":"on","user_id":["u-1"],"environment":"production"}"#;
    Sender::new(&stack.kafka).send(&group.topics.requests, None, Some(b"u-1"), wrong, None);
    let listed = wait_for("the dead letter", TEST_TIMEOUT, || {
        let list = operator.list("/api/v1/dead-letters", "?code=INVALID_FIELD");
        list["dead_letters"].as_array().unwrap().first().cloned()
    });
    assert_eq!(listed["body"].as_str().map(str::as_bytes), Some(&wrong[..]), "{listed:#}");
    let (partition, offset) = (&listed["partition"], &listed["offset"]);
    let one = operator
        .get("/api/v1/dead-letters/{position}", &format!("/api/v1/dead-letters/{partition}-{offset}"));
    assert_eq!(one["code"], "INVALID_FIELD");
    let anonymous = call("GET", &format!("{}/api/v1/dead-letters", service.url), &[], b"");
    assert_eq!(anonymous.json()["dead_letters"][0]["body"], Value::Null, "{anonymous:?}");

    let replay = |body: Option<&str>, dry_run: bool, headers: &[(&str, &str)]| {
        let mut item = json!({"partition": partition, "offset": offset});
        if let Some(body) = body {
            item["body"] = json!(body);
        }
        let asked = json!({"items": [item], "dry_run": dry_run});
        operator.call("POST", "/api/v1/dead-letters/replay", Some(&asked), headers)
    };
    let reason = [("x-change-reason", "the client sent a list")];
    assert_eq!(replay(None, false, &[]).status, 422, "a reason is required");
    let kept = replay(None, true, &[]);
    operator.document.check("POST", "/api/v1/dead-letters/replay", &kept);
    assert_eq!(kept.json()["outcomes"][0]["reason"], "still_refused", "{kept:?}");
    let mended = r#"{"request_id":"mended","flag_name":"on","user_id":"u-1","environment":"production"}"#;
    assert_eq!(replay(Some(mended), true, &[]).json()["outcomes"][0]["state"], "ready");
    let sent = replay(Some(mended), false, &reason);
    assert_eq!(sent.json()["outcomes"][0]["state"], "sent", "{sent:?}");
    let mut events = TopicReader::open(&stack.kafka, &group.topics.events);
    let event = events.wait("its event", TEST_TIMEOUT, |event| event.json()["request_id"] == "mended");
    assert_eq!(event.json()["typed_value"], true);

    let activity = wait_for("the note", TEST_TIMEOUT, || {
        let list = operator.list("/api/v1/activity", "?kind=dead_letter");
        list["changes"].as_array().unwrap().first().cloned()
    });
    assert_eq!(activity["reason"], "the client sent a list", "{activity:#}");
}

#[test]
fn a_replay_over_http_tells_the_same_as_the_command() {
    let (stack, _shared) = Stack::shared();
    let database = Database::create(stack);
    let group = group(stack, &database);
    Flags::new(&group.topics).set(ENVIRONMENT, Flag::on("plain"));
    let service = group.start("one");
    let operator = Operator::of(&service);
    wait_until("the flag", TEST_TIMEOUT, || operator.evaluate("plain", "u", &json!({}))["enabled"] == true);
    (0..60).for_each(|number| drop(operator.evaluate("plain", &format!("u-{number}"), &json!({}))));
    let evaluated = service.metrics().sum("flagstream_evaluations_total", &[]) as i64;
    wait_for_rows(&database, evaluated);

    let proposed =
        json!({"name": "plain", "environment": ENVIRONMENT, "is_enabled": true, "rollout_percentage": "50"});
    let started = operator.call("POST", "/api/v1/replays", Some(&json!({"with": proposed})), &[]);
    assert_eq!(started.status, 202, "{started:?}");
    operator.document.check("POST", "/api/v1/replays", &started);
    let path = format!("/api/v1/replays/{}", started.json()["id"].as_str().unwrap());
    let done = wait_for("the replay", TEST_TIMEOUT, || {
        let replay = operator.get("/api/v1/replays/{id}", &path);
        assert_ne!(replay["state"], "failed", "{replay:#}");
        (replay["state"] == "done").then_some(replay)
    });
    std::fs::write(group.folder.path().join("plain.json"), proposed.to_string()).unwrap();
    let arguments = ["replay", "--from", "1h", "--with", "plain.json", "--output", "json"];
    let output = flagstream(group.folder.path(), &arguments, group.settings());
    let of_command: Value = serde_json::from_slice(&output.stdout).unwrap();
    for member in ["evaluations", "different", "same", "users"] {
        assert_eq!(done["report"][member], of_command[member], "{member}: {done:#}\n{of_command:#}");
    }
    assert!(done["report"]["different"].as_i64().unwrap() > 0);
    assert_eq!(operator.list("/api/v1/replays", "")["replays"][0]["id"], done["id"]);
    assert_eq!(operator.call("DELETE", &path, None, &[]).status, 204);
    assert_eq!(operator.call("GET", "/api/v1/replays/unknown", None, &[]).status, 404);
}

#[test]
fn an_explanation_names_the_constraint_and_the_parent_and_a_proxy_names_the_person() {
    let (stack, _shared) = Stack::shared();
    let database = Database::create(stack);
    let group = group(stack, &database)
        .set("FLAGSTREAM_AUTH__USER_HEADER", "X-Forwarded-User")
        .set("FLAGSTREAM_AUTH__TRUSTED_PROXIES", "127.0.0.1");
    let mut flags = Flags::new(&group.topics);
    flags.set(ENVIRONMENT, Flag::on("gold").where_in("plan", &["gold"]));
    flags.set(ENVIRONMENT, Flag::off("parent"));
    let child = json!({"name": "child", "enabled": true, "strategies": [{"name": "default"}],
        "dependencies": [{"feature": "parent", "enabled": true}]});
    let last = flags.set(ENVIRONMENT, Flag::on("child").body(child));
    let service = group.start("one");
    wait_until("flags", TEST_TIMEOUT, || {
        service.metrics().sum("flagstream_store_version", &[]) >= last as f64
    });
    let operator = Operator::of(&service);
    let explained = |flag: &str| {
        let body = json!({"flag_name": flag, "user_id": "u", "environment": ENVIRONMENT, "context": {"plan": "silver"}});
        let answer = operator.call("POST", &format!("{EVALUATE}?explain=true"), Some(&body), &[]);
        assert_eq!(answer.status, 200, "{answer:?}");
        operator.document.check("POST", EVALUATE, &answer);
        answer.json()["explanation"].to_string()
    };
    let gold = explained("gold");
    assert!(gold.contains("plan") && gold.contains("silver"), "{gold}");
    let child = explained("child");
    assert!(child.contains("parent"), "{child}");

    let flag = json!({"name": "by-ada", "environment": ENVIRONMENT, "is_enabled": true});
    let headers = [("x-forwarded-user", "ada"), ("x-change-reason", "as Ada says")];
    let made = operator.call("POST", "/api/v1/feature-flags", Some(&flag), &headers);
    assert_eq!(made.status, 201, "{made:?}");
    let found = operator.list("/api/v1/activity", "?actor=ada");
    let actor = found["changes"][0]["actor"].as_str().unwrap_or_default();
    assert!(actor.starts_with("user:ada"), "{found:#}");
    let me = operator.call("GET", "/api/v1/me", None, &[("x-forwarded-user", "ada")]);
    operator.document.check("GET", "/api/v1/me", &me);
    assert_eq!(me.json()["person"], "ada");
}
