//! Kill switches: every call with good and bad input, expiry, and each failure in the middle of one.

mod faults;

use std::io::Write;
use std::net::TcpStream;

use chrono::SubsecRound;
use serde_json::{Value, json};

use crate::harness::{
    Answer, Database, Flag, Flags, Group, HEALTH_TOKEN, OpenApiValidator, Redis, Sender, Service, Stack,
    TEST_TIMEOUT, TopicReader, call, flagstream, get, post, wait_for, wait_until,
};

const ENVIRONMENT: &str = "development";
const KILL: &str = "/api/v1/feature-flags/{name}/kill";
const RESTORE: &str = "/api/v1/feature-flags/{name}/restore";
const CHANGES: &str = "/api/v1/feature-flags/{name}/changes";

/// Instances with a database, and the flags `plain`, `theme` and `child` in force.
struct Fixture {
    group: Group,
    database: Database,
}

impl Fixture {
    fn new(stack: &Stack) -> Self {
        let database = Database::create(stack);
        let group = Group::new(stack)
            .set("DATABASE_URL", &database.url)
            .set("UNLEASH_ENVIRONMENT", ENVIRONMENT)
            .set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate,read,write,delete")
            .set("FLAGSTREAM_DELIVERY__SESSION_TIMEOUT", "2s");
        let mut flags = Flags::new(&group.topics);
        flags.set(ENVIRONMENT, Flag::on("plain"));
        flags.set(ENVIRONMENT, Flag::on("theme").variant("dark", Some(("string", "dark"))));
        let child = json!({"name": "child", "enabled": true, "strategies": [],
            "dependencies": [{"feature": "plain", "enabled": true}]});
        flags.set(ENVIRONMENT, Flag::on("child").body(child));
        Self { group, database }
    }

    /// Reads `topic`, one of this fixture's, from its beginning.
    fn tap(&self, topic: impl FnOnce(&crate::harness::Topics) -> &String) -> TopicReader {
        let topics = &self.group.topics;
        TopicReader::open(&topics.kafka, topic(topics))
    }
}

fn address(service: &Service, flag: &str, action: &str) -> String {
    format!("{}/api/v1/feature-flags/{flag}/{action}?environment={ENVIRONMENT}", service.url)
}

fn kill(service: &Service, flag: &str, body: &Value) -> Answer {
    post(&address(service, flag, "kill"), body)
}

fn restore(service: &Service, flag: &str, reason: &str) -> Answer {
    post(&address(service, flag, "restore"), &json!({"reason": reason}))
}

fn evaluate(service: &Service, flag: &str, default: &Value) -> Value {
    let body =
        json!({"flag_name": flag, "user_id": "u", "default_value": default, "environment": ENVIRONMENT});
    post(&format!("{}/api/v1/feature-flags/evaluate", service.url), &body).json()
}

fn is_on(service: &Service, flag: &str) -> bool {
    evaluate(service, flag, &json!(false))["enabled"] == true
}

/// The change log from the API, newest first.
fn changes(service: &Service, flag: &str) -> Vec<Value> {
    let answer = call("GET", &address(service, flag, "changes"), &[], b"");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json().as_array().unwrap().clone()
}

/// Changes of the kill switch, oldest first: action, actor, reason.
fn turns(service: &Service, flag: &str) -> Vec<(String, String, String)> {
    let of_switch = changes(service, flag).into_iter().rev().filter(|change| change["source"] == "override");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    of_switch
        .map(|change| (text(&change["action"]), text(&change["actor"]), text(&change["reason"])))
        .collect()
}

#[test]
fn the_change_log_has_a_switch_before_the_sink_has_written_it_and_only_once_after() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    let mut service = fixture.group.prepare("one").roles("evaluator,feeder,api");
    service.spawn();
    service.wait_until_ready();
    kill(&service, "plain", &json!({"reason": "it burns"}));
    kill(&service, "plain", &json!({"reason": "it still burns"}));
    restore(&service, "plain", "put out");
    kill(&service, "theme", &json!({"reason": "unreadable"}));
    let [early, other] = ["plain", "theme"].map(|flag| changes(&service, flag));
    let shown = early.iter().filter(|change| change["source"] == "override");
    let shown: Vec<_> = shown.map(|change| (&change["action"], &change["reason"])).collect();
    let expected = [("restored", "put out"), ("killed", "it still burns"), ("killed", "it burns")]
        .map(|(a, b)| (json!(a), json!(b)));
    assert_eq!(shown, expected.each_ref().map(|(action, reason)| (action, reason)));
    assert_eq!((&early[0]["before"]["reason"], &early[0]["after"]), (&json!("it still burns"), &Value::Null));
    assert_eq!(
        (&early[1]["before"]["reason"], &early[1]["after"]["reason"]),
        (&json!("it burns"), &json!("it still burns"))
    );
    assert_eq!(other.iter().filter(|change| change["source"] == "override").count(), 1);

    let written =
        || fixture.database.number("SELECT count(*) FROM feature_flag_changes WHERE change_id IS NOT NULL");
    assert_eq!(written(), Some(0), "there is no sink");
    let _sink = fixture.group.start("two");
    wait_until("the sink has written them", TEST_TIMEOUT, || written() == Some(4));
    assert_eq!(
        [changes(&service, "plain"), changes(&service, "theme")].map(of_switch),
        [early, other].map(of_switch)
    );
}

fn of_switch(changes: Vec<Value>) -> Vec<Value> {
    changes.into_iter().filter(|change| change["source"] == "override").collect()
}

#[test]
fn a_killed_flag_is_off_wherever_it_is_asked_for_until_it_is_restored() {
    let (stack, _shared) = Stack::shared();
    let redis = Redis::database(stack);
    let mut fixture = Fixture::new(stack);
    fixture.group = fixture.group.set("REDIS_URL", &redis.url);
    let service = fixture.group.start("one");
    let contract = OpenApiValidator::of(&service.url);
    assert!(["plain", "theme", "child"].into_iter().all(|flag| is_on(&service, flag)));
    let warm = format!("ff_eval:{ENVIRONMENT}:plain:u");
    // The warmer may join after the first evaluations.
    wait_until("warm", TEST_TIMEOUT, || {
        is_on(&service, "plain") && redis.get(&warm).is_some_and(|value| value["enabled"] == true)
    });
    let before = evaluate(&service, "plain", &json!(false))["flag_version"].as_u64().unwrap();

    let killed = kill(&service, "plain", &json!({"reason": "it burns"}));
    contract.check("POST", KILL, &killed);
    assert_eq!(killed.status, 200, "{killed:?}");
    let killed = killed.json();
    let version = killed["version"].as_u64().unwrap();
    assert!(version > before && killed["killed"] == true && killed["in_force"] == true, "{killed}");
    assert_eq!(killed["kill_switch"]["reason"], "it burns");

    // Over HTTP, whatever is asked, and what depends on it.
    let plain = evaluate(&service, "plain", &json!(true));
    assert_eq!((&plain["value"], &plain["enabled"]), (&json!(false), &json!(false)), "{plain}");
    assert_eq!((&plain["reason"], &plain["killed"]), (&json!("DISABLED"), &json!(true)), "{plain}");
    assert_eq!((&plain["error_code"], plain["flag_version"].as_u64()), (&Value::Null, Some(version)));
    let child = evaluate(&service, "child", &json!(true));
    assert_eq!(
        (&child["value"], &child["reason"], &child["killed"]),
        (&json!(false), &json!("DEFAULT"), &Value::Null)
    );
    assert_eq!(kill(&service, "theme", &json!({"reason": "ugly"})).status, 200);
    let theme = evaluate(&service, "theme", &json!("light"));
    assert_eq!(
        (&theme["value"], &theme["variant"], &theme["reason"]),
        (&json!("light"), &Value::Null, &json!("DISABLED"))
    );
    let ofrep = |flag: &str| {
        post(&format!("{}/ofrep/v1/evaluate/flags/{flag}", service.url), &json!({"context": {}}))
    };
    let told = ofrep("plain");
    contract.check("POST", "/ofrep/v1/evaluate/flags/{key}", &told);
    let told = told.json();
    assert_eq!((&told["value"], &told["reason"]), (&json!(false), &json!("DISABLED")), "{told}");
    assert_eq!(told["metadata"]["killed"], true);
    assert_eq!(
        (ofrep("theme").json()["reason"].as_str(), ofrep("theme").json().get("value")),
        (Some("DISABLED"), None)
    );

    // As a request in Kafka, and in Redis.
    let topics = &fixture.group.topics;
    let request =
        json!({"request_id": "r-1", "flag_name": "plain", "user_id": "u", "environment": ENVIRONMENT});
    Sender::new(&topics.kafka).send(&topics.requests, None, Some(b"u"), request.to_string().as_bytes(), None);
    let mut events = fixture.tap(|topics| &topics.events);
    let event = events.wait("the event", TEST_TIMEOUT, |record| record.json()["request_id"] == "r-1").json();
    assert_eq!(
        (&event["value"], &event["reason"], &event["killed"]),
        (&json!("false"), &json!("DISABLED"), &json!(true))
    );
    redis.wait(&warm, |value| value["enabled"] == false && value["flag_version"] == version);

    // In every listing.
    let shown = call(
        "GET",
        &format!("{}/api/v1/feature-flags/plain?environment={ENVIRONMENT}", service.url),
        &[],
        b"",
    );
    contract.check("GET", "/api/v1/feature-flags/{name}", &shown);
    assert_eq!(
        (&shown.json()["kill_switch"]["reason"], &shown.json()["version"]),
        (&json!("it burns"), &json!(version))
    );
    let listed =
        call("GET", &format!("{}/api/v1/feature-flags?environment={ENVIRONMENT}", service.url), &[], b"");
    contract.check("GET", "/api/v1/feature-flags", &listed);
    let listed = listed.json();
    let of = |name: &str| {
        listed["items"].as_array().unwrap().iter().find(|item| item["name"] == name).unwrap().clone()
    };
    assert!(of("plain")["kill_switch"].is_object() && of("child")["kill_switch"].is_null(), "{listed}");
    let edge = call("GET", &format!("{}/flags?environment={ENVIRONMENT}", service.url), &[], b"");
    contract.check("GET", "/flags", &edge);
    let edge = edge.json()["flags"]
        .as_array()
        .unwrap()
        .iter()
        .find(|flag| flag["flag_name"] == "plain")
        .unwrap()
        .clone();
    assert_eq!((&edge["enabled"], &edge["killed"]), (&json!(false), &json!(true)));

    // A second kill replaces the reason. Whatever the definition contains meanwhile, and whatever version it has, the
    // flag stays off, and a change of the definition is announced with a higher version.
    let again = kill(&service, "plain", &json!({"reason": "still burns"})).json();
    assert!(again["version"].as_u64() > Some(version), "{again}");
    let again = again["version"].as_u64().unwrap();
    Flags::new(topics).later(1_000).set(ENVIRONMENT, Flag::on("plain").where_in("userId", &["u"]));
    let mut updates = fixture.tap(|topics| &topics.updates);
    let renewed = updates.wait("renewed", TEST_TIMEOUT, |record| {
        record.json()["flag_name"] == "plain" && record.json()["version"].as_u64() > Some(again)
    });
    let renewed = renewed.json()["version"].as_u64().unwrap();
    wait_until("renewed here", TEST_TIMEOUT, || {
        evaluate(&service, "plain", &json!(true))["flag_version"] == renewed
    });
    assert!(!is_on(&service, "plain"));

    let restored = restore(&service, "plain", "fixed");
    contract.check("POST", RESTORE, &restored);
    assert_eq!((restored.status, &restored.json()["kill_switch"]), (200, &Value::Null), "{restored:?}");
    assert!(is_on(&service, "plain") && is_on(&service, "child"));
    assert!(restored.json()["version"].as_u64() > Some(renewed));
    redis.wait(&warm, |value| value["enabled"] == true);
    let log = wait_for("the change log", TEST_TIMEOUT, || {
        Some(turns(&service, "plain")).filter(|turns| turns.len() == 3)
    });
    let expected = [("killed", "it burns"), ("killed", "still burns"), ("restored", "fixed")];
    for ((action, actor, reason), expected) in log.iter().zip(expected) {
        assert_eq!((action.as_str(), reason.as_str()), expected);
        assert_eq!(actor, "anonymous");
    }
    // And each definition that came from elsewhere, as soon as the sink has written it.
    let log = wait_for("the definitions in the change log", TEST_TIMEOUT, || {
        let answer = call("GET", &address(&service, "plain", "changes"), &[], b"");
        contract.check("GET", CHANGES, &answer);
        let log = answer.json();
        let is_foreign = |change: &&Value| change["source"] == "unleash";
        (log.as_array().unwrap().iter().filter(is_foreign).count() == 2).then_some(log)
    });
    let last = &log[0];
    assert_eq!((&last["before"]["reason"], &last["after"]), (&json!("still burns"), &Value::Null), "{log}");
    let seen: Vec<_> =
        log.as_array().unwrap().iter().filter(|change| change["source"] == "unleash").collect();
    assert_eq!((&seen[0]["action"], &seen[1]["action"]), (&json!("updated"), &json!("created")));
    assert_eq!(seen[0]["before"], seen[1]["after"]);
}

#[test]
fn bad_input_names_what_is_wrong_and_turns_nothing() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    let service = fixture.group.start("one");
    let contract = OpenApiValidator::of(&service.url);
    let long = "x".repeat(1_001);
    for (body, status, field) in [
        (json!({}), 422, "reason"),
        (json!({"reason": "  "}), 422, "reason"),
        (json!({"reason": 7}), 400, "reason"),
        (json!({"reason": long}), 422, "reason"),
        (json!({"reason": "r", "expires_at": "soon"}), 422, "expires_at"),
        (json!({"reason": "r", "expires_at": 5}), 400, "expires_at"),
        (json!({"reason": "r", "expires_at": "2020-01-01T00:00:00Z"}), 422, "expires_at"),
        (json!({"reason": "r", "expire_at": "2099-01-01T00:00:00Z"}), 422, "expire_at"),
        (json!(["r"]), 400, "body"),
    ] {
        let answer = kill(&service, "plain", &body);
        contract.check("POST", KILL, &answer);
        assert_eq!(
            (answer.status, &answer.json()["errors"][0]["field"]),
            (status, &json!(field)),
            "{body}: {answer:?}"
        );
    }
    let json_type = ("content-type", "application/json");
    let kill_url = address(&service, "plain", "kill");
    let raw =
        |url: &str, headers: &[(&str, &str)], body: &str| call("POST", url, headers, body.as_bytes()).status;
    assert_eq!(raw(&kill_url, &[json_type], "{"), 400);
    assert_eq!(raw(&kill_url, &[("x-change-reason", "r")], ""), 415);
    assert_eq!(raw(kill_url.split('?').next().unwrap(), &[json_type, ("x-change-reason", "r")], ""), 422);
    assert_eq!(kill(&service, "nobody", &json!({"reason": "r"})).status, 404);
    assert_eq!(restore(&service, "nobody", "r").status, 404);
    let restored = restore(&service, "plain", "r");
    contract.check("POST", RESTORE, &restored);
    assert_eq!(restored.status, 409, "{restored:?}");
    let expiring = post(
        &address(&service, "plain", "restore"),
        &json!({"reason": "r", "expires_at": "2099-01-01T00:00:00Z"}),
    );
    assert_eq!((expiring.status, &expiring.json()["errors"][0]["field"]), (422, &json!("expires_at")));
    assert!(is_on(&service, "plain"));

    // The header will do, and the command line says the same.
    assert_eq!(raw(&kill_url, &[json_type, ("x-change-reason", "by header")], ""), 200);
    assert!(!is_on(&service, "plain"));
    let mut settings = fixture.group.settings();
    settings.retain(|(name, _)| name != "FLAGSTREAM_HTTP__LISTEN");
    let run = |arguments: &[&str]| {
        let mut all = vec!["flags"];
        all.extend(arguments);
        all.extend(["--url", &service.url]);
        let output = flagstream(fixture.group.folder.path(), &all, settings.clone());
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, text) = run(&["restore", "plain", "--reason", "by hand"]);
    assert!(code == Some(0) && text.starts_with("plain in development is restored, version "), "{text}");
    assert!(is_on(&service, "plain"));
    let (code, text) = run(&["kill", "plain", "--reason", "by hand", "--for", "1h"]);
    assert!(code == Some(0) && text.starts_with("plain in development is killed until "), "{text}");
    assert!(!is_on(&service, "plain"));
    let (code, text) = run(&["kill", "nobody", "--reason", "r", "--output", "json"]);
    assert!(code == Some(1) && text.contains("404"), "{text}");
    assert_eq!(run(&["kill", "plain", "--reason", "r", "--for", "never"]).0, Some(2));
    assert_eq!(run(&["kill", "plain"]).0, Some(2));
    wait_until("the change log", TEST_TIMEOUT, || turns(&service, "plain").len() == 3);
}

#[test]
fn a_switch_expires_by_itself_at_its_time_everywhere() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::new(stack);
    let (one, two) = (fixture.group.start("one"), fixture.group.start("two"));
    // In whole milliseconds, the precision of `evaluated_at`, with which it is compared.
    let expires_at = (chrono::Utc::now() + chrono::TimeDelta::seconds(6)).trunc_subsecs(3);
    let killed =
        kill(&one, "plain", &json!({"reason": "for a while", "expires_at": expires_at.to_rfc3339()})).json();
    let version = killed["version"].as_u64().unwrap();
    wait_until("killed at both", TEST_TIMEOUT, || !is_on(&one, "plain") && !is_on(&two, "plain"));
    // Each answer is right for the time that it names, on both sides of the expiry; no other instance is involved.
    let mut sides = [0, 0];
    wait_until("announced", TEST_TIMEOUT, || {
        let mut done = true;
        for service in [&one, &two] {
            let answer = evaluate(service, "plain", &json!(false));
            let at: chrono::DateTime<chrono::Utc> = answer["evaluated_at"].as_str().unwrap().parse().unwrap();
            assert_eq!(answer["enabled"], at >= expires_at, "{expires_at}: {answer}");
            sides[usize::from(at >= expires_at)] += 1;
            done &= answer["flag_version"].as_u64() > Some(version);
        }
        done
    });
    assert!(sides.iter().all(|answers| *answers > 0), "{sides:?}");
    let log = wait_for("the change log", TEST_TIMEOUT, || {
        Some(turns(&one, "plain")).filter(|turns| turns.len() == 2)
    });
    assert_eq!((log[1].0.as_str(), log[1].1.as_str()), ("expired", "flagstream"));
    // The expiry is recorded once, although both instances check for it.
    let mut updates = fixture.tap(|topics| &topics.updates);
    assert_eq!(kill(&one, "theme", &json!({"reason": "r"})).status, 200);
    updates.wait("the other flag", TEST_TIMEOUT, |record| record.json()["flag_name"] == "theme");
    let told: Vec<u64> = updates
        .seen
        .iter()
        .map(|record| record.json())
        .filter(|change| change["flag_name"] == "plain")
        .map(|change| change["version"].as_u64().unwrap())
        .collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0] == version && told[1] > version, "{told:?}");
    assert_eq!(restore(&two, "plain", "r").status, 409);
}

/// Limit of calls that are answered at the same time.
const SLOW_CALLS: usize = 1_024;

#[test]
fn a_flag_is_killed_while_a_thousand_bodies_do_not_arrive() {
    let (stack, _shared) = Stack::shared();
    let mut fixture = Fixture::new(stack);
    fixture.group = fixture.group.set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate");
    let service = fixture.group.start("one");
    assert!(is_on(&service, "plain"));
    let address_of_service = service.url.trim_start_matches("http://");
    let beginning = "POST /api/v1/feature-flags/evaluate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
        Content-Length: 99\r\n\r\n{";
    let slow: Vec<TcpStream> = (0..SLOW_CALLS)
        .map(|_| {
            let mut stream = TcpStream::connect(address_of_service).unwrap();
            stream.write_all(beginning.as_bytes()).unwrap();
            stream
        })
        .collect();
    let body = json!({"reason": "it burns"}).to_string();
    let token = format!("Bearer {HEALTH_TOKEN}");
    let headers = [("authorization", token.as_str()), ("content-type", "application/json")];
    let killed = call("POST", &address(&service, "plain", "kill"), &headers, body.as_bytes());
    assert_eq!(killed.status, 200, "{killed:?}");
    // The other calls are answered as well, and callers without permission kill no flag.
    assert!(!is_on(&service, "plain"));
    assert_eq!(restore(&service, "plain", "no").status, 401);
    assert_eq!(get(&format!("{}/health/live", service.url)).unwrap().0, 200);
    drop(slow);
}
